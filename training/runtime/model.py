"""The model that a run trains: which weights are new, read and trained, and where each is placed."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

import jaxmoe
from jaxmoe.adapters.record import projection_sizes
from jaxmoe.base_folder import local_folder
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import EXPERT_BLOCK, MLP_PROJECTIONS, ExpertConfig, ModelConfig
from jaxmoe.model.layers import BaseParam, KernelParam
from jaxmoe.model.quantized import QuantizedDtype, quantize
from jaxmoe.model.transformer import Decoder
from jaxmoe.pretrained import read_model_config
from jaxmoe.progress import say
from jaxmoe.text.vocabulary import check_vocabulary, vocabulary_size
from training.runtime import distributed
from training.runtime.checkpoint import fingerprint
from training.runtime.principal import Start, start_in_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AdapterKind = Literal["loramoe", "lora", "none"]
BaseDtype = Literal["float32", "bfloat16", "int8", "nf4"]


class HeldAs(NamedTuple):
    """How a frozen base is held.

    Attributes:
      dtype: of all weights that are not quantized.
      quantized: of the kernels of attention and feed-forward; None holds them in `dtype` too.
    """

    dtype: Literal["float32", "bfloat16"]
    quantized: QuantizedDtype | None


def held_as(base_dtype: BaseDtype) -> HeldAs:
    """What a config's base_dtype stands for: next to quantized kernels everything is bfloat16.

    >>> held_as("nf4")
    HeldAs(dtype='bfloat16', quantized='nf4')
    """
    if base_dtype == "int8" or base_dtype == "nf4":
        return HeldAs("bfloat16", base_dtype)
    return HeldAs(base_dtype, None)


def check_base_dtype(adapter: AdapterKind, base_dtype: BaseDtype) -> None:
    """Raises ValueError if the base is quantized and all of its weights are to be trained.

    Args:
      adapter: of the run.
      base_dtype: of its base.
    """
    if adapter == "none" and held_as(base_dtype).quantized is not None:
        raise ValueError(
            f"base_dtype={base_dtype} holds frozen weights, but adapter=none trains every weight: take "
            "adapter=loramoe or lora, or base_dtype=float32"
        )


@dataclass(frozen=True)
class LoraConfig:
    """Plain LoRA, for adapter=lora: one pair for each projection of experts.targets, without a router.

    Attributes:
      rank: of every pair; null takes the rank that trains as many weights as the experts would.
      alpha: the update is scaled by alpha / rank; null takes experts.alpha, with which evenly mixed experts
        equal one pair of rank num_experts x rank.
      init: how pairs start: kaiming with A uniform and B 0; pissa in the strongest directions of the frozen
        weights, milora in the weakest, which are then removed from those weights
        (training.runtime.principal).
    """

    rank: int | None = None
    alpha: float | None = None
    init: Start = "kaiming"

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1; got {self.rank} (lora.rank in the config)")


def adapter_experts(
    adapter: AdapterKind, experts: ExpertConfig, lora: LoraConfig, model: ModelConfig
) -> ExpertConfig | None:
    """The experts that an adapter stands for.

    Args:
      experts: settings for adapter=loramoe, and what adapter=lora takes from them.
      lora: settings for adapter=lora.
      model: shape of the base.
    Returns: for loramoe the experts as configured, for lora one pair per projection without a router, for
      none None. In a mixture-of-experts base the default targets, the feed-forward, are its whole block of
      experts.
    """
    if model.moe is not None and experts.targets == MLP_PROJECTIONS:
        experts = dataclasses.replace(experts, targets=(EXPERT_BLOCK,))
    if adapter != "none":
        experts.check_targets(model)
    match adapter:
        case "loramoe":
            return experts
        case "none":
            return None
        case "lora":
            return ExpertConfig(
                num_experts=tuple(int(count > 0) for count in experts.layer_counts(model.num_layers)),
                rank=matched_rank(experts, model) if lora.rank is None else lora.rank,
                alpha=experts.alpha if lora.alpha is None else lora.alpha,
                scaling=experts.scaling,
                targets=experts.targets,
                routing="none",
                dropout=experts.dropout,
            )


def matched_rank(experts: ExpertConfig, model: ModelConfig) -> int:
    """Rank of plain LoRA with as many weights as these experts and their routers, as nearly as possible.

    r = Σ [E R (I + O) + E I] / Σ (I + O), over all targets (shared A: R I + E R O instead of E R (I + O))

    Args:
      experts: E experts of rank R in each layer.
      model: shape of the base, which gives I inputs and O outputs of each projection.
    Returns: r, rounded, and at least 1.
    """
    weights = widths = 0
    layers = model.num_layers
    counts, ranks = experts.layer_counts(layers), experts.layer_ranks(layers)
    for name, (i, o) in projection_sizes(model).items():
        for count, rank, here in zip(counts, ranks, experts.layers_with(name, layers), strict=True):
            if here:
                pairs = rank * i * (1 if experts.shared_a else count) + count * rank * o
                weights += pairs + (0 if experts.routing == "none" else count * i)
                widths += i + o
    return max(1, round(weights / widths))


def check_lora_start(adapter: AdapterKind, lora: LoraConfig) -> None:
    """Raises ValueError for a start of plain LoRA that the adapter would not take.

    Args:
      adapter: of the run.
      lora: its settings for adapter=lora.
    """
    if adapter != "lora" and lora.init != "kaiming":
        raise ValueError(
            f"lora.init={lora.init} is a start of adapter=lora; adapter={adapter} would not take it: leave "
            "lora.init out, or take adapter=lora"
        )


def say_idle(adapter: AdapterKind, **sections: object) -> None:
    """Says which sections of a config are set but belong to another adapter: configs are often shared by all.

    Args:
      adapter: of the run.
      sections: experts, lora and balance of the config, as far as it has them, by these keys.
    """
    used = {"loramoe": ("experts", "balance"), "lora": ("lora",), "none": ()}[adapter]
    idle = [key for key, value in sections.items() if key not in used and value != type(value)()]
    if idle and distributed.is_main():
        say(f"adapter={adapter} does not use what the config sets for {' and '.join(idle)}")


@dataclass(frozen=True)
class ModelSource:
    """What a run's model is made from: a base checkpoint or new weights, and an adapter.

    Attributes:
      base: checkpoint: a folder, .gguf file, named model or hub id; None makes new weights of the given
        shape.
      shape: of new weights; with a base, the shape that it must have.
      adapter: loramoe trains the routed experts of `experts`, lora one pair without a router, none every
        weight.
      base_dtype: of the frozen base (`held_as`); with adapter none everything is float32.
      seed: of new weights.
      init_std: standard deviation of new weights.
      resize_vocab: whether to add rows to a base's embedding if the tokenizer has more tokens.
    """

    base: str | None
    shape: ModelConfig | None
    adapter: AdapterKind
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    base_dtype: BaseDtype = "float32"
    seed: int = 0
    init_std: float = 0.02
    resize_vocab: bool = False


class TrainableModel(NamedTuple):
    """A model to train.

    Attributes:
      lm: its weights on the mesh, split into what is trained and what is frozen.
      abstract: its structure without weights.
      fingerprint: of the base's weight files, None for a new model.
    """

    lm: LanguageModel
    train: params.Train
    abstract: Decoder
    fingerprint: str | None = None


def make_model(source: ModelSource, tokenizer: "PreTrainedTokenizerBase", mesh: Mesh) -> TrainableModel:
    """The model that a run trains, as it is before the first step, on the mesh.

    Args:
      tokenizer: new weights get its special tokens; a base keeps its own.
    Returns: the model, which of its weights are trained, and its abstract structure.
    Raises: ValueError if the base is missing or its shape is not what the config promises, or the vocabulary
      does not hold the tokenizer's tokens.
    """
    if source.base is not None:
        vocabulary = vocabulary_size(tokenizer)
        if not source.resize_vocab:
            remedy = (
                "take the base's own tokenizer, or resize_vocab=true (new rows begin as the mean of the old)"
            )
            check_vocabulary(tokenizer, read_shape(local_folder(source.base)).vocab_size, remedy)
        return load_model(
            source.base,
            source.adapter,
            source.experts,
            source.lora,
            mesh,
            seed=source.seed,
            base_dtype=source.base_dtype,
            expected=source.shape,
            vocabulary=vocabulary,
        )
    if source.shape is None:
        raise ValueError("give base (a checkpoint to start from) or model (the shape of a new one)")
    shape = shaped_for(tokenizer, source.shape)
    experts = adapter_experts(source.adapter, source.experts, source.lora, shape)
    return new_model(
        shape, experts, mesh, seed=source.seed, std=source.init_std, base_dtype=source.base_dtype
    )


def shaped_for(tokenizer: "PreTrainedTokenizerBase", model: ModelConfig) -> ModelConfig:
    """A new model's shape with the tokenizer's special tokens.

    Args:
      model: shape from the config; its vocabulary may be larger than the tokenizer's.
    Returns: the shape with bos, eos and pad ids replaced.
    Raises: ValueError if the vocabulary is too small for the tokenizer.
    """
    needed = vocabulary_size(tokenizer)
    if needed > model.vocab_size:
        raise ValueError(
            f"model.vocab_size must hold the tokenizer's {needed} tokens; got {model.vocab_size}"
        )
    return dataclasses.replace(
        model,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_model(
    config: ModelConfig,
    experts: ExpertConfig | None,
    mesh: Mesh,
    *,
    seed: int = 0,
    std: float = 0.02,
    base_dtype: BaseDtype = "float32",
    source: Path | None = None,
) -> TrainableModel:
    """A model with random weights, created in place on the mesh: the same bits on every mesh.

    With experts the rest is frozen, in `base_dtype`; without them everything is trained in float32.

    Args:
      experts: added to the base; None for none.
      std: standard deviation of new weights.
      source: folder whose tokenizer is exported with it.
    Returns: the model on the mesh.
    """
    train: params.Train = "all" if experts is None else "experts"

    def make() -> Decoder:
        model = params.build(config, experts, seed=seed, std=std)
        if train == "experts":
            cast_base(model, base_dtype)
        return model

    abstract = nnx.eval_shape(make)
    shardings = params.shardings(abstract, mesh, train)

    def weights() -> tuple[params.Params, params.Params]:
        parts = params.split(make(), train)
        return parts.trainable, parts.frozen

    trainable, frozen = jax.jit(weights, out_shardings=shardings)()
    parts = params.ModelParams(params.split(abstract, train).definition, trainable, frozen)
    lm = LanguageModel(config, parts, mesh, experts, source=source)
    return TrainableModel(lm, train, abstract)


def load_model(
    base: str,
    adapter: AdapterKind,
    experts: ExpertConfig,
    lora: LoraConfig,
    mesh: Mesh,
    *,
    seed: int = 0,
    base_dtype: BaseDtype = "float32",
    expected: ModelConfig | None = None,
    vocabulary: int = 0,
) -> TrainableModel:
    """A base checkpoint with new experts, plain LoRA or nothing added, read straight into shards.

    Args:
      base: folder, .gguf file, named model or hub id.
      experts, lora: settings; the adapter decides which are read.
      seed: of new experts.
      expected: the shape that the config promises, special tokens aside.
      vocabulary: tokens that must have rows; rows that the checkpoint lacks begin as the mean of its rows.
    Returns: the model on the mesh, with the base's fingerprint.
    Raises: ValueError if the checkpoint has another shape.
    """
    folder = local_folder(base)
    shape = read_shape(folder)
    if expected is not None:
        check_shape(shape, expected, base)
    attached = adapter_experts(adapter, experts, lora, shape)
    train: params.Train = "all" if attached is None else "experts"
    dtype, quantized = held_as(base_dtype)
    lm = jaxmoe.load(
        folder,
        dtype=dtype,
        mesh=mesh,
        experts=attached,
        train=train,
        seed=seed,
        resize_vocab=vocabulary if vocabulary > shape.vocab_size else None,
        base_dtype=quantized,
    )
    if adapter == "lora":
        lm = start_in_base(lm, lora.init)
    return TrainableModel(lm, train, params.abstract(lm.config, attached, quantized), fingerprint(folder))


def read_shape(folder: Path) -> ModelConfig:
    """The shape of the checkpoint in a folder."""
    return read_model_config(folder)


def check_shape(shape: ModelConfig, expected: ModelConfig, base: str) -> None:
    """Raises ValueError, naming the first difference, if the checkpoint is not what the config promises.

    Args:
      shape: of the checkpoint.
      expected: from the config; ids of special tokens are not compared.
      base: the checkpoint's name, for the message.
    """
    for key in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(expected, key.name), getattr(shape, key.name)
        if ours != theirs and not key.name.endswith("_token_id"):
            raise ValueError(f"model.{key.name} is {ours} in the config but {theirs} in {base}; correct one")


def abstract_model(config: ModelConfig, experts: ExpertConfig | None, base_dtype: BaseDtype) -> Decoder:
    """The structure that `load_model` fills: shapes, dtypes and axes without weights.

    Args:
      experts: added to the base; None for none.
      base_dtype: of the pretrained weights.
    Returns: a decoder whose parameters are ShapeDtypeStructs.
    """

    def make() -> Decoder:
        decoder = params.build(config, experts)
        cast_base(decoder, base_dtype)
        return decoder

    return nnx.eval_shape(make)


def cast_base(model: Decoder, dtype: BaseDtype) -> None:
    """Gives the pretrained weights another dtype, in place; experts and constants keep theirs.

    Args:
      model: changed by the call.
      dtype: of the pretrained weights afterwards; int8 and nf4 apply to the kernels, and the rest is then
        bfloat16.
    """
    held = held_as(dtype)
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, KernelParam) and held.quantized is not None:
            variable.set_raw_value(quantize(variable.get_raw_value(), held.quantized))
        elif isinstance(variable, BaseParam):
            variable.set_raw_value(variable.get_raw_value().astype(jnp.dtype(held.dtype)))


def report(model: TrainableModel) -> str:
    """How many weights there are, how many are trained, and whether they are added to the base's own
    experts."""
    trained, frozen = params.count(model.lm.weights.trainable), params.count(model.lm.weights.frozen)
    experts = model.lm.experts
    place = " beside the base's experts" if experts is not None and EXPERT_BLOCK in experts.targets else ""
    return f"{trained + frozen:,} weights, {trained:,} trained ({trained / (trained + frozen):.2%}){place}"
