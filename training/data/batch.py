"""What a batch is: its arrays, the samples it is made of, the settings that shape it.

Shapes: B rows of the global batch (or one process's share), T tokens, S segments (samples) per row.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

NO_TASK = -1


class Batch(NamedTuple):
    """What the model and the loss read. Rows are padded on the right."""

    tokens: np.ndarray  # int32 [B, T]
    loss_mask: np.ndarray  # float32 [B, T]; 1 where the token at t itself is to be predicted
    segment_ids: np.ndarray  # int32 [B, T]; 0 = padding, else which sample of the row, from 1
    positions: np.ndarray  # int32 [B, T]; restart at 0 with each segment
    task_types: np.ndarray  # int32 [B, S]; of segment s + 1; -1 = none


class Sample(NamedTuple):
    """One encoded sample: ids and loss_mask of jaxmoe.tokenizer.Encoded, and its task type."""

    tokens: np.ndarray  # int32 [T]
    loss_mask: np.ndarray  # float32 [T]
    task_type: int


@dataclass(frozen=True)
class BatchConfig:
    """How samples become batches.

    Attributes:
      packing: none puts one sample into each row, first_fit as many whole ones as fit, concat joins samples
        and splits them at `length` (for pretraining; task types are lost).
    """

    batch_size: int = 16  # rows of the global batch
    length: int = 512  # tokens per row
    packing: Literal["none", "first_fit", "concat"] = "none"
    max_segments: int = 16  # samples per row, with packing=first_fit only
    buckets: tuple[int, ...] = ()  # shorter row lengths, with packing=none only; each compiles once
    seed: int = 0  # of the order of samples
    epochs: int | None = None  # null repeats without end
    prefetch: int = 2  # batches prepared ahead

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1; got {getattr(self, name)}")
        if self.length < 2:
            raise ValueError(f"data.length must be at least 2; got {self.length}")
        if self.packing not in ("none", "first_fit", "concat"):
            raise ValueError(f"data.packing must be none, first_fit or concat; got {self.packing!r}")
        if self.buckets and self.packing != "none":
            raise ValueError(f"data.buckets need data.packing none; got packing {self.packing}")
        if any(not 2 <= bucket <= self.length for bucket in self.buckets):
            raise ValueError(
                f"data.buckets must lie between 2 and data.length {self.length}; got {list(self.buckets)}"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The row lengths that batches may have, shortest first; `length` itself is always one."""
        return tuple(sorted({*self.buckets, self.length}))

    @property
    def segments(self) -> int:
        """S of the batches."""
        return self.max_segments if self.packing == "first_fit" else 1
