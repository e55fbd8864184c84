"""What an adapter changes in the base model's own weights, besides adding experts.

PEFT folders may bring whole modules (modules_to_save, a resized vocabulary, biases), LoRA on the embedding
and the head, and new rows for single tokens. Each of these puts other weights in the same place, so they are
applied slice by slice as the checkpoint is read; the resulting model has plain weights there.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxmoe.model.config import ModelConfig
from jaxmoe.weights.weight_files import StoredTensor, same_values

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class LowRank(NamedTuple):
    """A LoRA pair on a whole weight W [out, in]: W + scale · B A.

    Attributes:
      magnitude: for DoRA, the length to which each row of the sum is scaled; None leaves the rows as they
        are.
    """

    a_RI: np.ndarray
    b_OR: np.ndarray
    scale: float
    magnitude_O: np.ndarray | None = None


class TokenRows(NamedTuple):
    """Single rows of a weight that replace the base's."""

    tokens: tuple[int, ...]
    rows_ND: np.ndarray


@dataclasses.dataclass(frozen=True)
class BaseChanges:
    """Changes of base weights, by their names in the checkpoint.

    With a tied head, a change of the embedding's own weight also changes the head. A change of a copy does
    not, and the head is then no longer tied.

    Attributes:
      replaced: tensors that replace the base's own; those of the embedding and the head may have a different
        number of rows.
      copied: the same, for a copy of the embedding or the head.
      low_rank: LoRA on the embedding or the head.
      tokens: single rows of the embedding or the head.
    """

    replaced: Mapping[str, StoredTensor] = dataclasses.field(default_factory=dict[str, StoredTensor])
    copied: Mapping[str, StoredTensor] = dataclasses.field(default_factory=dict[str, StoredTensor])
    low_rank: Mapping[str, LowRank] = dataclasses.field(default_factory=dict[str, LowRank])
    tokens: Mapping[str, TokenRows] = dataclasses.field(default_factory=dict[str, TokenRows])

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that differ from the base's, in order."""
        return tuple(sorted({*self.replaced, *self.copied, *self.low_rank, *self.tokens}))


class Changed(NamedTuple):
    """A checkpoint as an adapter leaves it."""

    tensors: dict[str, StoredTensor]
    model: ModelConfig


def apply_changes(
    changes: BaseChanges, stored: Mapping[str, StoredTensor], model: ModelConfig, where: object
) -> Changed:
    """The checkpoint's tensors with the changes in place; nothing is read yet.

    Args:
      stored: the base's tensors by name, without a head that is tied.
      where: the adapter, for error messages.
    Returns: the tensors, and the model with their vocabulary, its head untied if it has to be.
    Raises: ValueError, naming them, for tensors that the base lacks or holds in another shape.
    """
    tensors = dict(stored)
    _replace_others(changes, tensors, model, where)
    if EMBEDDING not in tensors:
        return Changed(tensors, model)  # the check of the checkpoint says what is missing
    embedding, head = _vocabulary(changes, tensors, model, where)
    tensors[EMBEDDING] = embedding
    if head is not None:
        tensors[HEAD] = head
        if head.shape != embedding.shape:
            raise ValueError(
                f"the adapter {where} leaves {embedding.shape[0]} rows in the embedding and {head.shape[0]} "
                "in the head: it must bring both, or neither"
            )
    model = dataclasses.replace(model, vocab_size=embedding.shape[0], tie_embeddings=head is None)
    return Changed(tensors, model)


def _replace_others(
    changes: BaseChanges, tensors: dict[str, StoredTensor], model: ModelConfig, where: object
) -> None:
    """Everything but the embedding and the head."""
    for name, tensor in {**changes.replaced, **changes.copied}.items():
        if name in (EMBEDDING, HEAD):
            if len(tensor.shape) != 2 or tensor.shape[1] != model.hidden_size:
                raise ValueError(
                    f"{name} in {where} has shape {list(tensor.shape)}; it must have {model.hidden_size} "
                    "columns"
                )
            continue
        if name not in tensors:
            raise ValueError(f"{where} brings {name}, which the base model lacks")
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{name} in {where} has shape {list(tensor.shape)}, not {list(tensors[name].shape)}"
            )
        tensors[name] = tensor


