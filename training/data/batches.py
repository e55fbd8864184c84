"""Rows to fixed-shape batches: order, mixture, this process's share, a resumable position.

Grain decides the order: a shuffle of each epoch that has random access and needs no buffer. Every process
walks the same global stream and keeps its own rows of each global batch. All processes see one shape at every
step, the batches do not depend on the number of processes, and one small JSON value resumes any of them, even
on another topology. The price is that each process tokenizes the whole stream, in a background thread, at
about half a million tokens a second.

Shapes: B rows of the global batch (or this process's share), T tokens, S segments (samples) per row.
"""

import copy
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import grain

from jaxmoe.json_values import JsonMapping, JsonObject
from training.data.batch import Batch, BatchConfig, Sample
from training.data.packing import PackedBatches, bucket_of, make_packer, rows_of


class Batches(Iterator[Batch]):
    """This process's share of an ordered, shuffled stream of batches that can be resumed exactly.

    Several sources are mixed by weight, each reshuffled in each of its epochs; with a finite number of epochs
    the mixture ends with the source that ends first, and the last batch is filled up with empty rows
    (segment_ids 0).

    Args:
      sources: sequences of Sample (or None, skipped), each non-empty.
      config: shapes, packing, order.
      pad_id: token for padding.
      weights: share of each source in the stream, positive; equal if absent.
      shard_index, shard_count: which contiguous rows of each global batch are ours: as a rule
        jax.process_index() and jax.process_count().
    Raises: ValueError on an empty source, weights that do not fit, or a batch that does not divide.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sample | None]],
        config: BatchConfig,
        *,
        pad_id: int,
        weights: Sequence[float] | None = None,
        shard_index: int = 0,
        shard_count: int = 1,
    ):
        if config.batch_size % shard_count:
            raise ValueError(
                f"data.batch_size {config.batch_size} must be divisible by the number of processes, "
                f"{shard_count}"
            )
        share = config.batch_size // shard_count
        self._rows = slice(shard_index * share, (shard_index + 1) * share)
        # a saved position is valid only for these
        self._identity = {
            "samples": [len(source) for source in sources],
            "weights": [float(w) for w in weights] if weights else None,
            "batching": [config.batch_size, *config.lengths, config.packing, config.segments],
            "seed": config.seed,
        }
        stream = _ordered(sources, weights, config.seed, config.epochs)
        self._iterator = make_packer(stream, config, pad_id)
        # one worker keeps the order; Grain's own prefetch threads abort the interpreter at exit
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: deque[Future[tuple[Batch, JsonObject] | None]] = deque()
        self._depth = max(1, config.prefetch)
        self._batches, self._position = 0, self._iterator.get_state()

    def __next__(self) -> Batch:
        while len(self._ahead) < self._depth:
            self._ahead.append(self._worker.submit(_advance, self._iterator))
        ready = self._ahead.popleft().result()
        if ready is None:
            raise StopIteration
        self._ahead.append(self._worker.submit(_advance, self._iterator))
        batch, self._position = ready
        self._batches += 1
        return Batch(*(array[self._rows] for array in batch))

    def state(self) -> JsonObject:
        """The position after the last batch handed out, as plain JSON; the same on every process."""
        state = {"identity": self._identity, "batches": self._batches, "position": self._position}
        return json.loads(json.dumps(state))

    def restore(self, state: JsonMapping) -> None:
        """Continues after the batch at which `state` was taken.

        Raises: ValueError if the state belongs to other data or other batching.
        """
        for key, ours in self._identity.items():
            if (theirs := state["identity"].get(key)) != ours:
                raise ValueError(
                    f"the saved data position is of other {key}: {theirs} then, {ours} now; "
                    "resume with the data settings of the run, or start a new output folder"
                )
        self._batches = int(state["batches"])
        wait(self._ahead)
        self._ahead.clear()
        self._position = _tuples(state["position"])
        self._iterator.set_state(self._position)


def in_order(
    samples: Sequence[Sample], batch_size: int, lengths: Sequence[int], *, pad_id: int
) -> Iterator[Batch]:
    """Every sample once, unpacked and in order: batches for evaluation.

    Args:
      batch_size: rows of each batch; the last is filled up with empty rows.
      lengths: tokens that a row may have; each batch takes the shortest that holds its longest sample.
    Returns: batches of tokens [batch_size, length], made one at a time.
    Raises: ValueError, when its batch is made, for a sample longer than all lengths.
    """
    lengths = sorted(lengths)
    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        yield rows_of(chunk, batch_size, bucket_of(max(len(s.tokens) for s in chunk), lengths), pad_id)


def _ordered(sources, weights, seed: int, epochs: int | None) -> grain.MapDataset:
    if not sources or any(len(source) == 0 for source in sources):
        raise ValueError(f"every data source needs at least one sample; got {[len(s) for s in sources]}")
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(f"data weights must be {len(sources)} positive numbers; got {list(weights)}")
    shuffled = [
        grain.MapDataset.source(source).shuffle(seed=(seed + i) % 2**32).repeat(epochs)
        for i, source in enumerate(sources)
    ]
    return shuffled[0] if len(shuffled) == 1 else grain.MapDataset.mix(shuffled, weights)


def _advance(iterator: PackedBatches) -> tuple[Batch, JsonObject] | None:
    try:
        batch = next(iterator)
    except StopIteration:
        return None
    return batch, copy.deepcopy(iterator.get_state())


def _tuples(value: Any) -> Any:  # as deep as the state's own form, which is Grain's
    """JSON turns tuples into lists; Grain compares slices with tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
