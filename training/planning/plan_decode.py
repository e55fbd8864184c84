"""Planning of generation: the decoding program compiled for a slice that need not be attached."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.table import Table

from jaxmoe.generation import decode as generate
from jaxmoe.generation.decode import DecodeConfig
from jaxmoe.generation.sampling import Sampling
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import PyTree
from jaxmoe.model.transformer import Decoder
from training.planning.chips import GIB, Topology

MIB = 1 << 20


class DecodePlan(NamedTuple):
    """What generation needs on one chip.

    Attributes:
      memory: bytes by kind; "cache" is the keys and values of all rows, a part of the program's temporaries.
      step_s: least time of one token per row, with every weight and the cache read once; None without
        figures.
    """

    rows: int
    prompt: int
    new_tokens: int
    memory: dict[str, int]
    available: int | None
    step_s: float | None

    @property
    def needed(self) -> int:
        """Bytes a chip needs."""
        return sum(size for kind, size in self.memory.items() if kind != "cache")


def make_decode_plan(
    shape: ModelConfig,
    decoder: Decoder,
    topology: Topology,
    mesh: Mesh,
    *,
    rows: int,
    length: int,
    dtype: str,
    compiler_options: Mapping[str, str | bool] | None = None,
) -> DecodePlan:
    """Compiles generation of length / 2 tokens after prompts of length / 2, sampled at top-p 0.95.

    Args:
      decoder: abstract, with shapes and dtypes of its weights.
      topology: gives the chip's memory and bandwidth, if they are published.
      mesh: over the slice's devices.
      rows: sequences generated at once, over the whole mesh.
      length: tokens of a row, prompt and answer.
      dtype: of products and of the cache.
      compiler_options: of XLA.
    Returns: bytes on one chip by kind, and the least seconds per token.
    """
    parts = params.split(decoder)
    places = params.shardings(decoder, mesh)

    def placed(tree: PyTree, shardings: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings
        )

    trainable, frozen = placed(parts.trainable, places[0]), placed(parts.frozen, places[1])
    prompt, new_tokens = length - length // 2, length // 2
    by_rows = params.batch_sharding(mesh)
    tokens = jax.ShapeDtypeStruct((rows, prompt), np.int32, sharding=by_rows)
    limits = jax.ShapeDtypeStruct((rows,), np.int32, sharding=by_rows)
    key = jax.eval_shape(lambda: jax.random.key(0))
    config = DecodeConfig(
        slots=new_tokens,
        sampling=Sampling(1.0, 0, 0.95),
        unrolled=generate.unroll_layers(mesh),
        dtype=jnp.dtype(dtype),
    )
    lowered = generate.run.lower(
        parts._replace(trainable=trainable, frozen=frozen),
        generate.PromptBatch(tokens, tokens, limits),  # type: ignore[arg-type] - their shapes alone
        key,
        config=config,
        mesh=mesh,
    )
    # "some simple data structure", says JAX: the compiler's own
    analysis: Any = lowered.compile(
        compiler_options=dict(compiler_options) if compiler_options else None
    ).memory_analysis()
    ways = batch_ways(mesh)
    position = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * jnp.dtype(dtype).itemsize
    memory = {
        "base": _shard_bytes(frozen),
        "experts": _shard_bytes(trainable),
        "cache": -(-rows // ways) * length * position,
        "temporaries": int(analysis.temp_size_in_bytes),
        "program": int(analysis.generated_code_size_in_bytes),
    }
    step_s = None
    if topology.chip is not None:
        # a gathered weight is read whole on every chip of its fsdp group
        weights = (memory["base"] + memory["experts"]) * mesh.shape["fsdp"]
        step_s = (weights + memory["cache"]) / topology.chip.memory_bandwidth
    available = None if topology.chip is None else topology.chip.memory_bytes
    return DecodePlan(rows, prompt, new_tokens, memory, available, step_s)


def _shard_bytes(tree: PyTree) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def decode_table(plan: DecodePlan, title: str) -> Table:
    """The plan as a table of one chip's share.

    Args:
      plan: from `make_decode_plan`.
      title: above the table.
    Returns: a table for rich's console: memory, and the speed at the memory's peak where that is known.
    """
    out = Table(title=title, show_header=False)
    out.add_row("rows", f"{plan.rows}, {plan.prompt} prompt tokens, {plan.new_tokens} new ones")
    for kind, size in plan.memory.items():
        name = "memory: cache (of the temporaries)" if kind == "cache" else f"memory: {kind}"
        out.add_row(name, f"{size / MIB:,.1f} MiB")
    total = f"{plan.needed / GIB:.2f} GiB"
    fits = "" if plan.available is None else f" of {plan.available / GIB:.0f} GiB"
    out.add_row("memory: all", total + fits)
    if plan.step_s is not None:
        out.add_row("a token, at the memory's peak", f"{plan.step_s * 1e3:.1f} ms")
        out.add_row("new tokens/s, at most", f"{plan.rows / plan.step_s:,.0f}")
    return out
