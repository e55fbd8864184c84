"""Whether greedy decoding gives an answer, found without decoding.

Greedy decoding begins with the tokens y exactly if every yₜ is the likeliest token after the prompt and the
preceding tokens of y. So one forward pass over prompt and answer decides it. Only the answer's own tokens are
required, since fine-tuning changes how answers end; whether the answer ended there is reported separately.

Letters: K tokens of an answer, its end included; otherwise as in jaxmoe.model.shapes.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from evals.knowledge.prompts import template
from evals.knowledge.questions import ClosedBookQuestion
from evals.models.local_model import Form, LocalModel
from evals.models.text_model import Progress
from jaxmoe.language_model import LanguageModel, positions_from_mask
from jaxmoe.model import params
from jaxmoe.model.attention import AttentionMask
from jaxmoe.model.shapes import Array, Bool, Float, Int
from jaxmoe.tokenizer import pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 64
# tokens that statements of facts are padded to; most have fewer than 12 tokens
STATEMENTS = (12, 24, 48)


class Part(NamedTuple):
    """Texts of one padded length T: `item_B` is the number of each text's question, −1 for filler rows.

    A question has one text for each accepted answer.
    """

    tokens_BT: np.ndarray
    mask_BT: np.ndarray
    places_BK: np.ndarray
    answer_BK: np.ndarray
    end_BK: np.ndarray
    item_B: np.ndarray


class Exam(NamedTuple):
    """Questions ready to be put to any model with the same tokenizer."""

    parts: list[Part]
    count: int


class Marks(NamedTuple):
    """By question: 1 where greedy decoding gives an accepted answer, and 1 where it also ends there."""

    right: np.ndarray
    ended: np.ndarray


def prepare(
    lm: LanguageModel,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[ClosedBookQuestion],
    form: Form,
    lengths: Sequence[int] = (24, 48),
    rows: int = ROWS,
) -> Exam:
    """Encodes questions: as statements to complete (form "text"), or as instructions (form "instruction" or
    "chat").

    Args:
      tokenizer: the model's.
      questions: in the order of the marks.
      form: how they are put.
      lm: any model with this tokenizer; only its window is used.
      lengths: padded lengths, each of which compiles once; longer texts get lengths of their own.
      rows: texts per batch; the last of a length is filled up.
    Returns: the exam, ready for any model with this tokenizer.
    """
    wording = template("completion" if form == "text" else "instruction")
    owners, prompts, answers = [], [], []
    for number, question in enumerate(questions):
        for answer in question.answers:
            owners.append(number)
            prompts.append(wording.prompt(question))
            answers.append(wording.continuation(answer))
    texts = LocalModel(lm, tokenizer, form).scored_ids(prompts, answers)
    encoded = [
        ([*text.ids, tokenizer.eos_token_id], text.start, owner)
        for text, owner in zip(texts, owners, strict=True)
    ]
    most = max(len(ids) - start for ids, start, _ in encoded)
    by_length: dict[int, list[tuple[list[int], int, int]]] = {}
    for row in encoded:
        fitting = [length for length in lengths if len(row[0]) <= length]
        by_length.setdefault(min(fitting, default=-(-len(row[0]) // 16) * 16), []).append(row)
    parts = [
        _part(some[at : at + rows], length, most, pad_id(tokenizer), rows)
        for length, some in sorted(by_length.items())
        for at in range(0, len(some), rows)
    ]
    return Exam(parts, len(questions))


def _part(texts: Sequence[tuple[list[int], int, int]], length: int, most: int, pad: int, rows: int) -> Part:
    part = Part(
        np.full((rows, length), pad, np.int32),
        np.zeros((rows, length), np.int32),
        np.zeros((rows, most), np.int32),
        np.zeros((rows, most), np.float32),
        np.zeros((rows, most), np.float32),
        np.full(rows, -1, np.int32),
    )
    for r, (ids, start, owner) in enumerate(texts):
        size = len(ids) - start
        part.tokens_BT[r, : len(ids)] = ids
        part.mask_BT[r, : len(ids)] = 1
        part.places_BK[r, :size] = np.arange(start, len(ids))
        part.answer_BK[r, : size - 1] = 1
        part.end_BK[r, size - 1] = 1
        part.item_B[r] = owner
    part.mask_BT[len(texts) :, 0] = 1  # a row of nothing but padding would attend to nothing
    return part


def take(lm: LanguageModel, exam: Exam, progress: Progress | None = None) -> Marks:
    """Puts an exam to a model.

    Args:
      lm: on its mesh.
      exam: from `prepare`.
      progress: called with how many batches of how many are done.
    Returns: what was right, question by question.
    """
    right, ended = np.zeros(exam.count, bool), np.zeros(exam.count, bool)
    run = partial(_wrong, lm.weights.definition, lm.dtype, lm.mesh, lm.weights.trainable, lm.weights.frozen)
    for done, part in enumerate(exam.parts, 1):
        places = jax.device_put(part[:5], params.batch_sharding(lm.mesh))
        wrong_BK = np.asarray(run(*places[:3]))
        used = part.item_B >= 0
        answered = np.asarray(~(wrong_BK & (part.answer_BK > 0)).any(1))
        closed = answered & ~(wrong_BK & (part.end_BK > 0)).any(1)
        np.logical_or.at(right, part.item_B[used], answered[used])
        np.logical_or.at(ended, part.item_B[used], closed[used])
        if progress is not None:
            progress(done, len(exam.parts))
    return Marks(right.astype(np.float64), ended.astype(np.float64))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _wrong(
    definition: nnx.GraphDef,
    dtype: DTypeLike,
    mesh: Mesh,
    trainable: params.Params,
    frozen: params.Params,
    tokens_BT: Int[Array, "B T"],
    mask_BT: Int[Array, "B T"],
    places_BK: Int[Array, "B K"],
) -> Bool[Array, "B K"]:
    """Whether the token at each position is not the likeliest one there."""
    model = params.merge(params.ModelParams(definition, trainable, frozen))
    out = model(
        tokens_BT, positions_from_mask(mask_BT), AttentionMask(mask_BT, mask_BT), dtype=dtype, mesh=mesh
    )
    before_BK = jnp.maximum(places_BK - 1, 0)
    hidden_BKD: Float[Array, "B K D"] = jnp.take_along_axis(out.hidden_BTD, before_BK[..., None], axis=1)
    likeliest_BK = jnp.argmax(model.logits(hidden_BKD), axis=-1)
    wrong_BK = likeliest_BK != jnp.take_along_axis(tokens_BT, places_BK, axis=1)
    return jax.lax.with_sharding_constraint(wrong_BK, params.replicated(mesh))
