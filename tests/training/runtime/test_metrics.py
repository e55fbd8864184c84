"""Records of a run: written, cut back on resuming, never half; and the plots made from them."""

import json

import numpy as np
import pytest

from training.plots.figures import smoothed
from training.plots.plot_run import plot_run
from training.runtime.metrics import JsonLines, Recorder, WatchConfig, read_lines


def test_resuming_drops_later_steps_and_half_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonLines(path, resume_at=0)
    for step in range(1, 6):
        first.write({"step": step, "loss": 0.1 * step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # killed here
    assert [r["step"] for r in read_lines(path)] == [1, 2, 3, 4, 5]
    again = JsonLines(path, resume_at=3)
    again.write({"step": 4, "loss": float("nan")})
    again.close()
    assert read_lines(path) == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 0.1 * 3},
        {"step": 4, "loss": None},
    ]


@pytest.mark.parametrize("damaged", ["\0\0\0", '{"step": 2, "lo', "[2]", '{"loss": 2}', "\udcff"])
def test_a_damaged_line_is_left_out_and_said(tmp_path, capsys, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{damaged}\n{{"step": 3}}\n'.encode(errors="surrogateescape"))
    assert read_lines(path) == [{"step": 1}, {"step": 3}]
    assert "metrics.jsonl: 1 damaged of 3 lines left out" in capsys.readouterr().err
    JsonLines(path, resume_at=1).close()
    assert path.read_text() == '{"step": 1}\n'


def test_numbers_survive_exactly(tmp_path):
    value = float(np.float32(1.2345678))
    lines = JsonLines(tmp_path / "m.jsonl", 0)
    lines.write({"step": 1, "loss": value})
    lines.close()
    assert read_lines(tmp_path / "m.jsonl")[0]["loss"] == value


def recorder(folder, main: bool = True, **changes) -> Recorder:
    watch = WatchConfig(progress=False, **changes)
    return Recorder(folder, watch, steps=6, resume_at=0, main=main, title="test")


def test_records_every_nth_step_and_the_last(tmp_path):
    with recorder(tmp_path, every=4, tensorboard=False) as watching:
        for step in range(1, 7):
            watching.step(step, {"loss": 1.0, "tokens": 10.0})
        watching.event(6, "valid", {"loss": 2.0})
    records = read_lines(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [4, 6, 6]
    assert records[0]["tokens_per_s"] > 0
    assert records[2] == {"step": 6, "valid_loss": 2.0}


def test_other_processes_write_nothing(tmp_path):
    with recorder(tmp_path, main=False) as watching:
        watching.step(1, {"loss": 1.0})
        watching.event(1, "valid", {"loss": 1.0})
        watching.routing(1, [{"share": [1.0]}], {})
        watching.say("hello")
    assert not list(tmp_path.iterdir())


def test_tensorboard_files(tmp_path):
    with recorder(tmp_path) as watching:
        watching.step(1, {"loss": 1.0, "tokens": 1.0})
        watching.routing(1, [{"projection": "up_proj"}], {"routing_cv": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"routing/routing_cv" in content


def test_smoothing_is_a_running_mean_that_skips_gaps():
    got = smoothed(np.array([1.0, 3.0, np.nan, 5.0, 7.0]), 2)
    np.testing.assert_allclose(got, [1, 2, 3, 5, 6])


def routing_rows(experts: int) -> list[dict]:
    share = [1 / experts] * experts
    place = {"share": share, "cv": 0.0, "entropy": 1.0, "dead": 0}
    return [
        {"projection": p, "layer": layer, "task": task, **place}
        for p in ("gate_proj", "up_proj")
        for layer in range(3)
        for task in ("other", "knowledge")
    ]


def test_plots_of_a_run(tmp_path):
    records = [
        {"step": i, "loss": None if i == 3 else 1 / i, "balance": 0.1, "grad_norm": 1.0, "lr": 1e-3}
        for i in range(1, 20)
    ]
    lines = [json.dumps(r) for r in records] + [json.dumps({"step": 10, "valid_loss": 0.4})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert [p.name for p in plot_run(tmp_path)] == ["loss.png"]
    record = {"step": 10, "rows": routing_rows(3)}
    (tmp_path / "routing.jsonl").write_text(json.dumps(record) + "\n")
    made = plot_run(tmp_path)
    assert [p.name for p in made] == ["loss.png", "expert_share.png", "routing.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in made)


def test_nothing_to_plot(tmp_path):
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl"):
        plot_run(tmp_path)


@pytest.mark.parametrize("changes", [{"every": 0}, {"routing_every": -1}])
def test_watching_out_of_range(changes):
    with pytest.raises(ValueError, match="watch"):
        WatchConfig(**changes)


def test_only_a_line_feed_ends_a_record(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "said": "a\u2028b\x85c"}\n{"step": 2}\n{"step": 3', encoding="utf-8")
    assert read_lines(path) == [{"step": 1, "said": "a\u2028b\x85c"}, {"step": 2}]
