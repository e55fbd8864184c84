"""Batches: nothing lost, nothing mixed up, same on any number of processes, exactly resumable."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmoe.tokenizer import encode_row, train_bpe
from training.data.batches import Batch, BatchConfig, Batches, Sample, in_order
from training.data.encode import EncodedRows, Encoder, encode_samples

PAD = 7
CONFIGS = {
    "padded": BatchConfig(8, 32, seed=5),
    "bucketed": BatchConfig(8, 32, buckets=(8, 16), seed=5),
    "first_fit": BatchConfig(8, 32, packing="first_fit", max_segments=4, seed=5),
    "concat": BatchConfig(8, 32, packing="concat", seed=5),
}
every_packing = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make_samples(number, seed=0, longest=30):
    """Samples whose tokens tell which sample they are of: 1000 * sample + position."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(number):
        size = int(rng.integers(2, longest))
        answer = int(rng.integers(1, size))
        mask = (np.arange(size) >= answer).astype(np.float32)
        out.append(Sample(1000 * (i + 1) + np.arange(size, dtype=np.int32), mask, i % 3 - 1))
    return out


def replace_epochs(config, epochs):
    return BatchConfig(**{**config.__dict__, "epochs": epochs})


def segments_of(batch):
    """(tokens, loss mask, task type) of every segment in a batch."""
    for r in range(len(batch.tokens)):
        for s in range(1, batch.segment_ids[r].max(initial=0) + 1):
            at = batch.segment_ids[r] == s
            np.testing.assert_array_equal(batch.positions[r][at], np.arange(at.sum()))
            yield batch.tokens[r][at], batch.loss_mask[r][at], batch.task_types[r, s - 1]


def assert_same(a, b):
    for name, x, y in zip(a._fields, a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("name", ["padded", "bucketed", "first_fit"])
def test_every_sample_once_an_epoch_with_its_mask_and_task(name):
    samples = make_samples(61)
    seen = Counter()
    for batch in Batches([samples], replace_epochs(CONFIGS[name], 2), pad_id=PAD):
        for tokens, mask, task in segments_of(batch):
            i = tokens[0] // 1000 - 1
            seen[i] += 1
            np.testing.assert_array_equal(tokens, samples[i].tokens)
            np.testing.assert_array_equal(mask, samples[i].loss_mask)
            assert task == samples[i].task_type
    assert seen == {i: 2 for i in range(61)}


@every_packing
def test_shapes_dtypes_and_padding(config):
    for batch in Batches([make_samples(61)], replace_epochs(config, 1), pad_id=PAD):
        rows, length = batch.tokens.shape
        assert rows == 8
        assert length in config.lengths
        assert batch.task_types.shape == (8, config.segments)
        assert [x.dtype for x in batch] == [np.int32, np.float32, np.int32, np.int32, np.int32]
        padding = batch.segment_ids == 0
        assert (batch.tokens[padding] == PAD).all()
        assert not batch.loss_mask[padding].any()
        assert not batch.positions[padding].any()
        # padding on the right only, and never a target without a predecessor
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()
        assert not batch.loss_mask[batch.positions == 0].any()


def test_concat_keeps_the_whole_stream_and_wastes_nothing():
    samples = make_samples(61)
    batches = list(Batches([samples], replace_epochs(CONFIGS["concat"], 1), pad_id=PAD))
    stream = np.concatenate([b.tokens[b.segment_ids > 0] for b in batches])
    np.testing.assert_array_equal(np.sort(stream), np.sort(np.concatenate([s.tokens for s in samples])))
    rows = np.concatenate([b.segment_ids > 0 for b in batches])
    assert rows[: len(stream) // 32].all()
    # a target is lost only where a sample was split
    split = sum(int(b.tokens[r, 0] % 1000 != 0) for b in batches for r in range(8) if b.segment_ids[r, 0])
    targets = sum(s.loss_mask.sum() for s in samples) - sum(b.loss_mask.sum() for b in batches)
    assert 0 <= targets <= split


def test_buckets_take_the_shortest_length_that_fits():
    for batch in Batches([make_samples(200)], replace_epochs(CONFIGS["bucketed"], 1), pad_id=PAD):
        longest = (batch.segment_ids > 0).sum(1).max()
        assert batch.tokens.shape[1] == next(n for n in (8, 16, 32) if n >= longest)


@every_packing
@pytest.mark.parametrize("at", [0, 1, 5, 17])
def test_resumed_equals_unbroken(config, at):
    samples = make_samples(40)
    unbroken = Batches([samples], config, pad_id=PAD)
    expected = [next(unbroken) for _ in range(24)]
    first = Batches([samples], config, pad_id=PAD)
    for _ in range(at):
        next(first)
    state = json.loads(json.dumps(first.state()))
    resumed = Batches([samples], config, pad_id=PAD)
    next(resumed)  # a position already begun is left
    resumed.restore(state)
    assert resumed.state() == first.state()
    for batch in expected[at:]:
        assert_same(next(resumed), batch)
    assert resumed.state()["batches"] == 24


@every_packing
def test_processes_share_each_global_batch(config):
    samples = make_samples(40)
    whole = Batches([samples], config, pad_id=PAD)
    parts = [Batches([samples], config, pad_id=PAD, shard_index=i, shard_count=4) for i in range(4)]
    for _ in range(6):
        shares = [next(part) for part in parts]
        assert_same(Batch(*map(np.concatenate, zip(*shares, strict=True))), next(whole))
    # one saved position serves every process, and any number of them
    assert all(part.state() == whole.state() for part in parts)


def test_position_of_other_data_is_refused():
    config = CONFIGS["padded"]
    state = Batches([make_samples(40)], config, pad_id=PAD).state()
    with pytest.raises(ValueError, match=r"other samples: \[40\] then, \[41\] now"):
        Batches([make_samples(41)], config, pad_id=PAD).restore(state)
    reseeded = Batches([make_samples(40)], BatchConfig(8, 32, seed=6), pad_id=PAD)
    with pytest.raises(ValueError, match="other seed: 5 then, 6 now"):
        reseeded.restore(state)


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epochs):
        batches = Batches([make_samples(64)], BatchConfig(8, 32, seed=seed, epochs=epochs), pad_id=PAD)
        return np.concatenate([b.tokens[:, 0] for b in batches])

    two = order(0, 2)
    assert sorted(two[:64]) == sorted(two[64:])
    assert (two[:64] != two[64:]).any()
    np.testing.assert_array_equal(order(0, 1), two[:64])
    assert (order(1, 1) != two[:64]).any()


def test_mixture_keeps_its_weights():
    mixed = Batches(
        [make_samples(50, seed=1), make_samples(9, seed=2)], CONFIGS["padded"], pad_id=PAD, weights=[7, 1]
    )
    small = {tuple(s.tokens) for s in make_samples(9, seed=2)}
    large = {tuple(s.tokens) for s in make_samples(50, seed=1)}
    drawn = [tuple(tokens) for _ in range(40) for tokens, _, _ in segments_of(next(mixed))]
    only_small = sum(tokens in small - large for tokens in drawn)
    assert all(tokens in small | large for tokens in drawn)
    # an eighth of 320, less those that both sources happen to hold
    assert only_small == pytest.approx(40 * len(small - large) / 9, abs=5)


def test_in_order_evaluation_gives_each_sample_once():
    samples = make_samples(21)
    batches = list(in_order(samples, 8, (16, 32), pad_id=PAD))
    got = [tokens[0] // 1000 - 1 for batch in batches for tokens, _, _ in segments_of(batch)]
    assert got == list(range(21))
    assert {b.tokens.shape[0] for b in batches} == {8}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 4))
