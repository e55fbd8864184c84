"""Continue prompts with a trained model or a checkpoint.

OUTPUT               prompts and continuations, whole or not at all
NAME.partial.jsonl   beside it: continuations as they are made, until all are; after a kill the same
                     command makes only those that are left
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from evals.models.model_identity import base_and_weights
from jaxmoe.datasets.formats import chat
from jaxmoe.datasets.formats.fields import refuse_media
from jaxmoe.datasets.json_rows import lines, read_json_rows, read_text
from jaxmoe.generation.sampling import Sampling
from jaxmoe.given_paths import check_writable, given
from jaxmoe.json_values import JsonObject
from jaxmoe.language_model import LanguageModel
from jaxmoe.model.quantized import QuantizedDtype
from jaxmoe.progress import ProgressDisplay, say
from jaxmoe.text.forms import Form, resolve_form
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.text.thinking import Thinking
from jaxmoe.tokenizer import decode_answer, encode_chat_prompt, encode_prompt, pad_id, plain_ids
from training.commands.export import open_model, read_run
from training.runtime import config as configs
from training.runtime import distributed
from training.runtime.atomic import write_whole
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.runtime.given_models import check_run_or_base
from training.runtime.journal import ItemJournal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# settings that change no answer; the prompts themselves are compared as token ids
FREE = ("output", "prompts", "prompts_file", "messages_file", "system", "form", "thinking", "distributed")
JOURNALED = "prompts"


@dataclass(frozen=True)
class GenerateConfig:
    """What to continue, and how.

    Attributes:
      run: output folder of a training run; or give base (and adapter) instead.
      step: checkpoint of the run; null takes the newest.
      base: checkpoint: a folder, .gguf file, named model or hub id.
      adapter: folder of an adapter for the base.
      prompts: texts to continue.
      prompts_file: file with one prompt per line.
      messages_file: conversations to continue, as JSON lines or a JSON list of {"messages": [...]}, with
        tools if there are any; the form is chat.
      system: system prompt before each prompt or conversation; the form is chat.
      form: auto takes the form of the run's training; with base, chat if the tokenizer has a chat template,
        else instruction. chat uses the chat template; instruction appends the end-of-sequence token to a
        prompt, as LoRAMoE does; text continues the text as it is.
      thinking: drop asks for an answer without thinking, template and keep do not; null does as the run was
        trained.
      max_new_tokens: longest continuation; a prompt that leaves fewer of the model's positions gets those.
      batch_size: prompts that are continued at a time; sampled answers depend on which prompts go together.
      temperature: 0 takes the likeliest token.
      top_k: sample only from this many of the likeliest tokens; 0 from all.
      top_p: sample from the smallest set of likeliest tokens that holds this probability.
      seed: of the sampler.
      experts: false generates with the base alone.
      dtype: of weights and products, with base.
      base_dtype: int8 and nf4 quantize the kernels of a base's attention and feed-forward; null holds them in
        dtype. A run keeps its own.
      output: JSON lines file for prompts and continuations; null only prints them. A command that was killed
        resumes, if it is repeated.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    messages_file: str | None = None
    system: str | None = None
    form: Form = "auto"
    thinking: Thinking | None = None
    max_new_tokens: int = 64
    batch_size: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    experts: bool = True
    dtype: str = "float32"
    base_dtype: QuantizedDtype | None = None
    output: str | None = None
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        check_run_or_base(self.run, self.step, self.base, adapter=self.adapter, base_dtype=self.base_dtype)
        if [bool(self.prompts), self.prompts_file is not None, self.messages_file is not None].count(
            True
        ) != 1:
            raise ValueError(
                'give one of prompts=["...", "..."], prompts_file (a prompt a line) and messages_file '
                "(a conversation a line)"
            )
        for key in ("max_new_tokens", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1; got {getattr(self, key)}")


def main(config: GenerateConfig) -> list[str]:
    """Prints each prompt with its continuation.

    Returns: the continuations as in the output file: with leading and trailing blanks, which are not printed.
    """
    distributed.start(config.distributed)
    if config.output is not None:
        check_writable("output", config.output, "file")
    if config.messages_file is not None:
        with given("messages_file", config.messages_file, "file"):
            questions = read_conversations(config.messages_file, config.system)
    else:
        prompts = config.prompts
        if config.prompts_file is not None:
            with given("prompts_file", config.prompts_file, "file"):
                prompts = read_prompts(Path(config.prompts_file))
        before = system_turn(config.system)
        questions = [ChatPrompt([*before, {"role": "user", "content": prompt}], []) for prompt in prompts]
    journal = _journal(config.output, configs.to_dict(config))
    lm, tokenizer = open_model(
        config.run,
        config.step,
        config.base,
        config.adapter,
        config.mesh.make(),
        config.dtype,
        config.base_dtype,
    )
    trained = None if config.run is None else read_run(Path(config.run))
    if trained is not None and config.form == "auto":
        form = resolve_form(tokenizer, trained.form, trained.plain_form)
    else:
        form = resolve_form(tokenizer, config.form)
    for key in ("messages_file", "system"):
        if getattr(config, key) is not None and form != "chat":
            raise ValueError(f"{key} needs the form chat; got form {form}")
    thinking = config.thinking or (trained.thinking if trained else "template")
    encoded = [encode(tokenizer, asked, form, thinking) for asked in questions]
    with journal or nullcontext():
        if journal is not None:
            journal.begin(base_and_weights(lm), encoded)
        answers = continued(
            lm,
            tokenizer,
            encoded,
            Sampling(config.temperature, config.top_k, config.top_p),
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            seed=config.seed,
            experts=config.experts,
            journal=journal,
        )
    if distributed.is_main():
        if config.form == "auto":
            print(f"form auto: {form}")
        for asked, answer in zip(questions, answers, strict=True):
            print(f"{asked.prompt}\n  -> {answer.strip()}")
        if config.output is not None:
            written = [
                asked.answered(answer) if config.messages_file else {"prompt": asked.prompt, "answer": answer}
                for asked, answer in zip(questions, answers, strict=True)
            ]
            _write_rows(Path(config.output), written)
    if journal is not None:
        journal.done()
    return answers


def _journal(output: str | None, settings: JsonObject) -> ItemJournal | None:
    """Where answers are kept as they are made; None if nothing is written, or to what is no file."""
    if output is None or (Path(output).exists() and not Path(output).is_file()):
        return None
    path = Path(output).resolve()  # of a link, the file that it leads to
    path = path.with_name(f"{path.stem}.partial.jsonl")
    binding = {key: value for key, value in settings.items() if key not in FREE}
    found = ItemJournal(path, binding, remedy="choose another output=..., or remove that file")
    if distributed.is_main() and found.found:
        say(f"{path}: answers of an earlier command that was stopped are kept: {found.found}")
    return found


def continued(
    lm: LanguageModel,
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[list[int]],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    experts: bool,
    journal: ItemJournal | None = None,
) -> list[str]:
    """Continues prompts batch by batch, those of like length together.

    Args:
      lm: the model.
      tokenizer: decodes the answers.
      rows: token ids of the prompts.
      sampling: how tokens are chosen.
      max_new_tokens: longest continuation.
      batch_size: prompts at a time.
      seed: of the sampler.
      experts: False generates with the base alone.
      journal: holds earlier answers, and is given new ones; None keeps none.
    Returns: the answers, in the order of the prompts.
    """
    ends, pad = stop_tokens(tokenizer, lm.stop_tokens), pad_id(tokenizer)
    limits = token_limits(rows, max_new_tokens, lm.config.longest_text)
    batches = by_length([len(row) for row in rows], batch_size)
    answers, done = [""] * len(rows), 0
    with ProgressDisplay(distributed.is_main() and len(batches) > 1) as display:
        report = display.task("prompts", len(rows))
        for number, batch in enumerate(batches):
            rows_kept = None if journal is None else journal.known(JOURNALED, done, len(batch))
            done += len(batch)
            if rows_kept is not None:
                for i, kept in zip(batch, rows_kept, strict=True):
                    answers[i] = kept["answer"]
                report(done, len(rows))
                continue
            tokens, mask = left_padded([rows[i] for i in batch], pad)
            made = lm.generate(
                tokens,
                mask,
                max_new_tokens=limits[batch],
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                key=_key_of_batch(seed, number) if sampling.temperature > 0 else None,
                stop_tokens=ends,
                experts=experts,
            )
            for i, row in zip(batch, made.tokens[:, tokens.shape[1] :], strict=True):
                answers[i] = decode_answer(tokenizer, row, ends)
            if journal is not None:
                journal.add({"set": JOURNALED, "prompt": i, "answer": answers[i]} for i in batch)
            report(done, len(rows))
    return answers


def _key_of_batch(seed: int, number: int) -> jax.Array:
    """The first batch has the seed's own key, so that few prompts are answered as they always were."""
    key = jax.random.key(seed)
    return jax.random.fold_in(key, number) if number else key


def by_length(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Prompts in batches of like length; the longest first, so that a lack of memory shows at once.

    Args:
      lengths: of the prompts.
      batch_size: most prompts in a batch.
    Returns: the prompts' numbers by batch, in their own order within each.

    >>> by_length([5, 9, 2, 7], 2)
    [[1, 3], [0, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [sorted(order[first : first + batch_size]) for first in range(0, len(order), batch_size)]


def _write_rows(path: Path, rows: list[JsonObject]) -> None:
    """JSON lines that replace an earlier file only when they are complete; a pipe gets them as they are."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_whole(path.resolve(), text)  # of a link, the file that it leads to


class ChatPrompt(NamedTuple):
    """A prompt for the model.

    Attributes:
      messages: of a chat; the last is the user's or a tool's.
      tools: JSON schemas of functions that the model may call.
    """

    messages: list[JsonObject]
    tools: list[JsonObject]

    @property
    def prompt(self) -> str:
        """What the last message says."""
        return self.messages[-1]["content"]

    def answered(self, answer: str) -> JsonObject:
        """The conversation with the answer, as a row to train on."""
        said = [*self.messages, {"role": "assistant", "content": answer}]
        return {"messages": said} | ({"tools": self.tools} if self.tools else {})


def system_turn(system: str | None) -> list[JsonObject]:
    """A system prompt as a turn; no turn for None."""
    return [] if system is None else [{"role": "system", "content": system}]


def read_conversations(file: str, system: str | None) -> list[ChatPrompt]:
    """The conversations of a file, each with the system prompt before it.

    Args:
      file: JSON lines or a JSON list of objects with messages.
      system: put before each; None for no system prompt.
    Returns: the conversations in order.
    Raises: ValueError, with file and row, for a row that is not a conversation the model can continue.
    """
    found = []
    for place, value in read_json_rows(Path(file)):
        try:
            found.append(_conversation(value, system_turn(system)))
        except ValueError as error:
            raise ValueError(f"{file}:{place}: {error}") from None
    if not found:
        raise ValueError(f"{file} holds no conversation (messages_file)")
    return found


def _conversation(row: object, before: list[JsonObject]) -> ChatPrompt:
    if not isinstance(row, dict) or "messages" not in row:
        raise ValueError("a conversation must be an object with messages")
    refuse_media(row)
    messages = chat.checked_messages(row["messages"])
    if messages[-1]["role"] not in ("user", "tool"):
        raise ValueError(f"the last message must be the user's or a tool's; got {messages[-1]['role']}")
    if before and messages[0]["role"] == "system":
        raise ValueError("the conversation has a system prompt of its own; leave system out")
    return ChatPrompt([*before, *messages], chat.checked_tools(row.get("tools")))


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises: ValueError if there are none.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file (prompts_file)")
    prompts = [line for _, line in lines(read_text(path))]
    if not prompts:
        raise ValueError(f"{path} holds no prompt (prompts_file)")
    return prompts


def encode(
    tokenizer: "PreTrainedTokenizerBase", asked: ChatPrompt, form: str, thinking: Thinking = "template"
) -> list[int]:
    """Token ids of a prompt, up to where the model continues.

    Args:
      asked: a conversation; forms other than chat take only its last message.
      form: chat applies the chat template, text takes the prompt as it is, anything else formats it as
        LoRAMoE's instruction.
      thinking: for chat; drop asks for an answer without thinking.
    Returns: token ids.
    Raises: ValueError for chat, if the tokenizer has no chat template.
    """
    match form:
        case "chat":
            return encode_chat_prompt(tokenizer, asked.messages, thinking=thinking, tools=asked.tools or None)
        case "text":
            return plain_ids(tokenizer, asked.prompt)
        case _:
            return encode_prompt(tokenizer, asked.prompt)


def token_limits(rows: list[list[int]], wanted: int, most: int | None) -> np.ndarray:
    """New tokens that each prompt may get: as many as are wanted and the model has positions for.

    Args:
      rows: token ids of P prompts.
      wanted: most new tokens.
      most: the model's longest text; None if it has no limit.
    Returns: limits [P].
    Raises: ValueError for a prompt that leaves no position, by its number from 1.
    """
    lengths = np.asarray([len(row) for row in rows])
    limits = np.full(len(rows), wanted) if most is None else np.minimum(wanted, most - lengths)
    if (limits < 1).any():
        number = int(lengths.argmax())
        raise ValueError(
            f"a prompt must leave room in the {most} positions of the model; prompt {number + 1} has "
            f"{lengths[number]} tokens: shorten it"
        )
    if (cut := int((limits < wanted).sum())) and distributed.is_main():
        said = f"max_new_tokens={wanted} goes beyond the {most} positions of the model"
        say(f"{said} after {cut} of {len(rows)} prompts: their answers end there")
    return limits


def left_padded(rows: list[list[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as one batch, padded on the left so that all end together.

    Args:
      rows: token ids of P prompts, the longest of T tokens.
      pad: token for padding.
    Returns: token ids [P, T] and mask [P, T], both int32; the mask is 0 on padding.
    """
    length = max(map(len, rows))
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, length - len(row) :], mask[i, length - len(row) :] = row, 1
    return tokens, mask
