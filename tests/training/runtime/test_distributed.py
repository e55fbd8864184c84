"""The mesh of a config, and how a batch is shared on it."""

import pytest

from training.runtime import distributed
from training.runtime.distributed import DistributedConfig, MeshConfig, share_of_batch, start


def test_the_axis_of_experts_shares_the_batch():
    mesh = MeshConfig(expert=2, tensor=2).make()
    assert mesh.shape == {"data": 2, "fsdp": 1, "expert": 2, "tensor": 2}
    with pytest.raises(ValueError, match=r"mesh\.expert x step\.accumulate = 4 x 1; got 2"):
        share_of_batch(mesh, 2)


def test_numbers_of_processes_without_a_way_to_them_are_refused(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"num_processes=2 and distributed\.process_id=1 need distributed"):
        start(DistributedConfig(num_processes=2, process_id=1))
    with pytest.raises(ValueError, match=r"^distributed\.process_id=1 needs distributed\.coordinator"):
        start(DistributedConfig(process_id=1))
    start(DistributedConfig(num_processes=1, process_id=0))  # alone is what was asked for
    start(DistributedConfig(enabled=False, num_processes=2, process_id=1))
    asked = []
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda *a, **k: asked.append(a))
    monkeypatch.setattr(distributed, "report_in_one_line", lambda: None)
    monkeypatch.setattr(distributed.jax.config, "update", lambda *a: None)
    start(DistributedConfig(enabled=True, num_processes=2, process_id=1))
    assert asked == [(None, 2, 1)]
