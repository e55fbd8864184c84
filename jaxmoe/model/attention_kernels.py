"""The same attention with the chip's fastest kernel: splash on TPU, cuDNN's flash on GPU, else plain XLA.

The platform is that of the mesh's devices, never of this process: a program for a TPU slice is compiled with
the TPU's kernel even on a machine without a TPU. Results equal `attention.attend` up to rounding wherever a
query sees any key; a query that sees none (padding) gets some finite value, not always the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from jaxmoe.model.attention import AttentionMask, attend
from jaxmoe.model.mesh import row_axes
from jaxmoe.model.shapes import Array, Float, Int

Kernel = Literal["xla", "splash", "cudnn"]
KernelChoice = Literal["auto", "xla", "splash", "cudnn"]

# Splash works on blocks of at least this many slots; longer blocks are faster where they divide the length.
LANES = 128
BLOCKS = (512, 256, LANES)
CUDNN_DTYPES = ("bfloat16", "float16")
CUDNN_LARGEST_HEAD = 128  # on every architecture that has the kernel


def platform_of(mesh: Mesh | None) -> str:
    """tpu, gpu or cpu; without a mesh, that of the default backend."""
    if mesh is None:
        return jax.default_backend()
    platform = mesh.devices.flat[0].platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def choose(
    wanted: KernelChoice,
    mesh: Mesh | None,
    dtype: DTypeLike,
    head_dim: int,
    length: int,
    cap: float | None = None,
    sinks: bool = False,
) -> Kernel:
    """The kernel to use; "auto" takes the fastest that can run these shapes.

    "splash" runs on any platform; off TPU it uses Pallas's interpreter, which is slow and meant for tests.

    Args:
      wanted: a kernel by name, or "auto".
      mesh: on which it is to run.
      dtype: of queries, keys and values.
      head_dim: H.
      length: T, in tokens.
      cap: of the scores; None for none.
      sinks: whether heads have a sink.
    Returns: the kernel's name.
    Raises: ValueError for an unknown name, or for cudnn with a cap, sinks, a dtype or a head size that it
      does not support.
    """
    if wanted not in get_args(KernelChoice):
        raise ValueError(f"attention must be one of {', '.join(get_args(KernelChoice))}; got {wanted!r}")
    if wanted == "cudnn" and cap is not None:
        raise ValueError(f"attention=cudnn has no soft cap; got {cap} (attention=auto takes what has)")
    if wanted == "cudnn" and sinks:
        raise ValueError(
            "attention=cudnn has no attention sinks, and the model has (attention=auto takes what has)"
        )
    fits_cudnn = (cap is None and not sinks) and (
        jnp.dtype(dtype).name in CUDNN_DTYPES and head_dim % 8 == 0 and head_dim <= CUDNN_LARGEST_HEAD
    )
    if wanted == "cudnn" and not fits_cudnn:
        raise ValueError(
            f"attention=cudnn needs {' or '.join(CUDNN_DTYPES)} and a head size of 8, 16, .. "
            f"{CUDNN_LARGEST_HEAD}; got {jnp.dtype(dtype).name} and {head_dim} (auto takes what fits)"
        )
    if wanted != "auto":
        return wanted
    platform = platform_of(mesh)
    if platform == "tpu" and length >= LANES:
        return "splash"
    # cuDNN differentiates masked attention only for even lengths
    if platform == "gpu" and fits_cudnn and length % 2 == 0:
        return "cudnn"
    return "xla"


class Attend(Protocol):
    """Attention of a layer: queries [B, T, N, H], keys and values [B, S, M, H], sinks [N] -> [B, T, N, H]."""

    def __call__(
        self, layer: Int[Array, ""] | int, query: Array, key: Array, value: Array, sinks: Array | None = None
    ) -> Array: ...


def by_layer(
    kernel: Kernel,
    mask: AttentionMask,
    windows: Sequence[int],
    mesh: Mesh | None,
    cap: float | None = None,
) -> Attend:
    """Attention of layer l as a function (l, query, key, value, sinks) -> out; l may be traced.

    Args:
      kernel: its name.
      mask: which keys a query sees.
      mesh: None on one device.
      windows: each layer's window, 0 for unlimited. Kernels take it as a constant, so layers that differ are
        branches of a switch.
      cap: of the scores (`soft_cap`); splash and xla support it.
    Returns: a function (l, query, key, value, sinks) -> out.
    """
    distinct = sorted(set(windows))
    which_L = np.array([distinct.index(window) for window in windows])
    if kernel == "xla":
        masks = jnp.stack([mask.dense(window) for window in distinct])

        def plain(
            layer: Int[Array, ""] | int, query: Array, key: Array, value: Array, sinks: Array | None = None
        ) -> Array:
            seen = masks[0] if len(distinct) == 1 else masks[jnp.asarray(which_L)[layer]]
            return attend(query, key, value, seen, cap, sinks)

        return plain
    kernels = [partial(_KERNELS[kernel], mask=mask, window=window, mesh=mesh, cap=cap) for window in distinct]

    def chosen(
        layer: Int[Array, ""] | int, query: Array, key: Array, value: Array, sinks: Array | None = None
    ) -> Array:
        if len(distinct) == 1:
            return kernels[0](query, key, value, sinks)
        return jax.lax.switch(jnp.asarray(which_L)[layer], kernels, query, key, value, sinks)

    return chosen


def cudnn(
    query_BTNH: Float[Array, "B T N H"],
    key_BTMH: Float[Array, "B T M H"],
    value_BTMH: Float[Array, "B T M H"],
    sinks_N: Float[Array, " N"] | None = None,
    *,
    mask: AttentionMask,
    window: int,
    mesh: Mesh | None,
    cap: float | None = None,
) -> Float[Array, "B T N H"]:
    """cuDNN's flash attention; it partitions itself over rows and heads.

    Args:
      query_BTNH, key_BTMH, value_BTMH: in half precision, rotated.
      sinks_N: must be None, the kernel has none.
      mask: which keys a query sees.
      window: positions back that a query sees, 0 for all.
      mesh: unused by this kernel; accepted because all kernels are called alike.
      cap: must be None, the kernel has none.
    Returns: the values mixed.
    """
    assert cap is None  # `choose` ensures both
    assert sinks_N is None
    return jax.nn.dot_product_attention(
        query_BTNH,
        key_BTMH,
        value_BTMH,
        mask=mask.dense(window)[:, None],
        is_causal=True,  # blocks above the diagonal are skipped, not just masked
        implementation="cudnn",
    )


def splash(
    query_BTNH: Float[Array, "B T N H"],
    key_BTMH: Float[Array, "B T M H"],
    value_BTMH: Float[Array, "B T M H"],
    sinks_N: Float[Array, " N"] | None = None,
    *,
    mask: AttentionMask,
    window: int,
    mesh: Mesh | None,
    cap: float | None = None,
) -> Float[Array, "B T N H"]:
    """Pallas's splash attention: blocks that none of their queries see are never visited.

    The length is padded to a multiple of 128. On a mesh each device runs the kernel on its rows and heads.

    Args:
      query_BTNH, key_BTMH, value_BTMH: rotated.
      sinks_N: of the heads; None without.
      mask: which keys a query sees.
      window: positions back that a query sees, 0 for all.
      mesh: rows are split over data and fsdp, heads over tensor; None on one device.
      cap: of the scores (`soft_cap`).
    Returns: the values mixed.
    """
    sinks = () if sinks_N is None else (sinks_N,)
    arguments = (query_BTNH, key_BTMH, value_BTMH, *mask, *sinks)

    def run(*arguments: Array) -> Array:
        return _splash_local(arguments, window, cap, interpret=platform_of(mesh) != "tpu")

    if mesh is None or mesh.size == 1:
        return run(*arguments)
    batch, kv_heads = query_BTNH.shape[0], key_BTMH.shape[2]
    rows = row_axes(mesh, batch)
    heads = None if kv_heads % mesh.shape["tensor"] else "tensor"
    wide, segments = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
    places = (wide, wide, wide, segments, segments, *(PartitionSpec(heads) for _ in sinks))
    # check_vma: the kernel's outputs carry no record of the axes over which they vary
    return jax.shard_map(run, mesh=mesh, in_specs=places, out_specs=wide, check_vma=False)(*arguments)


def _splash_local(arguments: tuple[Array, ...], window: int, cap: float | None, interpret: bool) -> Array:
    # imported where needed: Pallas takes a second to load, and few programs use it
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    query, key, value, *segments = arguments[:5]
    sinks = arguments[5] if len(arguments) > 5 else None
    length, heads, size = query.shape[1:]
    more = -length % LANES
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2) for x in (query, key, value)
    )
    # padding keys lie after every real query: causality hides them
    segments = kernels.SegmentIds(*(jnp.pad(x, ((0, 0), (0, more))) for x in segments))
    shape = (length + more, length + more)
    visible = masks.LocalMask(shape, (window - 1, 0), offset=0) if window else masks.CausalMask(shape)
    block = next(block for block in BLOCKS if shape[0] % block == 0)
    kernel = kernels.make_splash_mha(
        mask=masks.MultiHeadMask([visible] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        attn_logits_soft_cap=cap,
    )
    over_rows = jax.vmap(partial(kernel, sinks=sinks))
    # an array; the kernel's declared result is one of several
    out: Any = over_rows(query * jnp.asarray(size**-0.5, query.dtype), key, value, segments)
    return out.swapaxes(1, 2)[:, :length]


_KERNELS: dict[str, Callable[..., Array]] = {"splash": splash, "cudnn": cudnn}
