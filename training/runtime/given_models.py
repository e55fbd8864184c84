"""Models that a config names: looked at before any work is done, so that a bad name costs no time."""

from pathlib import Path

from jaxmoe.base_folder import local_folder
from jaxmoe.given_paths import given
from jaxmoe.pretrained import check_adapter, read_model_config
from jaxmoe.tokenizer import load_tokenizer


def check_run_or_base(run: str | None, step: int | None, base: str | None, **of_base: object) -> None:
    """Checks that a config names one model, and sets nothing that this model would not take.

    Args:
      run: folder of a training run; None if not given.
      step: of the run's checkpoint; None takes the newest.
      base: checkpoint; None if not given.
      of_base: settings that go with base, by their keys; None if not given.
    Raises: ValueError that names the key.
    """
    if (run is None) == (base is None):
        raise ValueError("give either run (the folder of a training run) or base (a checkpoint)")
    if run is None and step is not None:
        raise ValueError(f"step goes with run; a base has no steps (got step {step})")
    for key, value in of_base.items():
        if run is not None and value is not None:
            raise ValueError(f"{key} goes with base; a run has its own")


def check_base(key: str, base: str) -> None:
    """Checks that a base can be found and what kind of model it is; its weights are not read.

    Args:
      key: of the config.
      base: folder, GGUF file, named model or hub id; the last is fetched.
    Raises: ValueError, in one line with key, name, reason and remedy.
    """
    if (Path(base) / "run.json").is_file():
        raise ValueError(
            f"{key}: {base} is the folder of a run, no checkpoint: give run={base} instead of base, "
            f"or {key}={base}/export"
        )
    with given(key, base):
        read_model_config(local_folder(base))


def check_named_adapter(key: str, adapter: str) -> None:
    """Checks that an adapter can be found and is of a known format; its tensors are not read.

    Args:
      key: of the config.
      adapter: folder or hub id; the latter is fetched.
    Raises: ValueError, in one line with key, name, reason and remedy.
    """
    with given(key, adapter):
        check_adapter(adapter)


def check_tokenizer(key: str, tokenizer: str) -> None:
    """Checks that a tokenizer can be loaded.

    Args:
      key: of the config.
      tokenizer: folder, GGUF file, named model or hub id; the last is fetched.
    Raises: ValueError, in one line with key, name, reason and remedy.
    """
    with given(key, tokenizer):
        load_tokenizer(tokenizer)
