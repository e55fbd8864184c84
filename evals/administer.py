"""python -m evals.administer: ask a respondent every question of a design, once, into a long table.

Works the same for local models, models behind a server and simulated respondents: questionnaires, behavioral
tasks, scripted dialogues, verdicts and the report.
"""

import math
from pathlib import Path
from typing import Annotated, Any, get_args

import pandas as pd
import typer
from rich.console import Console

from evals.faithfulness.precision import WIDTH, expected_precision, told
from evals.faithfulness.report import write_report
from evals.faithfulness.run_card import cost_told
from evals.faithfulness.study import FaithfulnessStudy
from evals.models.api_client import is_address
from evals.questionnaires import behaviors, dialogues, planned_behavior, wording
from evals.questionnaires.administration import MODEL_BLOCK, administer, limits_told
from evals.questionnaires.design import PUBLISHED, Design, battery
from evals.questionnaires.given_names import given_instrument, given_personas
from evals.questionnaires.judge import JudgedRespondent
from evals.questionnaires.respondent import Respondent, settings_of
from evals.questionnaires.respondents.api_scoring import Route
from evals.questionnaires.respondents.api_server import Answers, ServerConfig, check_numbers
from evals.questionnaires.respondents.simulated import RULES, simulated_respondent
from jaxmoe.given_paths import check_writable, given
from jaxmoe.progress import ProgressDisplay, say

# texts that the engine decodes at a time
SLOTS = 32
# enough for one line of a dialogue
LINE_TOKENS = 60

