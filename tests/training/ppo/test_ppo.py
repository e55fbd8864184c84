"""PPO runs from a config: resumed runs repeat unbroken ones, problems that cannot be used, the four rows."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxmoe
from jaxmoe.datasets.programs import pretraining_texts, problems, write_problems
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from tests.tolerances import rounding_bound
from training.__main__ import app
from training.commands.export import load_run
from training.ppo import train as ppo
from training.runtime import config as configs
from training.runtime.metrics import read_lines

TINY = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
VOCABULARY = 320
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model with random weights, and eight easy problems, in files."""
    folder = tmp_path_factory.mktemp("base")
    texts = [text for text, _ in zip(pretraining_texts(60), range(60), strict=True)]
    tokenizer = train_bpe(texts, VOCABULARY)
    config = ModelConfig(
        vocab_size=VOCABULARY,
        head_dim=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TINY,
    )
    mesh = params.single_device_mesh()
    lm = LanguageModel(config, params.split(params.build(config, std=0.3), "all"), mesh)
    jaxmoe.save(lm, folder / "model", "hf", tokenizer=tokenizer)
    write_problems(folder / "problems.json", problems(24)[::3])
    return folder


def settings(base, output, **changes):
    values = {
        "base": str(base / "model"),
        "output": str(output),
        "rounds": 4,
        "experts": {"num_experts": 2, "rank": 2},
        "problems": {"path": str(base / "problems.json")},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "response_tokens": 64,
            "prompt_tokens": 512,
            "room": 1.0,
            "smallest_bucket": 512,
            "form": "completion",
        },
        "ppo": {"epochs": 2, "minibatches": 2, "kl": {"target": 0.5, "horizon": 50}},
        "optimizer": {"lr": 1e-2, "schedule": "cosine"},
        "critic": {"body": "frozen"},
        "evaluation": {"every": 2},
        "mesh": {"data": 1},
        "distributed": {},
        "checkpoint": {"every": 2, "keep": 3},
        "watch": {"tensorboard": False, "progress": False},
    }
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) and name in values else value
    if values.get("algorithm", "ppo") != "ppo" and "critic" not in changes:
        del values["critic"]
    return configs.parse(ppo.PPORunConfig, values)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The first of the session's devices."""
    monkeypatch.setattr(
        "training.runtime.distributed.MeshConfig.make", lambda self: params.single_device_mesh()
    )


