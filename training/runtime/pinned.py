"""Records the commit of what a run reads from the hub, so that the same bytes are read ever after."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from jaxmoe.base_folder import pinned
from jaxmoe.given_paths import given
from training.runtime import config as configs
from training.runtime.given_models import check_base, check_tokenizer
from training.runtime.run_folder import begun

# keys of a config that may name a repository
NAMES = ("base", "adapter", "tokenizer", "data.tokenizer")

Config = TypeVar("Config")


def pin(config: Config, folder: Path | None = None) -> Config:
    """A command's config with every hub id as owner/name@commit; names of local files stay as they are.

    Args:
      folder: of a run to be resumed: a name recorded there with its commit keeps that commit, unless the
        config names a revision.
    Returns: a new config; the given one is left as it is.
    Raises: ValueError, in one line that names the key, if a repository cannot be fetched, or there is no
      base or tokenizer of that name.
    """
    before = configs.read(folder / "config.yaml") if folder is not None and begun(folder) else {}
    for path in NAMES:
        config = _with_pinned(config, path.split("."), before, path)
    return config


def _with_pinned(config: Config, path: Sequence[str], before: object, key: str) -> Config:
    name, *rest = path
    if not is_dataclass(config) or name not in {field.name for field in fields(config)}:
        return config
    value, old = getattr(config, name), before.get(name) if isinstance(before, dict) else None
    if rest:
        new = _with_pinned(value, rest, old, key)
    elif isinstance(value, str):
        with given(key, value):
            new = pinned(value, old if isinstance(old, str) else None, weights=name != "tokenizer")
        if name == "base":
            check_base(key, new)
        elif name == "tokenizer":
            check_tokenizer(key, new)
    else:
        return config
    return cast(Config, replace(config, **{name: new}))  # type: ignore[type-var]
