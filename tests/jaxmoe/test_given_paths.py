"""What is said of a path that a user gave."""

from pathlib import Path

import pytest

from jaxmoe.given_paths import Needed, check_writable, given


def refused(key: str, path: str | Path, needs: Needed | None = None, error: Exception | None = None) -> str:
    def block() -> None:
        with given(key, path, needs):
            if error is not None:
                raise error

    with pytest.raises(ValueError) as refusal:
        block()
    return str(refusal.value)


def test_a_missing_relative_path_is_told_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("data.path", "no/such.json", "file") == (
        f"data.path: there is no file no/such.json (looked for in {tmp_path}); put it there or give another: "
        "data.path=..."
    )


@pytest.mark.parametrize(
    ("key", "remedy"),
    [("a.b", "give another: a.b=..."), ("--in", "give another: --in PATH"), ("DATA", "give another DATA")],
)
def test_the_remedy_is_what_one_types(key, remedy):
    assert refused(key, "/none/x", "file or folder").endswith(remedy)


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (file := tmp_path / "x").write_text("x")
    assert "is a folder; a file is needed" in refused("k", tmp_path, "file")
    assert "is a file; a folder is needed" in refused("k", file, "folder")
    with given("k", file, "file"), given("k", tmp_path, "folder"), given("k", file, "file or folder"):
        pass


def test_an_error_of_the_block_gets_the_key_once(tmp_path):
    said = refused("k", tmp_path, error=ValueError(f"{tmp_path}:\n no config.json"))
    assert said == f"k: {tmp_path}: no config.json; give another: k=..."
    assert refused("k", tmp_path, error=ValueError(said)) == said


def test_a_system_error_is_told_without_its_number(tmp_path):
    said = refused("k", tmp_path, error=IsADirectoryError(21, "Is a directory", str(tmp_path)))
    assert said == f"k: {tmp_path} cannot be read (Is a directory); give another: k=..."


def test_other_errors_pass():
    with pytest.raises(KeyError), given("k", "x"):
        raise KeyError


def test_what_cannot_be_written_is_told_beforehand(tmp_path):
    (file := tmp_path / "x").write_text("x")
    check_writable("k", tmp_path / "new" / "y.json", "file")
    check_writable("k", file, "file")
    check_writable("k", tmp_path, "folder")
    with pytest.raises(ValueError, match=r"^k: .*x is a file; a folder is written there; give another: k="):
        check_writable("k", file, "folder")
    with pytest.raises(ValueError, match=r"^--out: .* is a folder; a file is written there; .*--out PATH$"):
        check_writable("--out", tmp_path, "file")
    with pytest.raises(ValueError, match=r"^k: .*x/y cannot be written: .*x is a file, no folder"):
        check_writable("k", file / "y", "folder")