def started(values: dict, file: Path, **distributed) -> subprocess.Popen:
    """The command in a process of its own."""
    file.write_text(json.dumps(values | {"distributed": distributed}))
    command = [sys.executable, "-m", "training", "ppo", "--config", str(file)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_after(values: dict, folder: Path, rounds: int) -> None:
    """The command in a process of its own, killed when so many rounds are recorded."""
    process = started(values, folder.with_suffix(".yaml"), cpu_devices=1)
    deadline = time.monotonic() + 240
    while not any(r["step"] >= rounds for r in read_lines(folder / "metrics.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run is too slow"
        time.sleep(0.01)
    process.kill()
    process.communicate()


@pytest.mark.slow  # tests/training/test_faults.py holds the same for one device in every run
def test_a_killed_run_repeats_an_unbroken_one_bitwise(base, tmp_path, capsys):
    """SIGKILL in the midst of a round, then to the end: weights, metrics, curriculum as without it."""
    whole = ppo.main(settings(base, tmp_path / "whole", rounds=6))
    assert whole.finished
    values = configs.to_dict(settings(base, tmp_path / "broken", rounds=6))
    killed_after(values, tmp_path / "broken", 4)
    assert not (tmp_path / "broken" / "export").exists()
    capsys.readouterr()
    again = ppo.main(settings(base, tmp_path / "broken", rounds=6))
    assert re.search("resumed from round [24]", capsys.readouterr().err)
    for a, b in zip(
        jax.tree.leaves(whole.lm.weights.trainable), jax.tree.leaves(again.lm.weights.trainable), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    first, second = (timeless(tmp_path / name) for name in ("whole", "broken"))
    assert first == second
    assert {r["beta"] for r in first if "beta" in r} != {0.02}  # the controller moved, and was restored
    told = [
        json.loads((tmp_path / n / "checkpoints/6/data/metadata").read_text()) for n in ("whole", "broken")
    ]
    assert told[0] == told[1]


def timeless(folder: Path) -> list[dict[str, float]]:
    """Metrics without what is measured in seconds."""
    slow = ("seconds", "tokens_per_s")
    return [
        {key: value for key, value in record.items() if not key.endswith("_s") and key not in slow}
        for record in read_lines(folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize("decoding", ["batches", pytest.param("engine", marks=pytest.mark.slow)])
def test_two_processes_grade_and_learn_as_one(base, tmp_path, decoding):
    """Each grades its own programs; what is reported is of all of them."""
    changes = {"rounds": 1, "mesh": {"data": 2}, "evaluation": {"every": 1, "limit": 2}, "export": False}
    changes["rollout"] = {"decoding": decoding}
    one, two = (configs.to_dict(settings(base, tmp_path / name, **changes)) for name in ("one", "two"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {"coordinator": f"127.0.0.1:{port}", "num_processes": 2, "cpu_devices": 1}
    processes = [started(one, tmp_path / "one.yaml", cpu_devices=2)]
    processes += [started(two, tmp_path / f"{i}.yaml", process_id=i, **together) for i in range(2)]
    for process in processes:
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
    alone, shared = timeless(tmp_path / "one"), timeless(tmp_path / "two")
    assert len(alone) == 3  # before, the round, after
    for expected, found in zip(alone, shared, strict=True):
        # sums in another order, of one update in which AdamW divides by what is nearly 0: no bound follows
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_what_a_run_leaves(base, tmp_path):
    done = ppo.main(settings(base, tmp_path / "run", rounds=1, algorithm="grpo", mask="response"))
    record = next(r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "reward" in r)
    assert {
        "reward",
        "pass_rate",
        "share_compile_error",
        "kl",
        "entropy",
        "clip_fraction",
        "masked_share",
    } <= set(record)
    assert {"stage_0", "grade_latency_max_s", "tokens_per_s"} <= set(record)
    assert record["first_ratio_error"] == 0.0
    assert record["masked_share"] == 0.0
    shown = read_lines(tmp_path / "run" / "samples.jsonl")
    assert shown
    assert shown[0]["program"].startswith(shown[0]["given"])
    assert "".join(text for text, _ in shown[0]["tokens"]) == shown[0]["response"]
    assert set(shown[0]["rewards"]) == {"tests", "KL to the reference"}
    assert shown[0]["rewards"]["tests"] == shown[0]["reward"]
    assert "Round 1" in (tmp_path / "run" / "samples.html").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "plots" / "learning.png").stat().st_size > 0
    back = jaxmoe.load(base / "model", adapter=tmp_path / "run" / "export")
    for a, b in zip(
        jax.tree.leaves(back.weights.trainable), jax.tree.leaves(done.lm.weights.trainable), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # the run folder says that it is of ppo: its policy is exported and read again from the checkpoint
    lm, tokenizer = load_run(tmp_path / "run", done.lm.mesh)
    jax.tree.map(np.testing.assert_array_equal, lm.weights.trainable, done.lm.weights.trainable)
    assert len(tokenizer) == VOCABULARY
    result = CliRunner().invoke(app, ["export", f"run={tmp_path / 'run'}", "format=loramoe"])
    assert result.exit_code == 0, result.output
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        exported = [tmp_path / "run" / place / name for place in ("export", "export-loramoe")]
        assert exported[0].read_bytes() == exported[1].read_bytes()


def test_a_renewed_reference_is_the_policy_and_survives_a_resume(base, tmp_path):
    changes = {
        "ppo": {"minibatches": 1, "kl": {"sync_every": 2}},
        "critic": {"body": "experts"},
        "optimizer": {"schedule": "constant"},
        "evaluation": {"every": 0},
        "export": False,
    }
    ppo.main(settings(base, tmp_path / "whole", rounds=4, **changes))
    ppo.main(settings(base, tmp_path / "broken", rounds=3, **changes))
    before = (tmp_path / "broken" / "config.yaml").read_bytes()
    other = settings(
        base,
        tmp_path / "broken",
        rounds=4,
        resume="changed",
        **changes | {"experts": {"num_experts": 3, "rank": 2}},
    )
    with pytest.raises(ValueError, match=r"checkpoint 3 of .*broken does not fit .*: trainable .* has shape"):
        ppo.main(other)
    assert (tmp_path / "broken" / "config.yaml").read_bytes() == before
    ppo.main(settings(base, tmp_path / "broken", rounds=4, resume="changed", **changes))
    whole, broken = ([r for r in timeless(tmp_path / n) if "kl" in r] for n in ("whole", "broken"))
    assert whole == broken
    kl = [record["kl"] for record in whole]
    # round 2 is held against the base, round 3 against the policy after round 2, which is the policy itself
    assert kl[1] > 1e-3
    # log-probabilities of some 10 nats, computed by two programs, differ by float32's rounding
    rounding = rounding_bound(16, 10.0)
    assert abs(kl[0]) < rounding
    assert abs(kl[2]) < rounding
    assert abs(kl[3]) > rounding


def test_dapo_samples_until_groups_differ_and_says_so(base, tmp_path):
    done = ppo.main(
        settings(
            base,
            tmp_path / "run",
            rounds=2,
            algorithm="dapo",
            ppo={"epochs": 1, "minibatches": 1, "dynamic_sampling": 3, "kl": {}},
            export=False,
        )
    )
    assert done.finished
    records = [r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "reward" in r]
    for record in records:
        assert {"batches", "groups_with_contrast", "pass_rate_sampled", "overlong_penalty"} <= set(record)
        # a model of random weights writes nothing that compiles, so the round gives up after three batches
        assert record["groups_with_contrast"] == 0.0
        assert record["batches"] == 3.0


def test_solutions_that_fail_are_named_and_skipped_or_refused(base, tmp_path, caplog):
    rows = json.loads((base / "problems.json").read_text())
    rows[0]["canonical_solution"] = rows[0]["starter_code"] + "    return 'wrong'\n"
    (tmp_path / "p.json").write_text(json.dumps(rows))
    strict = settings(
        base, tmp_path / "a", problems={"path": str(tmp_path / "p.json"), "held_out": 0.0, "bad": "error"}
    )
    with pytest.raises(ValueError, match=f"fail their own tests: {rows[0]['id']}"):
        ppo.main(strict)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rounds": 0}, "rounds"),
        ({"adapter": "none", "critic": {"body": "experts"}}, "critic.body"),
        ({"algorithm": "rloo", "rollout": {"samples": 1}}, "rollout.samples"),
        ({"ppo": {"kl": {"coefficient": -1.0}}}, "ppo.kl.coefficient"),
        ({"algorithm": "dapo", "ppo": {"gae_lambda": 0.9}}, "algorithm=dapo does not use ppo.gae_lambda"),
        ({"algorithm": "grpo", "critic": {"body": "frozen"}}, "algorithm=grpo trains no critic"),
        ({"ppo": {"kl": {"sync_every": 2}}}, "critic.body=frozen reads the reference"),
    ],
)
def test_settings_that_cannot_work_are_named(base, tmp_path, changes, named):
    with pytest.raises(ValueError, match=named):
        settings(base, tmp_path, **changes)