# tracebacks must not show local variables: one of them may be a server's key
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="where answers are written, and resumed from")],
    instrument: Annotated[list[str], typer.Option(help="shipped instrument, or path; repeat for several")],
    respondent: Annotated[
        str,
        typer.Option(
            help="a model folder or hub id, http(s)://.../v1, or simulated: null:NAME (null:random)"
        ),
    ] = "null:faithful",
    model: Annotated[str, typer.Option(help="name of the model on the server")] = "",
    name: Annotated[str, typer.Option(help="the respondent's name in tables; its own name if left out")] = "",
    answers: Annotated[
        str, typer.Option(help="label or words (log-probabilities), or written; servers default to written")
    ] = "",
    route: Annotated[
        str, typer.Option(help="endpoint for a server's log-probabilities: chat or completions")
    ] = "chat",
    calibrated: Annotated[
        bool, typer.Option(help="divide by the options' probability when nothing is asked")
    ] = False,
    form: Annotated[
        str, typer.Option(help="prompt form for a local model: text, instruction or chat")
    ] = "text",
    decoding: Annotated[
        str,
        typer.Option(help="how a local model writes: batches, or engine (faster where lengths vary widely)"),
    ] = "batches",
    template: Annotated[
        list[str] | None, typer.Option(help="template; repeat for several; all if left out")
    ] = None,
    option_order: Annotated[list[str] | None, typer.Option(help="forward, reversed, shuffled-N")] = None,
    item_order: Annotated[list[str] | None, typer.Option(help="forward, reversed, shuffled-N")] = None,
    item_wording: Annotated[
        list[str] | None,
        typer.Option(
            help="published or paraphrased; repeat for both: with one alone, memorized answers do not show"
        ),
    ] = None,
    personas: Annotated[
        str,
        typer.Option(
            help="none, people, a number of composed personas (up to 32), graded-N or twins-N (up to 512), "
            "or a JSON file"
        ),
    ] = "none",
    seeds: Annotated[int, typer.Option(help="repetitions, each with its own seed")] = 1,
    items_per_prompt: Annotated[int, typer.Option(help="statements listed in each prompt")] = 1,
    task: Annotated[
        list[str] | None, typer.Option(help="family of behavioral tasks, such as conduct; repeat for several")
    ] = None,
    task_count: Annotated[int, typer.Option(help="scenarios per family")] = 6,
    write_dialogues: Annotated[
        bool, typer.Option("--dialogues", help="also collect replies in scripted dialogues, rated by rules")
    ] = False,
    intentions: Annotated[
        bool,
        typer.Option(
            "--intentions",
            help="also elicit the behaviors that --instrument planned_behavior asks about, in the same "
            "conversation and in another; written to FOLDER/planned.csv",
        ),
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="write verdicts and a report to FOLDER")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="only print how many questions and how precise; ask nothing")
    ] = False,
    width: Annotated[
        float, typer.Option(help="interval width for which to print how many persons it takes")
    ] = WIDTH,
    temperature: Annotated[float, typer.Option(help="sampling temperature of written answers")] = 1.0,
    max_new_tokens: Annotated[
        int, typer.Option(help="most for a written answer, thoughts included; reasoning takes thousands")
    ] = 16,
    tokens_name: Annotated[
        str, typer.Option(help="max_tokens, or max_completion_tokens where the server wants that")
    ] = "max_tokens",
    key_variable: Annotated[
        str, typer.Option(help="environment variable that holds the key")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="concurrent requests")] = 8,
    cost_ceiling: Annotated[
        float | None,
        typer.Option(help="most to spend on this folder, respondent and judge together, over all sessions"),
    ] = None,
    prompt_price: Annotated[float, typer.Option(help="price of a million prompt tokens")] = 0.0,
    completion_price: Annotated[float, typer.Option(help="price of a million completion tokens")] = 0.0,
    judge: Annotated[
        str, typer.Option(help="http(s)://.../v1 of a model that reads what rules cannot; none if left out")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="the judge's name on its server")] = "",
    judge_key_variable: Annotated[
        str, typer.Option(help="environment variable that holds the judge's key")
    ] = "OPENAI_API_KEY",
    judge_prompt_price: Annotated[float, typer.Option(help="the judge's price, as above")] = 0.0,
    judge_completion_price: Annotated[float, typer.Option(help="the judge's price, as above")] = 0.0,
) -> None:
    """Asks a respondent every question of a crossed design and writes FOLDER/responses.parquet.
    \f
    Args:
      folder: an administration that was killed resumes here; a different design is refused.
      respondent: decides which options apply: model, route, tokens_name, key_variable, concurrency and prices
        to a server, form and calibrated to a local model.
      write_dialogues: not for simulated respondents, which do not write.
      judge: reads written answers and the replies of intentions; if it fails, they stay unread.
    Raises: typer.Exit with status 2, after a line on stderr, for what is refused.
    """
    try:
        served = is_address(respondent)
        check_numbers(
            temperature=temperature,
            seeds=seeds,
            task_count=task_count,
            max_new_tokens=max_new_tokens,
            concurrency=concurrency,
        )
        if not 0 < width < math.inf:
            raise ValueError(f"width must be a finite number above 0; got {width:g}")
        _check_names(served, model, judge, judge_model)
        if respondent in RULES and not Path(respondent).exists():
            raise ValueError(f"--respondent {respondent}: the simulated respondent is null:{respondent}")
        check_writable("FOLDER", folder, "folder")
        people = given_personas("--personas", personas)
        design = Design(
            wording.named_templates(template),
            tuple(option_order or ["forward", "reversed"]),
            tuple(item_order or ["forward"]),
            people,
            tuple(range(seeds)),
            items_per_prompt,
            tuple(item_wording or [PUBLISHED]),
        )
        instruments = [given_instrument("--instrument", one) for one in instrument]
        batteries = [battery(one) for one in instruments]
        if task:
            batteries.append(behaviors.battery(task, task_count))
        count = len(design.personas)
        precision = told(expected_precision(instruments, count, width=width), count, width)
        say("\n".join([f"{sum(map(design.size, batteries))} questions", *precision]))
        if plan:
            return
        writer: dialogues.Writer | None = None
        how: Answers = "label"
        reader = None
        if judge:
            reader = ServerConfig(
                judge,
                judge_model,
                key_variable=judge_key_variable,
                prompt_price=judge_prompt_price,
                completion_price=judge_completion_price,
            ).judging(cost_ceiling)
        if respondent.startswith("null:"):
            who: Respondent = simulated_respondent(respondent.removeprefix("null:"))
        elif served:
            server = ServerConfig(
                respondent,
                model,
                _one_of("route", route, Route),
                key_variable,
                max_new_tokens,
                tokens_name,
                concurrency,
                cost_ceiling,
                prompt_price,
                completion_price,
            )
            if calibrated:
                raise ValueError("calibrated needs a local model; leave it out for a server")
            how = _one_of("answers", answers or "written", Answers)
            who = server.respondent(how, name, temperature)
            writer = server.client(name, temperature, LINE_TOKENS)
        else:
            how = _one_of("answers", answers or "label", Answers)
            who, writer = _local(
                respondent, name or respondent, form, decoding, how, calibrated, temperature, max_new_tokens
            )
        if (write_dialogues or intentions) and writer is None:
            option = "--dialogues" if write_dialogues else "--intentions"
            raise ValueError(f"{who.name} does not write; leave {option} out")
        if intentions and planned_behavior.INSTRUMENT not in {one.name for one in instruments}:
            raise ValueError(f"--intentions needs --instrument {planned_behavior.INSTRUMENT}")
        if reader is not None and how == "written":
            who = JudgedRespondent(who, reader)
        elif reader is not None and not intentions:
            raise ValueError("--judge reads written answers and --intentions; take --answers written")
        with ProgressDisplay() as display:
            asked = display.task("answers")
            asked(0, sum(map(design.size, batteries)))
            table = administer(who, batteries, design, folder, block=MODEL_BLOCK, progress=asked)
            replies: dict[str, pd.DataFrame] = {}
            if write_dialogues and writer is not None:
                told_of = display.task("dialogues")
                replies[who.name] = dialogues.kept(writer, design.personas, folder, progress=told_of)
            planned = pd.DataFrame()
            if intentions and writer is not None:
                told_of = display.task("behaviors")
                acts = planned_behavior.kept(
                    writer, design.personas, table, folder, judge=reader, progress=told_of
                )
                planned = planned_behavior.coherence(table, acts)
                planned.to_csv(folder / "planned.csv", index=False)
        if report:
            how_asked = {"asked by": answers or "default", **settings_of(who)}
            card = {**how_asked, **limits_told(folder), "cost": cost_told(folder)}
            study = FaithfulnessStudy(instruments, batteries, design)
            made = study.report({who.name: table}, card, replies=replies)
            if not planned.empty:
                made.conduct = pd.concat([made.conduct, planned], ignore_index=True)
            page = write_report(made, folder)
            typer.echo(f"report: {page}")
    except (ValueError, OSError) as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    refused = (table["refusal"] != "").mean()
    typer.echo(
        f"{len(table)} answers of {who.name} in {folder / 'responses.parquet'}, {refused:.1%} unreadable"
        + _judged(table)
    )


