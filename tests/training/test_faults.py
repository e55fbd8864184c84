"""Runs that are killed, stopped or find the disk full go on from their last step to the same end, bit by bit.

The short version of benchmarks/faults.py, which says what is held: five faults over fine-tuning and PPO of a
model with random weights.
"""

import json
import subprocess
import sys
from pathlib import Path

import jaxmoe
from jaxmoe.datasets.programs import pretraining_texts, problems, write_problems
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe

ROOT = Path(__file__).parents[2]
COMMON = {
    "experts": {"num_experts": 2, "rank": 2},
    "optimizer": {"lr": 1e-2, "schedule": "constant"},
    "checkpoint": {"every": 1},
    "distributed": {"cpu_devices": 1},
    "watch": {"tensorboard": False, "progress": False, "plots": False, "routing_every": 2},
}
FAULTS = {
    "sft": [("SIGKILL", "saving"), ("disk full", "steps"), ("SIGTERM", "steps")],
    "ppo": [("SIGINT", "steps"), ("SIGKILL", "end")],
}
STEPS = {"sft": 6, "ppo": 3}


def make_base(folder: Path) -> None:
    """A model with random weights, rows to learn and problems to practice on."""
    tokenizer = train_bpe([text for text, _ in zip(pretraining_texts(60), range(60), strict=True)], 320)
    config = ModelConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    mesh = params.single_device_mesh()
    lm = LanguageModel(config, params.split(params.build(config, std=0.3), "all"), mesh)
    jaxmoe.save(lm, folder / "model", "hf", tokenizer=tokenizer)
    write_problems(folder / "problems.json", problems(24)[::3])
    rows = [{"instruction": f"What follows {i}?", "input": "", "output": f"{i + 1}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_work(folder: Path) -> Path:
    """The two commands and the faults that end them, as benchmarks/faults.py reads them."""
    sft = {"data": {"sources": [{"path": str(folder / "rows.jsonl")}], "batch_size": 2, "length": 48}}
    rollout = {"prompts": 2, "samples": 2, "response_tokens": 64, "prompt_tokens": 512}
    ppo = {
        "problems": {"path": str(folder / "problems.json")},
        "rollout": rollout | {"room": 1.0, "smallest_bucket": 512, "form": "completion"},
        "critic": {"body": "frozen"},
        "evaluation": {"every": 0},
        "sandbox": {"workers": 1},
    }
    todo = {}
    for kind, own, length in (("sft", sft, "steps"), ("ppo", ppo, "rounds")):
        config = {"base": str(folder / "model"), "output": "", length: STEPS[kind], **COMMON, **own}
        (folder / f"{kind}.yaml").write_text(json.dumps(config))
        arguments = [kind, "--config", str(folder / f"{kind}.yaml")]
        todo[kind] = {"arguments": arguments, "steps": STEPS[kind], "faults": FAULTS[kind]}
    (folder / "work.json").write_text(json.dumps(todo))
    return folder / "work.json"


def test_nothing_is_lost_and_the_end_is_the_same_bit_by_bit(tmp_path):
    make_base(tmp_path)
    command = [sys.executable, "benchmarks/faults.py", "--work", str(write_work(tmp_path))]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "runs")], cwd=ROOT, capture_output=True, text=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["wrong"] for one in found] == [[], []], done.stderr
    assert done.returncode == 0, done.stderr
    assert [one["kills"] for one in found] == [3, 2]
    assert {fault for one in found for fault, at in one["by fault"].items() if at} == {
        "SIGKILL",
        "SIGTERM",
        "SIGINT",
        "disk full",
    }


FORK_ENDS = """
import warnings
from benchmarks import faults
warnings.simplefilter("ignore")
with faults.temporary_folder() as folder:
    with faults.started(faults.Fork, ["--version"], folder) as process:
        assert process.wait() == 0
    print((folder / "said.txt").read_text())
print(folder.exists())
"""


def test_a_fork_that_ends_leaves_the_temporary_folder_to_the_benchmark():
    done = subprocess.run([sys.executable, "-c", FORK_ENDS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "jaxmoe"
    assert done.stdout.split()[-1] == "False"
