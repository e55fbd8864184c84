"""Planning of a server: how many slots fit a slice, and how fast they decode at most; by arithmetic alone.

A chip holds its share of the weights and of the slots' keys and values; a tenth of its memory is left to the
programs. A decoding step reads the weights and the contents of the slots once, and multiplies each slot's
token by the weights that it uses:

    t(n) = max((W + n · c · k) / bandwidth, 2 · P · n / peak)        tokens/s = n / t(n)

for n slots with c positions each, k bytes a position and P weights a token. Not counted: what the chips send
each other, reading prompts, sampling, and dequantizing kernels. So the rates are upper bounds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxmoe.adapters.files import read_adapter
from jaxmoe.adapters.stack import stack_adapters
from jaxmoe.base_folder import local_folder
from jaxmoe.generation.engine import EngineConfig
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.quantized import QuantizedDtype, is_quantized
from jaxmoe.pretrained import read_model_config
from jaxmoe.weights import convert
from training.planning import chips
from training.planning.chips import GIB, Chip
from training.planning.flops import step_flops
from training.runtime import config as configs
from training.runtime.distributed import MeshConfig
from training.runtime.given_models import check_base, check_named_adapter
from training.serving.config import ServeConfig, fitted

MIB = 1 << 20
# share of a chip's memory that the programs may take for what they compute with
LEFT = 0.1


class Spread(NamedTuple):
    """How many chips each axis of the mesh has."""

    data: int
    fsdp: int
    tensor: int
    expert: int = 1

    @property
    def ways(self) -> int:
        """Groups of chips that have slots of their own."""
        return self.data * self.fsdp * self.expert


class ServePlan(NamedTuple):
    """What serving needs of a slice.

    Attributes:
      weights: bytes of all weights; weights_held: of one chip's share; group: of those in a base's experts,
        which lie over the axis expert.
      slot: bytes of a slot's keys and values on one chip; position: of one of its positions.
      flops: operations of one token.
      context: positions in a slot, on average.
      wanted: slots in the config.
    """

    chip: Chip
    spread: Spread
    weights: int
    weights_held: int
    slot: int
    position: int
    flops: float
    context: int
    wanted: int
    group: int = 0

    @property
    def slots(self) -> int:
        """Slots that fit, over all chips; 0 if the weights alone do not."""
        room = self.chip.memory_bytes * (1 - LEFT) - self.weights_held
        return max(0, int(room // self.slot)) * self.spread.ways

    def step_s(self, slots: int) -> float:
        """Least seconds of a decoding step with this many texts in progress."""
        own = -(-slots // self.spread.ways)
        # a weight spread over fsdp is gathered and then read whole; an expert's tokens are sent to it
        whole = self.weights - self.group + self.group / self.spread.expert
        read = whole / self.spread.tensor + own * self.context * self.position
        products = own * self.flops / self.spread.tensor
        return max(read / self.chip.memory_bandwidth, products / self.chip.peak_flops)

    def rate(self, slots: int) -> float:
        """New tokens a second at most, of all texts together."""
        return slots / self.step_s(slots)


def plan_serve(
    shape: ModelConfig,
    experts: ExpertConfig | None,
    chip: Chip,
    spread: Spread,
    engine: EngineConfig,
    *,
    dtype: str,
    base_dtype: QuantizedDtype | None = None,
) -> ServePlan:
    """Counts bytes and operations.

    Args:
      shape: of the base.
      experts: added to it; None for none.
      chip: of which the slice is made.
      spread: how its chips are spread over the mesh.
      engine: slots, and the longest text in them; texts are taken to be half as long on average.
      dtype: of weights, products and the cache.
      base_dtype: of the kernels of attention and feed-forward; None holds them in dtype.
    Returns: the plan.
    """
    size = jnp.dtype(dtype).itemsize
    parts = params.split(params.abstract(shape, experts, base_dtype))
    weights, group = params.storage_bytes(parts.trainable), 0
    for path, leaf in convert.flatten(parts.frozen).items():
        # quantized kernels keep their own dtypes, and the experts' constants are float32 as the experts are
        own = is_quantized(leaf) or ".experts." in path
        held = params.storage_bytes(leaf) if own else params.count(leaf) * size
        weights += held
        group += held if ".mlp.group." in path else 0
    heads = shape.num_kv_heads
    heads_held = heads // spread.tensor if heads % spread.tensor == 0 else heads
    position = 2 * shape.num_layers * heads_held * shape.head_dim * size
    context = max(engine.max_length // 2, 1)
    # a text of twice the average length: its causal half is what a token at an average position sees
    flops = step_flops(shape, experts, "all", batch=1, length=2 * context, remat="none").model
    return ServePlan(
        chip,
        spread,
        weights,
        -(-(weights - group + group // spread.expert) // (spread.fsdp * spread.tensor)),
        position * engine.lengths()[-1],
        position,
        flops / 3 / (2 * context),
        context,
        engine.slots,
        group,
    )


def plan_server(
    overrides: Sequence[str], topology_text: str, name: str | None, save: Path | None
) -> ServePlan:
    """Plans `python -m training serve` and prints what it found.

    Args:
      overrides: `key=value` of the command.
      topology_text: as training.planning.chips.parse reads it.
      name: YAML file of the command; None for none.
      save: file for the plan as JSON; None writes none.
    Returns: the plan.
    Raises: ValueError for a run in place of a base, a slice without published figures, and texts beyond the
      positions of the model.
    """
    config = configs.load(ServeConfig, name, overrides)
    topology = chips.parse(topology_text)
    if topology.chip is None:
        raise ValueError(f"a server is planned for chips with published figures; {topology_text} has none")
    if config.base is None:
        raise ValueError("a server is planned by files: give base (and adapter), such as a run's export")
    check_base("base", config.base)
    named = {"adapter": config.adapter} if config.adapter else {}
    for key, adapter in (named | {f"adapters.{own}": one for own, one in config.adapters.items()}).items():
        check_named_adapter(key, adapter)
    shape = read_model_config(local_folder(config.base))
    plan = plan_serve(
        shape,
        _experts(config.adapter, config.adapters, shape),
        topology.chip,
        _spread(config.mesh, topology.count, shape),
        fitted(config.engine, shape),
        dtype=config.dtype,
        base_dtype=config.base_dtype,
    )
    Console(markup=False, emoji=False).print(serve_table(plan, f"serving {config.base} on {topology_text}"))
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        rates = {str(count): plan.rate(count) for count in _counts(plan)}
        found = {"command": "serve", "config": configs.to_dict(config), "slots": plan.slots, "rates": rates}
        found |= {"memory": {"weights": plan.weights_held, "slot": plan.slot}}
        save.write_text(json.dumps(found, indent=2) + "\n")
    return plan


def _experts(adapter: str | None, adapters: Mapping[str, str], shape: ModelConfig) -> ExpertConfig | None:
    """Those that the server loads: an adapter's, or several adapters' side by side."""
    if adapters:
        read = {own: read_adapter(local_folder(folder), shape) for own, folder in adapters.items()}
        return stack_adapters(read, shape).adapter.config
    return None if adapter is None else read_adapter(local_folder(adapter), shape).config


def _spread(mesh: MeshConfig, count: int, shape: ModelConfig) -> Spread:
    """The axes over this many chips; -1 takes what the others leave."""
    sizes = [mesh.data, mesh.fsdp, mesh.tensor, mesh.expert]
    if sizes.count(-1) == 1:
        known = -sizes[0] * sizes[1] * sizes[2] * sizes[3]
        sizes[sizes.index(-1)] = max(count // known, 1)
    found = Spread(*sizes)
    if min(sizes) < 1 or found.ways * found.tensor != count:
        raise ValueError(
            f"mesh axes data x fsdp x tensor x expert must multiply to the {count} chips; got "
            f"{mesh.data} x {mesh.fsdp} x {mesh.tensor} x {mesh.expert} (-1 takes what is left)"
        )
    params.check_expert_ways(shape, found.expert)
    return found


def _counts(plan: ServePlan) -> list[int]:
    """Numbers of texts in progress for which a rate is shown: one, the config's slots, and all that fit."""
    return sorted({count for count in (1, plan.wanted, plan.slots) if 0 < count <= plan.slots})


def serve_table(plan: ServePlan, title: str) -> Table:
    """The plan as a table of one chip's share.

    Args:
      plan: from `plan_serve`.
      title: above the table.
    Returns: a table for rich's console.
    """
    out = Table(title=title, show_header=False)
    total = plan.chip.memory_bytes
    out.add_row("memory: weights", f"{plan.weights_held / GIB:.2f} GiB of {total / GIB:.0f} GiB")
    out.add_row("memory: a slot", f"{plan.slot / MIB:,.1f} MiB")
    out.add_row(f"slots that fit, {LEFT:.0%} left to the programs", f"{plan.slots:,}")
    if plan.wanted > plan.slots:
        out.add_row("engine.slots", f"{plan.wanted} do not fit")
    for count in _counts(plan):
        told = f"{plan.rate(count):,.0f} ({1e3 * plan.step_s(count):.2f} ms a step)"
        out.add_row(f"new tokens/s at most, {count:,} of {plan.context:,} tokens", told)
    return out