def _check_names(served: bool, model: str, judge: str, judge_model: str) -> None:
    """Raises: ValueError for a server without a model name, or a model name without a server."""
    if served and not model:
        raise ValueError("give --model, the model's name on the server")
    if model and not served:
        raise ValueError("--model names a model on a server; give --respondent http(s)://HOST/v1 with it")
    if judge and not judge_model:
        raise ValueError("give --judge-model, the judge's name on its server")
    if judge_model and not judge:
        raise ValueError("--judge-model needs --judge http(s)://HOST/v1")


def _one_of(what: str, value: str, kind: object) -> Any:  # a type checker does not follow get_args
    """The value, checked to be one of the Literal's."""
    known = get_args(kind)
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")
    return value


def _judged(table: pd.DataFrame) -> str:
    counts = table.loc[table["read_by"] != "", "read_by"].value_counts()
    return "".join(f"; {count} read by {name}" for name, count in counts.items())


def _local(
    source: str,
    name: str,
    form: str,
    decoding: str,
    answers: str,
    calibrated: bool,
    temperature: float,
    max_new_tokens: int,
) -> tuple[Respondent, dialogues.Writer]:
    # jax is imported only where there is a model
    import jaxmoe
    from evals.models.engine_texts import Decoding, engine_texts
    from evals.models.local_model import LocalModel
    from evals.models.model_identity import base_and_weights
    from evals.questionnaires.respondents.local_respondent import ScoringRespondent, WritingRespondent
    from jaxmoe.tokenizer import load_tokenizer

    decoded = _one_of("decoding", decoding, Decoding)
    with given("--respondent", source):
        lm = jaxmoe.load(source)
        tokenizer = load_tokenizer(source)
    engine = engine_texts(lm, decoded, SLOTS, lm.config.max_positions)
    text_model = LocalModel(lm, tokenizer, form, engine=engine)  # type: ignore[arg-type]
    base = base_and_weights(lm)
    most = max(max_new_tokens, LINE_TOKENS)
    writer = WritingRespondent(text_model, name, temperature, max_new_tokens=most)
    if answers == "written":
        return (
            WritingRespondent(text_model, name, temperature, max_new_tokens=max_new_tokens, base=base),
            writer,
        )
    length = "tokens" if answers == "words" else "none"
    return ScoringRespondent(text_model, name, answers, length, calibrated, base=base), writer  # type: ignore[arg-type]


if __name__ == "__main__":
    app()
