"""What the routers do, by layer, projection, expert and task type: summed on the device, read at intervals.

Letters: K task kinds (`TASKS`), else as in jaxmoe.model.shapes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmoe.json_values import JsonObject
from jaxmoe.model.layers import Statistics
from jaxmoe.model.shapes import Array, Float, Int, PyTree

# task type 0, task type 1, and all that have no type
TASKS = ("other", "knowledge", "untyped")
# An expert is called dead when it gets less than this part of an even share.
DEAD_BELOW = 0.1


class RoutingSums(NamedTuple):
    """Sums over real tokens since the last report, for one projection."""

    weight_LKE: Float[Array | np.ndarray, "L K E"]
    chosen_LKE: Float[Array | np.ndarray, "L K E"]
    entropy_LK: Float[Array | np.ndarray, "L K"]
    tokens_K: Float[Array | np.ndarray, " K"]


def zeros(layer_experts: dict[str, tuple[int, ...]]) -> dict[str, RoutingSums]:
    """Empty sums for the projections that have routers."""

    def one(counts: tuple[int, ...]) -> RoutingSums:
        layers, kinds, experts = len(counts), len(TASKS), max(counts)
        wide, narrow = np.zeros((layers, kinds, experts), np.float32), np.zeros((layers, kinds), np.float32)
        return RoutingSums(wide, wide.copy(), narrow, np.zeros(kinds, np.float32))

    return {name: one(counts) for name, counts in layer_experts.items()}


def add(
    sums: dict[str, RoutingSums],
    statistics: Statistics,
    task_types_BZ: Int[Array, "B Z"],
    tokens_BZ: Float[Array, "B Z"],
) -> dict[str, RoutingSums]:
    """Adds what one forward pass collected.

    Args:
      sums: by projection, since the last report.
      statistics: of the same projections, by layer, row and sample.
      task_types_BZ: of each sample; other than 0 and 1 counts as untyped.
      tokens_BZ: real tokens of each sample.
    Returns: new sums; the given ones are left as they are.
    """
    kind_BZ = jnp.where((task_types_BZ == 0) | (task_types_BZ == 1), task_types_BZ, 2)
    kind_BZK = (kind_BZ[..., None] == jnp.arange(len(TASKS))[None, None, :]).astype(jnp.float32)
    tokens_K = jnp.einsum("BZ,BZK->K", tokens_BZ, kind_BZK)

    def one(old: RoutingSums, new: PyTree) -> RoutingSums:
        return RoutingSums(
            old.weight_LKE + jnp.einsum("LBZE,BZK->LKE", new.weight_BZE, kind_BZK),
            old.chosen_LKE + jnp.einsum("LBZE,BZK->LKE", new.chosen_BZE, kind_BZK),
            old.entropy_LK + jnp.einsum("LBZ,BZK->LK", new.entropy_BZ, kind_BZK),
            old.tokens_K + tokens_K,
        )

    return {name: one(sums[name], statistics[name]) for name in sums}


def report(sums: dict[str, RoutingSums], layer_experts: dict[str, tuple[int, ...]]) -> list[JsonObject]:
    """One row for each projection, layer and task kind that saw tokens.

    Args:
      sums: on the host, by projection.
      layer_experts: by projection, experts in each layer.
    Returns: rows. Their keys: `projection`, `layer`, `task`, `tokens`; `share` of the routing weight and
      `chosen` share of the choices by expert; `cv`, the standard deviation of the shares (unbiased) over
      their mean; `entropy`, of a token's weights, mean, as a part of ln E; `dead`, how many experts get less
      than a tenth of an even share.
    """
    rows = []
    for projection, collected in sums.items():
        arrays = RoutingSums(*(np.asarray(a, np.float64) for a in collected))
        for layer, count in enumerate(layer_experts[projection]):
            for kind, task in enumerate(TASKS):
                if count and arrays.tokens_K[kind] > 0:
                    place = {"projection": projection, "layer": layer, "task": task}
                    rows.append(place | _describe(arrays, layer, kind, count))
    return rows


def _describe(sums: RoutingSums, layer: int, kind: int, count: int) -> JsonObject:
    tokens = float(sums.tokens_K[kind])
    share = sums.weight_LKE[layer, kind, :count] / max(float(sums.weight_LKE[layer, kind].sum()), 1e-30)
    chosen = sums.chosen_LKE[layer, kind, :count] / max(float(sums.chosen_LKE[layer, kind].sum()), 1e-30)
    spread = float(share.std(ddof=1) / share.mean()) if count > 1 else 0.0
    entropy = float(sums.entropy_LK[layer, kind]) / tokens / np.log(count) if count > 1 else 0.0
    return {
        "tokens": round(tokens),
        "share": [round(float(s), 5) for s in share],
        "chosen": [round(float(c), 5) for c in chosen],
        "cv": round(spread, 5),
        "entropy": round(entropy, 5),
        "dead": int((share < DEAD_BELOW / count).sum()),
    }


def summary(rows: list[JsonObject]) -> dict[str, float]:
    """The report in three numbers: mean CV, mean entropy, and the most dead experts that one router has."""
    if not rows:
        return {}
    return {
        "routing_cv": float(np.mean([row["cv"] for row in rows])),
        "routing_entropy": float(np.mean([row["entropy"] for row in rows])),
        "routing_dead": float(max(row["dead"] for row in rows)),
    }
