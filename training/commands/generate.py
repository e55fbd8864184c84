"""Continue prompts with a trained model or a checkpoint."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxmoe.datasets.json_rows import lines, read_text
from jaxmoe.text.forms import Form, resolve_form
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.text.thinking import Thinking
from jaxmoe.tokenizer import decode_answer, encode_chat_prompt, encode_prompt, pad_id, plain_ids
from training.commands.export import open_model, read_run
from training.runtime import config as configs
from training.runtime import distributed
from training.runtime.distributed import DistributedConfig, MeshConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GenerateConfig:
    """What to continue, and how.

    Attributes:
      run: output folder of a training run; or base (and adapter) instead.
      step: checkpoint of the run; null takes the newest.
      base: checkpoint, a folder or hub id.
      adapter: folder of an adapter beside the base.
      prompts: texts to continue.
      prompts_file: a prompt a line.
      form: auto takes the form of the run's training; with base, chat where the tokenizer has a chat
        template, else instruction. Chat uses the chat template; instruction puts the end-of-sequence token
        behind a prompt, as LoRAMoE does; text continues the text itself.
      thinking: drop asks for an answer without thinking, template and keep do not; null is as the run was
        trained.
      max_new_tokens: longest continuation.
      temperature: 0 takes the likeliest token.
      top_k: sample from so many likeliest tokens only; 0 from all.
      top_p: sample from the fewest tokens that hold this probability.
      seed: of the sampling.
      experts: false generates with the base alone.
      dtype: of weights and products, with base.
      output: JSON lines file for prompts and continuations; null prints them only.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    form: Form = "auto"
    thinking: Thinking | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    experts: bool = True
    dtype: str = "float32"
    output: str | None = None
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        if (self.run is None) == (self.base is None):
            raise ValueError("give either run (the folder of a training run) or base (a checkpoint)")
        if bool(self.prompts) == (self.prompts_file is not None):
            raise ValueError('give either prompts=["...", "..."] or prompts_file (a prompt a line)')


def main(config: GenerateConfig) -> list[str]:
    """Prints each prompt with its continuation; returns the continuations."""
    distributed.start(config.distributed)
    prompts = list(config.prompts) if config.prompts_file is None else read_prompts(Path(config.prompts_file))
    lm, tokenizer = open_model(
        config.run, config.step, config.base, config.adapter, config.mesh.make(), config.dtype
    )
    trained = None if config.run is None else read_run(Path(config.run))
    if trained is not None and config.form == "auto":
        form = resolve_form(tokenizer, trained.form, trained.plain_form)
    else:
        form = resolve_form(tokenizer, config.form)
    thinking = config.thinking or (trained.thinking if trained else "template")
    ends = stop_tokens(tokenizer, lm.stop_tokens)
    pad = pad_id(tokenizer)
    tokens, mask = left_padded([encode(tokenizer, prompt, form, thinking) for prompt in prompts], pad)
    made = lm.generate(
        tokens,
        mask,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        key=jax.random.key(config.seed) if config.temperature > 0 else None,
        stop_tokens=ends,
        experts=config.experts,
    )
    answers = [decode_answer(tokenizer, row, ends) for row in made.tokens[:, tokens.shape[1] :]]
    if distributed.is_main():
        if config.form == "auto":
            print(f"form auto: {form}")
        for prompt, answer in zip(prompts, answers, strict=True):
            print(f"{prompt}\n  -> {answer}")
        if config.output is not None:
            rows = [json.dumps({"prompt": p, "answer": a}) for p, a in zip(prompts, answers, strict=True)]
            Path(config.output).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return answers


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
    tokenizer: "PreTrainedTokenizerBase", prompt: str, form: str, thinking: Thinking = "template"
) -> list[int]:
    """Ids of a prompt, up to where the model is to go on.

    Args:
      prompt: what the user wrote.
      form: chat makes it a user's turn by the chat template, text takes it as it is, anything else puts it as
        LoRAMoE's instruction.
      thinking: for chat; drop asks for an answer without thinking.
    Returns: token ids.
    Raises: ValueError for chat, if the tokenizer has no chat template.
    """
    match form:
        case "chat":
            asked = [{"role": "user", "content": prompt}]
            return encode_chat_prompt(tokenizer, asked, thinking=thinking)
        case "text":
            return plain_ids(tokenizer, prompt)
        case _:
            return encode_prompt(tokenizer, prompt)


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
