"""Packs samples into rows of fixed length: one per row by length buckets, several per row, or cut to fit.

Each packer walks a Grain stream with random access and yields whole global batches; `get_state` returns small
plain JSON, from which `set_state` resumes exactly.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import grain
import numpy as np
from grain.experimental import ConcatThenSplitIterDataset

from jaxmoe.json_values import JsonObject
from training.data.batch import NO_TASK, Batch, BatchConfig, Sample


class PackedBatches(Protocol):
    """An iterator of batches whose place in the data can be saved."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> JsonObject:
        """The place after the last batch, as plain JSON."""
        ...

    def set_state(self, state: JsonObject) -> None:
        """Resumes from a place that `get_state` returned."""
        ...


def make_packer(stream: grain.MapDataset, config: BatchConfig, pad_id: int) -> PackedBatches:
    """The iterator of batches that `config.packing` names.

    Args:
      stream: samples in the order of training (None: skipped), with random access.
      pad_id: token for padding.
    Returns: whole global batches of config.batch_size rows, from the start of the stream.
    """
    kinds = {"none": _Bucketed, "first_fit": _FirstFit, "concat": _concatenated}
    return kinds[config.packing](stream, config, pad_id)


def _concatenated(stream: grain.MapDataset, config: BatchConfig, pad_id: int) -> grain.DatasetIterator:
    at_once = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    samples = stream.filter(lambda s: s is not None).to_iter_dataset(at_once)
    rows = ConcatThenSplitIterDataset(
        samples.map(lambda s: {"tokens": s.tokens, "loss_mask": s.loss_mask}),
        length_struct={"tokens": config.length, "loss_mask": config.length},
    )
    return iter(rows.batch(config.batch_size, batch_fn=lambda rows: _batch_of_split(rows, config, pad_id)))


def _batch_of_split(rows: Sequence[Mapping[str, np.ndarray]], config: BatchConfig, pad_id: int) -> Batch:
    batch = _empty(config.batch_size, config.length, 1, pad_id)
    for r, row in enumerate(rows):
        segments, positions = row["tokens_segment_ids"], row["tokens_positions"]
        batch.tokens[r] = np.where(segments > 0, row["tokens"], pad_id)
        # the rest of a sample that was split has no predecessor in its row
        batch.loss_mask[r] = row["loss_mask"] * (positions > 0)
        batch.segment_ids[r], batch.positions[r] = segments, positions
    return batch


class _FirstFit:
    """Each sample goes into the first row with room for it. One that fits nowhere waits for the next batch;
    when as many wait as there are rows (so that they surely fit there), the batch is handed out.

    Grain's own packing takes several times as long for short samples. The state is the next index of the
    stream and the indices of all samples placed or waiting: the stream has random access, so the samples
    themselves need not be saved.
    """

    def __init__(self, stream: grain.MapDataset, config: BatchConfig, pad_id: int):
        self._stream, self._config, self._pad_id = stream, config, pad_id
        self.set_state({"next": 0, "placed": [], "waiting": []})

    def __next__(self) -> Batch:
        while self._next < len(self._stream) and len(self._waiting) < self._config.batch_size:
            index, self._next = self._next, self._next + 1
            sample = self._stream[index]
            if sample is not None and not self._place(index, sample):
                self._waiting.append(index)
        if not self._placed:
            raise StopIteration
        batch = _batch_of(self._rows, self._config.length, self._config.max_segments, self._pad_id)
        self.set_state({"next": self._next, "placed": self._waiting, "waiting": []})
        return batch

    def _place(self, index: int, sample: Sample) -> bool:
        size = len(sample.tokens)
        bucket_of(size, (self._config.length,))
        for r, room in enumerate(self._room):
            if size <= room and len(self._rows[r]) < self._config.max_segments:
                self._rows[r].append(sample)
                self._room[r] -= size
                self._placed.append(index)
                return True
        return False

    def get_state(self) -> JsonObject:
        return {"next": self._next, "placed": list(self._placed), "waiting": list(self._waiting)}

    def set_state(self, state: JsonObject) -> None:
        self._next, self._waiting = state["next"], list(state["waiting"])
        self._rows: list[list[Sample]] = [[] for _ in range(self._config.batch_size)]
        self._room = [self._config.length] * self._config.batch_size
        self._placed: list[int] = []
        for index in state["placed"]:  # in the order of placing, so into the same rows
            self._place(index, self._stream[index])


