"""Launch files, as far as they can be tested without a cloud: they parse, their commands are ours."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs import commands

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def shell_is_valid(text: str) -> None:
    parsed = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert parsed.returncode == 0, parsed.stderr


def training_commands(text: str) -> list[list[str]]:
    return [words for words in commands.commands_of(text) if words[0] in ("jaxmoe", "srun")]


def test_every_launch_file_is_tested():
    names = {path.name for path in LAUNCH.iterdir()}
    assert names == {"Dockerfile", "Dockerfile.dockerignore", "sky_tpu.yaml", "gke_jobset.yaml", "slurm.sh"}


# Dockerfile


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (LAUNCH / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_dockerfile_follows_good_practice():
    found = instructions()
    names = [name for name, _ in found]
    assert set(names) <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    base = dict(found)["FROM"]
    assert ":" in base
    assert not base.endswith(":latest")
    for name, text in found:
        if name == "RUN":
            shell_is_valid(text)
        if "apt-get install" in text:
            assert "--no-install-recommends" in text
            assert "rm -rf /var/lib/apt/lists/*" in text
        if "pip install" in text:
            assert "--no-cache-dir" in text
    assert names.index("USER") < names.index("ENTRYPOINT"), "the command runs without root's rights"
    entry = dict(found)["ENTRYPOINT"]
    assert entry == '["jaxmoe"]', "exec form, so that SIGTERM arrives"


def test_dockerfile_copies_what_exists_and_what_the_package_needs():
    copied = {word for name, text in instructions() if name == "COPY" for word in text.split()[:-1]}
    assert all((ROOT / path).exists() for path in copied)
    assert {"jaxmoe", "rl", "evals", "training", "pyproject.toml"} <= copied
    let_in = {
        line.removeprefix("!")
        for line in (LAUNCH / "Dockerfile.dockerignore").read_text().split()
        if line.startswith("!")
    }
    assert let_in == copied


@pytest.mark.parametrize(("device", "extra"), [("cpu", "."), ("cuda", ".[cuda]"), ("tpu", ".[tpu]")])
def test_dockerfile_installs_the_extra_of_its_device(device, extra):
    (run,) = (text for name, text in instructions() if name == "RUN" and "pip install" in text)
    said = subprocess.run(
        ["bash", "-ec", run.replace("pip install", "echo")],
        env={"DEVICE": device, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said[-1] == extra
    commands.check_extras([extra])


def test_dockerfile_refuses_another_device():
    (run,) = (text for name, text in instructions() if name == "RUN" and "pip install" in text)
    done = subprocess.run(
        ["bash", "-ec", run],
        env={"DEVICE": "gpu", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "got gpu" in done.stderr


# SkyPilot and GKE


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / name).read_text())


def test_skypilot_task():
    task = read("sky_tpu.yaml")
    # the fields of SkyPilot's task schema that we use
    assert set(task) == {
        "name",
        "resources",
        "workdir",
        "envs",
        "secrets",
        "file_mounts",
        "setup",
        "run",
    }
    assert task["resources"]["use_spot"]
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] > 0
    for part in ("setup", "run"):
        shell_is_valid(task[part])
    (train,) = training_commands(task["run"])
    commands.check(train, task["envs"])
    assert f"output={next(iter(task['file_mounts']))}/runs/$RUN" in train, "what must outlive the slice"
    commands.check_extras(re.findall(r"\.\[\w+\]", task["setup"]))
    ends_in_an_error_without_export(task["run"].splitlines()[-1], "/shared/runs/$RUN/export")


def ends_in_an_error_without_export(line: str, folder: str) -> None:
    """A run that was stopped exits with 0 and leaves no export; the job must not count as done."""
    assert line.strip() == f'test -d "{folder}"'


def test_gke_job():
    job = read("gke_jobset.yaml")
    (slice_of,) = job["spec"]["replicatedJobs"]
    spec = slice_of["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == rows * columns // chips
    assert pod["terminationGracePeriodSeconds"] <= 30, "spot nodes give no more"
    assert job["spec"]["failurePolicy"]["maxRestarts"] > 0
    (script,) = container["args"]
    shell_is_valid(script)
    (train,) = training_commands(script)
    commands.check(train, {one["name"]: one["value"] for one in container["env"] if "value" in one})
    assert [one["name"] for one in container["env"] if "value" not in one] == ["HF_TOKEN"]
    ends_in_an_error_without_export(script.splitlines()[-1], "$OUTPUT/export")
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def job_script(folder: Path, train: str) -> str:
    """The GKE container's script with another program in the place of the training command."""
    (script,) = read("gke_jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ][0]["args"]
    (line,) = (line for line in script.splitlines() if line.startswith("jaxmoe"))
    return script.replace(line, f"bash -c '{train}' &").replace("$OUTPUT", str(folder))


@pytest.mark.parametrize(
    ("train", "stopped", "code"),
    [
        ("mkdir -p {out}/export", False, 0),
        ("exit 3", False, 3),
        ("true", False, 1),  # it was stopped, saved and left no export
        ('trap "touch {out}/saved; exit 0" TERM; touch {out}/ready; sleep 30 & wait', True, 1),
    ],
)
def test_the_container_passes_signals_on_and_fails_unless_finished(tmp_path, train, stopped, code):
    process = subprocess.Popen(["bash", "-c", job_script(tmp_path, train.format(out=tmp_path))])
    if stopped:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
        process.terminate()
    assert process.wait(20) == code
    assert (tmp_path / "saved").exists() == stopped


# Slurm


def test_slurm_script():
    text = (LAUNCH / "slurm.sh").read_text()
    shell_is_valid(text)
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"], "one process a GPU"
    assert "requeue" in options
    assert options["signal"].startswith("TERM@"), "the tasks get SIGTERM before the limit, not the script"
    (train,) = training_commands(text)
    train = [word for word in train if word != "$@"]
    commands.check(train, {"config": "sft/llama2_7b_h100", "output": "/shared/runs/x"})


@pytest.mark.parametrize(("finished", "requeued"), [(True, False), (False, True)])
def test_slurm_requeues_until_the_run_is_finished(tmp_path, finished, requeued):
    programs = tmp_path / "bin"
    programs.mkdir()
    made = f"mkdir -p {tmp_path}/run/export" if finished else "true"
    for name, body in {"srun": made, "scontrol": f'echo "$@" > {tmp_path}/requeued'}.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    subprocess.run(
        ["bash", str(LAUNCH / "slurm.sh"), "sft/llama2_7b_h100", str(tmp_path / "run")],
        env={"PATH": f"{programs}:/usr/bin:/bin", "SLURM_JOB_ID": "7"},
        check=True,
    )
    assert (tmp_path / "requeued").exists() == requeued
