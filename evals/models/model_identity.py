"""Which local model gave an answer: its base and revision, and a digest of its weights."""

import hashlib

import jax
import numpy as np
from jax.sharding import Mesh

from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.shapes import Array
from jaxmoe.pretrained import base_revision


def base_and_revision(lm: LanguageModel) -> str:
    """Which base a model has, for a run card: the hub's name and commit, or a folder.

    Args:
      lm: a model, with or without experts; these are not mentioned.
    Returns: "owner/name at commit COMMIT", "FOLDER, no revision", or "in memory" if it came from no files.
    """
    commit = base_revision(lm)
    if lm.source is None:
        return "in memory"
    if commit is None:
        return f"{lm.source}, no revision"
    # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
    name = lm.source.parents[1].name.removeprefix("models--").replace("--", "/")
    return f"{name} at commit {commit}"


def base_and_weights(lm: LanguageModel) -> str:
    """What answers depend on: also tells apart adapters, checkpoints of a run, and folders written anew.

    Args:
      lm: a model, with or without experts.
    Returns: the base and its revision, and a digest of all weights.
    """
    return f"{base_and_revision(lm)}, weights {weights_digest(lm)}"


def weights_digest(lm: LanguageModel) -> str:
    """Identifies a model by a row of every array of its weights.

    Args:
      lm: any model.
    Returns: 16 hexadecimal digits, the same on every process.
    """
    leaves = jax.tree.leaves((lm.weights.trainable, lm.weights.frozen))
    digest = hashlib.sha256()
    for row in _rows(lm.mesh, leaves):
        digest.update(np.asarray(row).tobytes())
    return digest.hexdigest()[:16]


def _rows(mesh: Mesh, leaves: list[Array]) -> list[Array]:
    def middle(leaves: list[Array]) -> list[Array]:
        return [leaf[tuple(size // 2 for size in leaf.shape[:-1])] for leaf in leaves]

    return jax.jit(middle, out_shardings=params.replicated(mesh))(leaves)