class _Bucketed:
    """One sample per row, in the shortest row length that holds it; a batch is handed out when its bucket is
    full.

    Its state is the next index of the stream and, for each bucket, the indices that wait in it.
    """

    def __init__(self, stream: grain.MapDataset, config: BatchConfig, pad_id: int):
        self._stream, self._config, self._pad_id = stream, config, pad_id
        self._next = 0
        self._waiting: dict[int, list[int]] = {length: [] for length in config.lengths}

    def __next__(self) -> Batch:
        size = self._config.batch_size
        while self._next < len(self._stream):
            sample = self._stream[self._next]
            self._next += 1
            if sample is None:
                continue
            length = bucket_of(len(sample.tokens), self._config.lengths)
            self._waiting[length].append(self._next - 1)
            if len(self._waiting[length]) == size:
                return self._flush(length)
        for length, waiting in self._waiting.items():
            if waiting:
                return self._flush(length)
        raise StopIteration

    def _flush(self, length: int) -> Batch:
        found = (self._stream[i] for i in self._waiting[length])
        samples = [sample for sample in found if sample is not None]  # all that wait are samples
        self._waiting[length] = []
        return rows_of(samples, self._config.batch_size, length, self._pad_id)

    def get_state(self) -> JsonObject:
        return {"next": self._next, "waiting": [list(self._waiting[n]) for n in self._config.lengths]}

    def set_state(self, state: JsonObject) -> None:
        self._next = state["next"]
        self._waiting = {n: list(w) for n, w in zip(self._config.lengths, state["waiting"], strict=True)}


def bucket_of(tokens: int, lengths: Sequence[int]) -> int:
    """The row length for a sample of this many tokens.

    Args:
      lengths: tokens that a row may have, ascending.
    Returns: the shortest of the lengths that holds the tokens.
    Raises: ValueError if none does.
    """
    for length in lengths:
        if tokens <= length:
            return length
    raise ValueError(
        f"a sample of {tokens} tokens exceeds data.length {lengths[-1]}; encode it with that limit"
    )


def _empty(rows: int, length: int, segments: int, pad_id: int) -> Batch:
    shape = (rows, length)
    return Batch(
        tokens=np.full(shape, pad_id, np.int32),
        loss_mask=np.zeros(shape, np.float32),
        segment_ids=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        task_types=np.full((rows, segments), NO_TASK, np.int32),
    )


def _batch_of(rows: Sequence[Sequence[Sample]], length: int, segments: int, pad_id: int) -> Batch:
    batch = _empty(len(rows), length, segments, pad_id)
    for r, row in enumerate(rows):
        start = 0
        for s, sample in enumerate(row):
            stop = start + len(sample.tokens)
            batch.tokens[r, start:stop] = sample.tokens
            batch.loss_mask[r, start + 1 : stop] = sample.loss_mask[1:]  # the first has no predecessor
            batch.segment_ids[r, start:stop] = s + 1
            batch.positions[r, start:stop] = np.arange(stop - start)
            batch.task_types[r, s] = sample.task_type
            start = stop
    return batch


def rows_of(samples: Sequence[Sample], rows: int, length: int, pad_id: int) -> Batch:
    """Puts each sample into a row of its own.

    Args:
      samples: at most `rows` of them, none longer than `length`.
      rows: of the batch; those left over are empty (segment_ids 0).
      length: tokens per row.
    Returns: a batch of tokens [rows, length], in the samples' order.
    """
    filled = [[sample] for sample in samples] + [[] for _ in range(rows - len(samples))]
    return _batch_of(filled, length, 1, pad_id)
