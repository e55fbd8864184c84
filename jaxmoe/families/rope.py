"""Rotary position settings of a config.json, in the old form (rope_theta, rope_scaling) and the new one."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from jaxmoe.json_files import parse
from jaxmoe.model.config import RopeConfig, RopeKind

DEFAULT_THETA = 10000.0
# The settings of each kind of scaling, besides rope_type and rope_theta.
KEYS: dict[RopeKind, tuple[str, ...]] = {
    "default": (),
    "none": (),
    "longrope": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
    ),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
}
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _RopeParameters:
    """`rope_parameters` as transformers 5 writes them; null is the same as a missing key."""

    rope_type: Literal["default", "linear", "dynamic", "llama3", "yarn"] = "default"
    rope_theta: Positive | None = None
    factor: Positive | None = None
    original_max_position_embeddings: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    mscale_all_dim: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    truncate: bool | None = None


def rope_from_hf(parameters: Mapping[str, object], theta: float | None, max_positions: int) -> RopeConfig:
    """Reads `rope_parameters` or the older `rope_scaling`.

    Args:
      parameters: the object in config.json; empty for plain rotary embeddings.
      theta: a separate rope_theta, as in older files; it counts if `parameters` has none.
      max_positions: used as the original context length if Llama 3's scaling or YaRN name none.
    Returns: the settings with all values that their kind needs; those of other kinds are dropped.
    Raises: ValueError for a kind of scaling that the decoder lacks, and for settings that make no sense.
    """
    found = parameters.get("rope_type") or parameters.get("type") or "default"
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(
            f"partial_rotary_factor must be 1, all of a head is rotated here; got "
            f"{parameters['partial_rotary_factor']!r}"
        )
    read = parse(_RopeParameters, {**parameters, "rope_type": found}, "rope_parameters")
    kind = read.rope_type
    given = {k: v for k, v in dataclasses.asdict(read).items() if v is not None}
    needed = [k for k in ("factor", "low_freq_factor", "high_freq_factor") if k in KEYS[kind]]
    if lacking := [k for k in needed if k not in given]:
        raise ValueError(f"rope_type {kind} needs {', '.join(lacking)}; got none")
    if kind in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", max_positions)
    given.setdefault("rope_theta", theta or DEFAULT_THETA)
    kept = ("rope_theta", *KEYS[kind])
    return RopeConfig(rope_type=kind, **{k: v for k, v in given.items() if k in kept})


def rope_to_hf(rope: RopeConfig) -> dict[str, object]:
    """`rope_parameters`, with the keys that matter to this kind of scaling."""
    keys = ("rope_type", "rope_theta", *KEYS[rope.rope_type])
    values = {**dataclasses.asdict(rope)}
    values |= {key: list(getattr(rope, key)) for key in ("short_factor", "long_factor")}
    if rope.partial_rotary_factor != 1:
        keys = (*keys, "partial_rotary_factor")
    return {key: values[key] for key in keys if values[key] is not None}
