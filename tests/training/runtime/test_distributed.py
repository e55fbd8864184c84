"""The mesh of a config, and how a batch is shared on it."""

import pytest

from training.runtime.distributed import MeshConfig, share_of_batch


def test_the_axis_of_experts_shares_the_batch():
    mesh = MeshConfig(expert=2, tensor=2).make()
    assert mesh.shape == {"data": 2, "fsdp": 1, "expert": 2, "tensor": 2}
    with pytest.raises(ValueError, match=r"mesh\.expert x step\.accumulate = 4 x 1; got 2"):
        share_of_batch(mesh, 2)
