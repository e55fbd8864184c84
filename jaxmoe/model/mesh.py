"""The mesh's axes, and over which of them the rows of a batch are split.

A mesh with fewer axes (a user's own, say) acts as if each missing axis had one device.
"""

import math

from jax.sharding import Mesh

MESH_AXES = ("data", "fsdp", "expert", "tensor")
# The batch is split over all but tensor; weights over fsdp (rows) and tensor (columns), a base's experts over
# expert.
BATCH_AXES = ("data", "fsdp", "expert")


def devices_along(mesh: Mesh, axis: str) -> int:
    """Devices along an axis.

    Args:
      mesh: any.
      axis: its name.
    Returns: their number; 1 where the mesh has no such axis.
    """
    return mesh.shape.get(axis, 1)


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes that split a batch's rows."""
    return tuple(axis for axis in BATCH_AXES if axis in mesh.shape)


def batch_ways(mesh: Mesh) -> int:
    """Parts into which a batch's rows are split."""
    return math.prod(devices_along(mesh, axis) for axis in BATCH_AXES)


def even_rows(mesh: Mesh, least: int) -> int:
    """The fewest rows, at least `least`, that the mesh splits evenly.

    Args:
      mesh: any.
      least: rows that are needed.
    Returns: their number.
    """
    ways = batch_ways(mesh)
    return -(-least // ways) * ways


def row_axes(mesh: Mesh, rows: int) -> tuple[str, ...] | None:
    """The axes that split this many rows.

    Args:
      mesh: any.
      rows: of a batch.
    Returns: their names; None if they do not divide the rows, so that every device has all of them.
    """
    return None if rows % batch_ways(mesh) else batch_axes(mesh)