def test_packing_loses_no_token(sizes, rows, segments):
    samples = [
        Sample(np.full(n, i + 1, np.int32), np.r_[0, np.ones(n - 1)].astype(np.float32), i)
        for i, n in enumerate(sizes)
    ]
    config = BatchConfig(rows, 12, packing="first_fit", max_segments=segments, epochs=1)
    got = [
        (t[0], len(t), task) for b in Batches([samples], config, pad_id=0) for t, _, task in segments_of(b)
    ]
    assert sorted(got) == [(i + 1, n, i) for i, n in enumerate(sizes)]


def test_rows_without_a_target_are_left_out():
    bpe = train_bpe(["one two three"], 300)
    talk = [{"role": "user", "content": "one two three " * 20}, {"role": "assistant", "content": "four"}]
    rows = [{"text": "one two", "task_type": 1}, {"messages": talk}]
    samples = encode_samples(rows, bpe, 16)
    assert [s.task_type for s in samples] == [1]
    lazily = EncodedRows(rows, Encoder(bpe, 16), lambda index, error: None)
    assert lazily[1] is None
    np.testing.assert_array_equal(lazily[0].tokens, samples[0].tokens)
    for packing in ("none", "first_fit", "concat"):
        batch = next(Batches([lazily], BatchConfig(2, 16, packing=packing), pad_id=0))
        np.testing.assert_array_equal(batch.tokens[0, : len(samples[0].tokens)], samples[0].tokens)
    with pytest.raises(ValueError, match="empty"):
        encode_samples(rows[1:], bpe, 16)


def test_recurring_texts_keep_their_own_task_types_and_rows():
    bpe = train_bpe(["one two three"], 300)
    rows = [
        {"text": "one", "task_type": 1},
        {"text": "one"},
        {"text": "one", "task_type": 1},
        {"text": "one", "instruction": "two", "output": "three"},
    ]
    samples = encode_samples(rows, bpe, 16)
    assert [s.task_type for s in samples] == [1, -1, 1, -1]
    for sample, row in zip(samples, rows, strict=True):
        np.testing.assert_array_equal(sample.tokens, encode_row(bpe, row, 16).ids)


@pytest.mark.parametrize(
    ("settings_", "complaint"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"length": 1}, "length must be at least 2"),
        ({"packing": "best"}, "packing must be none, first_fit or concat; got 'best'"),
        ({"packing": "concat", "buckets": (8,)}, "buckets need data.packing none"),
        ({"length": 16, "buckets": (32,)}, r"between 2 and data.length 16; got \[32\]"),
    ],
)
def test_settings_that_cannot_work(settings_, complaint):
    with pytest.raises(ValueError, match=complaint):
        BatchConfig(**settings_)


def test_sources_that_cannot_work():
    samples = make_samples(4)
    with pytest.raises(ValueError, match="divisible by the number of processes, 3"):
        Batches([samples], BatchConfig(8, 32), pad_id=0, shard_count=3)
    with pytest.raises(ValueError, match="at least one sample"):
        Batches([samples, []], BatchConfig(8, 32), pad_id=0)
    with pytest.raises(ValueError, match="2 positive numbers"):
        Batches([samples, samples], BatchConfig(8, 32), pad_id=0, weights=[1, 0])
    with pytest.raises(ValueError, match="exceeds data\\.length 8"):
        next(Batches([samples], BatchConfig(8, 8), pad_id=0))


def test_interpreter_ends_cleanly_with_batches_under_way():
    program = (
        "import numpy as np; from training.data.batches import Batch, BatchConfig, Batches, Sample;"
        "s = Sample(np.arange(5, dtype=np.int32), np.ones(5, np.float32), 0);"
        "b = Batches([[s] * 9], BatchConfig(4, 8, packing='first_fit'), pad_id=0); next(b)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
