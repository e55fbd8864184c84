"""An instrument that a user gave by name or path: what is wrong with it is said with its key or option."""

from pathlib import Path

from evals.questionnaires.instrument import Instrument, load_instrument
from jaxmoe.given_paths import given


def given_instrument(key: str, name_or_path: str | Path) -> Instrument:
    """The instrument that a user gave: `load_instrument`, whose errors name the key or option.

    Args:
      key: key of a config (`behavior.instruments.0`) or option (`--instrument`).
      name_or_path: as it was given.
    Returns: the Instrument.
    Raises: ValueError, in one line with key, name, reason and remedy.
    """
    with given(key, name_or_path):
        return load_instrument(name_or_path)
