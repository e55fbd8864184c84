"""The wheel: what is in it, and that it works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without isolation: hatchling is part of the extra `test`."""
    pytest.importorskip(
        "hatchling", reason="the build backend is in the extra test: pip install -e '.[test]'"
    )
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's files in a folder of their own."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_all_files_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "jaxmoe", "rl", "evals", "training", "configs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {f"training/{f}" if f.startswith("configs/") else f for f in tracked} <= inside
    assert "jaxmoe/weights/hf/modeling_loramoe.py" in inside
    tops = {name.partition("/")[0] for name in inside}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxmoe", "rl", "evals", "training"}


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """A command of the installed package, in a folder where there is nothing."""
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_it_finds_its_configs_and_knows_its_version(installed, tmp_path):
    code = (
        "import training.__main__, training.runtime.shipped as s, training.runtime.version as v\n"
        "print(training.__main__.__file__)\nprint(v.version())\nprint(' '.join(s.names()))\n"
    )
    place, version, names = run(installed, tmp_path, "-c", code).splitlines()
    assert Path(place).is_relative_to(installed)
    assert f"jaxmoe-{version}.dist-info" in {path.name for path in installed.iterdir()}
    configs = ROOT / "configs"
    assert set(names.split()) == {
        str(p.relative_to(configs).with_suffix("")) for p in configs.rglob("*.yaml")
    }


@pytest.mark.parametrize("arguments", [["training", "demo", "--help"], ["evals.score", "--help"]])
def test_installed_commands_help(installed, tmp_path, arguments):
    assert "Usage" in run(installed, tmp_path, "-m", *arguments)


@pytest.mark.slow  # `make dist` does the same with the wheel
def test_installed_it_trains_by_short_names(installed, tmp_path):
    """Pretraining and fine-tuning of the tiny configs, two steps each, in an empty folder."""
    few = ("steps=2", "watch.plots=false", "data.sources.0.limit=200", "data.length=64")
    data = (f"data.data_dir={tmp_path / 'tfds'}", "optimizer.warmup_steps=0", "optimizer.warmup_ratio=0")
    run(installed, tmp_path, "-m", "training", "pretrain", "--config", "pretrain/tiny", *few, *data)
    run(installed, tmp_path, "-m", "training", "sft", "--config", "sft/tiny", *few, *data, "valid_every=0")
    assert (tmp_path / "runs" / "sft-tiny" / "export" / "adapter_model.bin").is_file()


def test_the_script_is_declared(installed):
    text = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "jaxmoe = training.__main__:main" in text
