"""Processes, devices and the mesh: start them, and lay batches on them.

Every process runs the same program and feeds its own rows of a batch. Processes agree on decisions from
outside (a signal) before any of them acts, since one host that does what the others do not hangs them all.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmoe.model import params
from jaxmoe.model.mesh import batch_ways
from jaxmoe.model.shapes import PyTree
from training.data.batches import Batch
from training.runtime.lost_process import report_in_one_line


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis of the mesh has; an axis of -1 takes what is left.

    Attributes:
      data: copies of the weights, each with its share of the batch.
      fsdp: devices that each hold a share of every weight and of the batch.
      tensor: devices that split each matrix product.
      expert: devices that share the experts of a mixture-of-experts base, and split the batch.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1

    def make(self) -> Mesh:
        """The mesh over all devices; ValueError if the axes do not fit."""
        return params.make_mesh(self.data, self.fsdp, self.tensor, self.expert)


@dataclass(frozen=True)
class DistributedConfig:
    """How processes find each other.

    Attributes:
      enabled: whether to start JAX's distributed service; null starts it if a coordinator is named, or a TPU
        VM, Slurm step or MPI job is found.
      coordinator: host:port of process 0; null asks the cluster.
      num_processes: processes of the whole run; null asks the cluster.
      process_id: number of this process, from 0; null asks the cluster.
      cpu_devices: pretend that the CPU is this many devices; for trying things out.
      heartbeat_s: seconds without a sign of life after which a process counts as lost and the others end.
    """

    enabled: bool | None = None
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    cpu_devices: int | None = None
    heartbeat_s: int = 20

    def __post_init__(self) -> None:
        if self.heartbeat_s < 1:
            raise ValueError(f"distributed.heartbeat_s must be at least 1; got {self.heartbeat_s}")


def start(config: DistributedConfig) -> None:
    """Starts JAX's distributed service if this run has several processes; call it before anything else
    touches JAX.

    The preemption service is on, so that a SIGTERM to one process lets all of them save the same step.

    Raises: ValueError for a number of processes, or of this one, without a way to the others.
    """
    if config.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    wanted = _several_processes(config) if config.enabled is None else config.enabled
    if not wanted and config.enabled is None:
        _check_alone(config)
    if not wanted or jax.distributed.is_initialized():
        return
    report_in_one_line()
    jax.config.update("jax_enable_preemption_service", True)
    named = config.coordinator is not None
    jax.distributed.initialize(
        config.coordinator,
        config.num_processes,
        config.process_id,
        # with everything given there is nothing to detect, and asking a cloud's metadata server may hang
        cluster_detection_method="deactivate" if named and config.process_id is not None else None,
        heartbeat_timeout_seconds=config.heartbeat_s,
    )


def _several_processes(config: DistributedConfig) -> bool:
    if config.coordinator is not None:
        return True
    tpu_vm = find_spec("libtpu") is not None and any(Path(p).exists() for p in ("/dev/accel0", "/dev/vfio/0"))
    sizes = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return tpu_vm or any(size.isdigit() and int(size) > 1 for size in sizes)


def _check_alone(config: DistributedConfig) -> None:
    """Refuses a run whose processes would each work alone as process 0."""
    numbers = {"num_processes": config.num_processes, "process_id": config.process_id}
    given = [f"distributed.{key}={value}" for key, value in numbers.items() if value is not None]
    if given and config.num_processes != 1:
        needs = "need" if len(given) > 1 else "needs"
        raise ValueError(
            f"{' and '.join(given)} {needs} distributed.coordinator (host:port of process 0), as no cluster "
            "was found; give it, or distributed.enabled=true to let JAX look for a cluster"
        )


def is_main() -> bool:
    """Whether this is the process that prints and writes metrics."""
    return jax.process_index() == 0


class Share(NamedTuple):
    """Which of `count` equal runs of a batch's rows this process feeds."""

    index: int
    count: int


def share_of_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> Share:
    """This process's share of every global batch.

    Args:
      mesh: whose axes data, fsdp and expert share the rows.
      batch_size: rows of the global batch.
      accumulate: micro-batches a step.
    Returns: which rows this process feeds.
    Raises: ValueError if the batch does not divide by the devices that share it and by the micro-batches, or
      the rows of a process's devices are not contiguous.
    """
    spread = batch_ways(mesh)
    if batch_size % (spread * accumulate):
        raise ValueError(
            "data.batch_size must be divisible by mesh.data x mesh.fsdp x mesh.expert x step.accumulate = "
            f"{spread} x {accumulate}; got {batch_size}"
        )
    places = params.batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = sorted({index[0].indices(batch_size)[:2] for index in places.values() if index is not None})
    first, last = rows[0][0], rows[-1][1]
    size = last - first
    if sum(stop - start for start, stop in rows) != size or batch_size % size or first % size:
        raise ValueError(
            "the devices of a process must hold neighbouring rows of the batch; let mesh.tensor divide the "
            f"{jax.local_device_count()} devices of a process"
        )
    return Share(first // size, batch_size // size)


def place_batch(batch: Batch, mesh: Mesh, share: Share) -> Batch:
    """This process's rows as arrays of the whole mesh.

    Args:
      batch: host arrays [rows of this process, ...].
      share: from `share_of_batch`.
    Returns: a batch of jax.Arrays [rows of the global batch, ...], rows spread over data, fsdp
      and expert.
    """
    sharding = params.batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)

    def one(array: np.ndarray) -> jax.Array:
        shape = (array.shape[0] * share.count, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return jax.tree.map(one, batch)


def fetch(tree: PyTree) -> PyTree:
    """Replicated arrays as NumPy; every process has them whole."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
