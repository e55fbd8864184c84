"""LoRA that starts in the base's own directions: PiSSA in the strongest, MiLoRA in the weakest.

    W0 = U S Vᵀ;   scale · A B = U_r S_r V_rᵀ,   A = U_r √(S_r / scale),   B = √(S_r / scale) V_rᵀ

The rest, W0 − scale · A B, is frozen in W0's place, so that the new model gives its base's outputs. A saved
adapter takes the rest along, as it belongs to no other base; merged, it leaves one kernel.

Not covered: routed experts, whose sum depends on the token; DoRA; a quantized base.

References: Meng et al. 2024, arXiv:2404.02948 (PiSSA); Wang et al. 2024, arXiv:2406.09044 (MiLoRA).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import jax
import numpy as np

from jaxmoe.language_model import LanguageModel
from jaxmoe.model.quantized import is_quantized
from jaxmoe.model.shapes import Weight
from jaxmoe.weights import convert

Start = Literal["kaiming", "pissa", "milora"]


def start_in_base(lm: LanguageModel, start: Start) -> LanguageModel:
    """The model with its pairs and its frozen kernels as above.

    Args:
      lm: with new plain LoRA; its B are still 0.
      start: pissa or milora; kaiming leaves everything as it is.
    Returns: a model with the same outputs.
    Raises: ValueError for routed experts, DoRA and a quantized base.
    """
    if start == "kaiming":
        return lm
    if lm.experts is None or lm.experts.routing != "none" or lm.experts.dora:
        raise ValueError(f"lora.init={start} is a start of plain LoRA: take adapter=lora")
    trainable, frozen = convert.flatten(lm.weights.trainable), convert.flatten(lm.weights.frozen)
    kernels: dict[str, Weight] = {}
    for path in [path for path in trainable if path.endswith(".experts.a")]:
        projection = path.removesuffix(".experts.a")
        kernel, pair = frozen[f"{projection}.kernel"], (path, f"{projection}.experts.b")
        if is_quantized(kernel):
            raise ValueError(
                f"lora.init={start} changes the frozen kernels: take base_dtype float32 or bfloat16"
            )
        scales = np.asarray(frozen[f"{projection}.experts.scale"], np.float64)
        layers = kernel.shape[0]
        there = lm.experts.layers_with(projection.rpartition(".")[2], layers)
        ranks = [rank * has for rank, has in zip(lm.experts.layer_ranks(layers), there, strict=True)]
        a, b, rest = _split(np.asarray(kernel, np.float32), ranks, scales, start)
        for name, new in zip(pair, (a, b), strict=True):
            old = trainable[name]
            trainable[name] = jax.device_put(new.astype(old.dtype).reshape(old.shape), old.sharding)
        kernels[f"{projection}.kernel"] = jax.device_put(rest.astype(kernel.dtype), kernel.sharding)
    table = convert.weight_table(lm.config)
    names = {tensor.name for tensor in convert.checkpoint_tensors(table, kernels)}
    weights = lm.weights._replace(
        trainable=convert.unflatten(trainable), frozen=convert.unflatten(frozen | kernels)
    )
    return replace(lm, weights=weights, replaced=tuple(sorted({*lm.replaced, *names})))


def _split(
    kernels: np.ndarray, ranks: Sequence[int], scales: np.ndarray, start: Start
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A [L, I, 1, R], B [L, 1, R, O] and the rest [L, I, O] of kernels [L, I, O]; beyond a layer's rank 0."""
    layers, inputs, outputs = kernels.shape
    a, b = np.zeros((layers, inputs, 1, max(ranks))), np.zeros((layers, 1, max(ranks), outputs))
    rest = np.zeros(kernels.shape)
    for layer, (kernel, rank, scale) in enumerate(zip(kernels, ranks, scales, strict=True)):
        u, s, v = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
        chosen = slice(0, rank) if start == "pissa" else slice(max(len(s) - rank, 0), len(s))
        size = np.sqrt(s[chosen] / scale)
        found = len(size)
        a[layer, :, 0, :found], b[layer, 0, :found] = u[:, chosen] * size, size[:, None] * v[chosen]
        rest[layer] = kernel - scale * a[layer, :, 0] @ b[layer, 0]
    return a, b, rest
