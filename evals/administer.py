"""python -m evals.administer: ask a respondent every question of a design, once, into a long table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as RichProgress

from evals.questionnaires import wording
from evals.questionnaires.administration import administer
from evals.questionnaires.api_respondent import ApiRespondent
from evals.questionnaires.design import Design, battery
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.null_respondents import simulated_respondent
from evals.questionnaires.respondent import Respondent

# a traceback shows no local variables: one of them may be a server's key
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="where answers go, and resume from")],
    instrument: Annotated[list[str], typer.Option(help="shipped instruments, or paths; repeat the option")],
    respondent: Annotated[
        str, typer.Option(help="a model folder or hub id, http(s)://.../v1, or null:NAME")
    ] = "null:faithful",
    model: Annotated[str, typer.Option(help="name of the model on the server")] = "",
    answers: Annotated[str, typer.Option(help="label, words (log-probabilities) or written")] = "label",
    calibrated: Annotated[bool, typer.Option(help="divide by the options' bare probability")] = False,
    form: Annotated[str, typer.Option(help="of a local model: text, instruction or chat")] = "text",
    template: Annotated[list[str] | None, typer.Option(help="templates; all if left out")] = None,
    option_order: Annotated[list[str] | None, typer.Option(help="forward, reversed, shuffled-N")] = None,
    item_order: Annotated[list[str] | None, typer.Option(help="forward, reversed, shuffled-N")] = None,
    personas: Annotated[str, typer.Option(help="none, people, a number composed, or a JSON file")] = "none",
    seeds: Annotated[int, typer.Option(help="repetitions with other seeds")] = 1,
    items_per_prompt: Annotated[int, typer.Option(help="statements listed in each prompt")] = 1,
    temperature: Annotated[float, typer.Option(help="of written answers")] = 1.0,
    cost_ceiling: Annotated[float | None, typer.Option(help="most to spend on a server")] = None,
    prompt_price: Annotated[float, typer.Option(help="of a million tokens")] = 0.0,
    completion_price: Annotated[float, typer.Option(help="of a million tokens")] = 0.0,
) -> None:
    """Asks a respondent every question of a crossed design, into FOLDER/responses.parquet."""
    try:
        design = Design(
            wording.named_templates(template),
            tuple(option_order or ["forward", "reversed"]),
            tuple(item_order or ["forward"]),
            wording.chosen_personas(personas),
            tuple(range(seeds)),
            items_per_prompt,
        )
        batteries = [battery(load_instrument(name)) for name in instrument]
        if respondent.startswith("null:"):
            who: Respondent = simulated_respondent(respondent.removeprefix("null:"))
        elif respondent.startswith(("http://", "https://")):
            who = ApiRespondent(
                respondent,
                model,
                temperature,
                cost_ceiling=cost_ceiling,
                prompt_price=prompt_price,
                completion_price=completion_price,
            )
        else:
            who = _local(respondent, form, answers, calibrated, temperature)
        with RichProgress(console=Console(markup=False, emoji=False, stderr=True)) as shown:
            task = shown.add_task("answers", total=None)
            table = administer(
                who,
                batteries,
                design,
                folder,
                progress=lambda done, total: shown.update(task, completed=done, total=total),
            )
    except ValueError as error:
        Console(markup=False, emoji=False, stderr=True).print(
            f"error: {error}", style="red", markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    refused = (table["refusal"] != "").mean()
    typer.echo(
        f"{len(table)} answers of {who.name} in {folder / 'responses.parquet'}, {refused:.1%} unreadable"
    )


def _local(source: str, form: str, answers: str, calibrated: bool, temperature: float) -> Respondent:
    if answers not in ("label", "words", "written"):
        raise ValueError(f"answers must be label, words or written; got {answers!r}")
    # jax only where there is a model
    import jaxmoe
    from evals.models.local_model import LocalModel
    from evals.questionnaires.local_respondent import ScoringRespondent, WritingRespondent
    from jaxmoe.tokenizer import load_tokenizer

    text_model = LocalModel(jaxmoe.load(source), load_tokenizer(source), form)  # type: ignore[arg-type]
    if answers == "written":
        return WritingRespondent(text_model, source, temperature)
    length = "tokens" if answers == "words" else "none"
    return ScoringRespondent(text_model, source, answers, length, calibrated)  # type: ignore[arg-type]


if __name__ == "__main__":
    app()