def _vocabulary(
    changes: BaseChanges, tensors: Mapping[str, StoredTensor], model: ModelConfig, where: object
) -> tuple[StoredTensor, StoredTensor | None]:
    """The embedding, and the head unless still tied to it: itself changed first, then its copy, then LoRA."""
    embedding = changes.replaced.get(EMBEDDING, tensors[EMBEDDING])
    head = changes.replaced.get(HEAD, tensors.get(HEAD))
    if model.tie_embeddings:
        if HEAD in changes.replaced and EMBEDDING not in changes.replaced:
            embedding = changes.replaced[HEAD]
        elif HEAD in changes.replaced and not same_values(embedding, changes.replaced[HEAD]):
            raise ValueError(f"{where} has an embedding and another head, but the base ties one to the other")
        head = None
    whole = head or embedding
    if EMBEDDING in changes.copied:
        embedding, head = changes.copied[EMBEDDING], whole
    if HEAD in changes.copied:
        head = whole = changes.copied[HEAD]
    if EMBEDDING in changes.low_rank:
        embedding, head = _added(embedding, changes.low_rank[EMBEDDING], EMBEDDING, where), whole
    if HEAD in changes.low_rank:
        head = _added(whole, changes.low_rank[HEAD], HEAD, where)
    if HEAD in changes.tokens:
        head = _with_rows(head or embedding, changes.tokens[HEAD], where)
    if EMBEDDING in changes.tokens:
        embedding = _with_rows(embedding, changes.tokens[EMBEDDING], where)
    return embedding, head


def _added(base: StoredTensor, pair: LowRank, name: str, where: object) -> StoredTensor:
    """W + scale · B A, each row brought to its DoRA magnitude."""
    if (len(pair.b_OR), pair.a_RI.shape[1]) != base.shape:
        raise ValueError(
            f"the LoRA pair on {name} in {where} makes a {len(pair.b_OR)} x {pair.a_RI.shape[1]} matrix; the "
            f"weight is {base.shape[0]} x {base.shape[1]}"
        )

    def read(index: tuple[slice, ...]) -> np.ndarray:
        rows, columns = index
        if pair.magnitude_O is None:
            delta = np.float32(pair.scale) * (pair.b_OR[rows] @ pair.a_RI[:, columns])
            return base.read(index).astype(np.float32) + delta
        delta = np.float32(pair.scale) * (pair.b_OR[rows] @ pair.a_RI)
        whole = base.read((rows, slice(None))).astype(np.float32) + delta
        length = np.linalg.norm(whole, axis=1, keepdims=True)
        return (whole * (pair.magnitude_O[rows, None] / length))[:, columns]

    return base._replace(read=read)


def _with_rows(base: StoredTensor, tokens: TokenRows, where: object) -> StoredTensor:
    """The embedding with rows of single tokens put in place."""
    vocab, width = base.shape
    if tokens.rows_ND.shape != (len(tokens.tokens), width) or not all(0 <= t < vocab for t in tokens.tokens):
        raise ValueError(
            f"{where} trains {len(tokens.tokens)} rows of the embedding, up to "
            f"{max(tokens.tokens, default=0)}; its tensor is {list(tokens.rows_ND.shape)} and the embedding "
            f"{vocab} x {width}"
        )

    def read(index: tuple[slice, ...]) -> np.ndarray:
        rows, columns = index
        part = np.array(base.read(index))
        wanted = range(vocab)[rows]
        for token, row in zip(tokens.tokens, tokens.rows_ND, strict=True):
            if token in wanted:
                part[wanted.index(token)] = row[columns].astype(part.dtype)
        return part

    return base._replace(read=read)


def resized(stored: Mapping[str, StoredTensor], model: ModelConfig, vocab_size: int) -> Changed:
    """The checkpoint with room for more tokens: new rows of embedding and head are the mean of the old ones.

    A new token then starts as the average word, which hardly changes the model's predictions for the others.

    Args:
      stored: the base's tensors by name; without a head that is tied.
      model: its shape as it is now.
      vocab_size: rows wanted.
    Returns: the tensors, and the model with that vocabulary; only the old rows are read, for their mean.
    Raises: ValueError if that is fewer than there are.
    Reference: Hewitt 2021, "Initializing new word embeddings for pretrained language models".
    """
    if vocab_size < model.vocab_size:
        raise ValueError(
            f"resize_vocab must be at least the vocabulary that is there ({model.vocab_size}), rows are only "
            f"added; got {vocab_size}"
        )
    tensors = dict(stored)
    for name in vocabulary_names(model):
        if name in tensors:
            tensors[name] = _grown(tensors[name], vocab_size)
    return Changed(tensors, dataclasses.replace(model, vocab_size=vocab_size))


def vocabulary_names(model: ModelConfig) -> set[str]:
    """The tensors with a row for each token."""
    return {EMBEDDING} if model.tie_embeddings else {EMBEDDING, HEAD}


def _grown(base: StoredTensor, rows: int, chunk: int = 4096) -> StoredTensor:
    """The tensor with its mean row repeated behind it."""
    have = base.shape[0]
    total = np.zeros(base.shape[1], np.float64)
    for start in range(0, have, chunk):
        part = slice(start, min(start + chunk, have))
        total += base.read((part, slice(None))).astype(np.float64).sum(0)
    mean = (total / have).astype(base.dtype)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        old = base.read((slice(start, min(stop, have)), index[1])) if start < have else None
        new = np.broadcast_to(mean[index[1]], (max(stop - max(start, have), 0), len(mean[index[1]])))
        return new if old is None else np.concatenate([old, new])

    return base._replace(shape=(rows, base.shape[1]), read=read)
