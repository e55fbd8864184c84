"""Published figures of accelerators, and the devices of a slice that need not be attached.

Peaks are dense, without sparsity. Sources: Google Cloud's TPU system architecture pages (v4, v5e, v5p, v6e);
NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM).
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      peak_flops: bfloat16 multiplications and additions per second.
      memory_bytes: high-bandwidth memory.
      memory_bandwidth: bytes per second.
      link_bandwidth: bytes per second that a chip can send to its neighbours, all links of one direction
        together.
    """

    name: str
    peak_flops: float
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1228e9, 150e9),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9),
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 448e9),
        Chip("a100", 312e12, 80 * GIB, 2039e9, 300e9),
        Chip("h100", 989e12, 80 * GIB, 3350e9, 450e9),
        Chip("h200", 989e12, 141 * GIB, 4800e9, 450e9),
    )
}
TPU_TYPES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


@dataclass(frozen=True)
class Topology:
    """A slice to plan for.

    Attributes:
      chip: None for plain CPUs, which have no published figures.
      compiled_for: "tpu" if the TPU compiler makes the executable; else "cpu", whose temporaries are used
        instead.
    """

    text: str
    count: int
    chip: Chip | None
    compiled_for: str


def parse(text: str) -> Topology:
    """`v5e:4x4` (a TPU slice), `h100:8` (GPUs) or `cpu:8`.

    Raises: ValueError for another form or an unknown chip.
    """
    name, _, extent = text.partition(":")
    sizes = extent.split("x")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise ValueError(f"--topology reads CHIP:SHAPE as in v5e:4x4, h100:8 or cpu:8; got {text!r}")
    count = 1
    for size in sizes:
        count *= int(size)
    if name == "cpu":
        return Topology(text, count, None, "cpu")
    if name not in CHIPS:
        raise ValueError(f"--topology must name one of cpu, {', '.join(CHIPS)}; got {name!r}")
    return Topology(text, count, CHIPS[name], "tpu" if name in TPU_TYPES else "cpu")


def devices(topology: Topology) -> "list[jax.Device]":
    """The slice's devices: described by the TPU compiler, or as many CPU devices; call it before anything
    touches JAX.

    Raises: ValueError if the TPU compiler is not installed or refuses the shape.
    """
    import jax

    if topology.compiled_for == "cpu":
        jax.config.update("jax_platforms", "cpu")
        try:
            jax.config.update("jax_num_cpu_devices", topology.count)
        except RuntimeError as error:
            if len(jax.devices()) < topology.count:
                raise ValueError(f"{topology.text} must be planned in a fresh process: {error}") from error
        return jax.devices()[: topology.count]
    try:
        import libtpu  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"planning for {topology.text} needs the TPU compiler: "
            "pip install 'jaxmoe[plan]' (or plan for cpu:N)"
        ) from error
    assert topology.chip is not None
    prefix, cores = TPU_TYPES[topology.chip.name]
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["TPU_ACCELERATOR_TYPE"] = f"{prefix}-{topology.count * cores}"
    os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
    os.environ["TPU_LIBRARY_PATH"] = libtpu.get_library_path()
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    jax.config.update("jax_platforms", "cpu")  # only the compiler is there
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.text).devices)
    except Exception as error:  # the compiler reports a bad shape in many ways
        raise ValueError(f"the TPU compiler refuses {topology.text}: {str(error).splitlines()[0]}") from error
