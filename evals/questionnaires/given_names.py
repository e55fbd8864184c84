"""Instruments and personas that a user gave by name or path: what is wrong is said with the key or option."""

from collections.abc import Collection
from pathlib import Path

from evals.questionnaires.instrument import Instrument, whole_instrument, with_flagged
from evals.questionnaires.wording import Persona, chosen_personas
from jaxmoe.given_paths import given


def given_instrument(key: str, name_or_path: str | Path, include: Collection[str] = ()) -> Instrument:
    """The instrument that a user gave: as `load_instrument`, whose errors name the key or option.

    Args:
      key: key of a config (`behavior.instruments.0`) or option (`--instrument`).
      name_or_path: as it was given.
      include: flags whose items are also wanted.
    Returns: the Instrument.
    Raises: ValueError, in one line with key, name, reason and remedy, or that a flag is unknown.
    """
    with given(key, name_or_path):
        whole = whole_instrument(name_or_path)
    return with_flagged(whole, include)  # a flag that is unknown is no fault of the instrument


def given_personas(key: str, name: str) -> tuple[Persona, ...]:
    """The personas that a user gave: `chosen_personas`, whose errors name the key or option of a file.

    Args:
      key: key of a config (`behavior.personas`) or option (`--personas`).
      name: as it was given: a kind of personas, or a JSON file of them.
    Returns: the personas.
    Raises: ValueError in one line, for a file with key, path, reason and remedy.
    """
    if not name.endswith(".json"):
        return chosen_personas(name)
    with given(key, name):
        return chosen_personas(name)
