"""PEFT's LoRA folder: which modules it adapts, with which ranks, and which base weights it brings along.

Besides pairs on projections it may hold LoRA on the embedding and the head, DoRA's magnitudes, whole modules
(modules_to_save, biases, a vocabulary that was resized) and rows for single tokens. Anything else that an
adapter_config.json can ask for is refused by name: variants whose files look alike compute something else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import numpy as np
import regex
from pydantic import Field

from jaxmoe.adapters.base_changes import EMBEDDING, HEAD, BaseChanges, LowRank, TokenRows
from jaxmoe.adapters.record import (
    Adapter,
    ModuleExperts,
    ModuleSpec,
    module_name,
    module_specs,
    projection_sizes,
)
from jaxmoe.adapters.tensors import (
    AdapterFolder,
    FileFormat,
    Files,
    Layout,
    check_settings,
    join,
    modules_to_tensors,
    number,
    read_modules,
)
from jaxmoe.json_files import parse
from jaxmoe.json_values import shown
from jaxmoe.model.balance import BalanceConfig
from jaxmoe.model.config import (
    EXPERT_BLOCK,
    MOST_ALPHA,
    PROJECTIONS,
    ExpertConfig,
    ModelConfig,
    matches,
)
from jaxmoe.weights.weight_files import StoredTensor

PREFIX = "base_model.model."
LAYOUT = Layout(f"{PREFIX}model.", "lora_A.weight", "lora_B.weight", magnitude="lora_magnitude_vector")
EMBEDDING_MODULE, HEAD_MODULE = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")
# Initializations of A and B that keep the base's weights; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change them.
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")

Value = TypeVar("Value", int, float)
Names = str | tuple[str, ...]
Rank = Annotated[int, Field(ge=1)]
# far above any in use; the quotient of two such values still fits float32
Alpha = Annotated[float, Field(ge=MOST_ALPHA**-1, le=MOST_ALPHA)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """What adapter_config.json says about the modules that are adapted."""

    r: Rank
    lora_alpha: Alpha
    target_modules: Names
    exclude_modules: Names | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: Names | None = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = 0.0
    use_rslora: bool | None = False
    use_dora: bool | None = False
    init_lora_weights: bool | str | None = True
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: tuple[str, ...] | None = None
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None
    ensure_weight_tying: bool | None = False


# Keys that change how an adapter began or was trained, or describe options that other keys turn on.
_NO_EFFECT = (
    "auto_mapping",
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_version",
    "qalora_group_size",
)


class _Targets:
    """Which modules are adapted, and how."""

    def __init__(self, read: _Settings):
        self.read = read

    def chosen(self, module: str) -> bool:
        """Whether the module (its full name) has a pair."""
        read = self.read
        if not _named(read.target_modules, module) or _named(read.exclude_modules, module):
            return False
        exact = not isinstance(read.target_modules, str) and module in read.target_modules
        if read.layers_to_transform is None or exact:
            return True
        layers = read.layers_to_transform
        layers = (layers,) if isinstance(layers, int) else layers
        containers = (read.layers_pattern,) if isinstance(read.layers_pattern, str) else read.layers_pattern
        parts = module.split(".")
        inside = parts[1] if len(parts) > 2 else ""
        return inside == "layers" and (not containers or inside in containers) and int(parts[2]) in layers

    def size(self, module: str) -> tuple[int, float]:
        """Rank and scale of the module's pair."""
        rank = _pattern(self.read.rank_pattern, module, self.read.r)
        alpha = _pattern(self.read.alpha_pattern, module, self.read.lora_alpha)
        return rank, alpha / (rank**0.5 if self.read.use_rslora else rank)


def _named(names: Names | None, module: str) -> bool:
    """PEFT's rule: a string is a regular expression or "all-linear", a list holds suffixes of names."""
    if isinstance(names, str):
        if names == "all-linear":
            return module not in (EMBEDDING_MODULE, HEAD_MODULE)
        return matches(names, module)
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def _pattern(patterns: Mapping[str, Value] | None, module: str, default: Value) -> Value:
    """The value of the first expression that matches the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if matches(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _read(folder: AdapterFolder, model: ModelConfig) -> Adapter:
    """Modules may differ in rank and alpha: a layer takes its largest rank, and B makes up for the scale."""
    read = _settings(folder)
    targets = _Targets(read)
    specs = _projections(targets, model)
    if not specs:
        raise ValueError(f"target_modules in {folder.config_path} match no projection of the model")
    folder, changes = _take_base_changes(folder, targets, model)
    experts = _experts(read, specs, model)
    modules = read_modules(LAYOUT, folder, specs, experts)
    wanted = module_specs(experts, model)
    for name, module in modules.items():
        missing_scale = np.float32(specs[name].scale / wanted[name].scale)
        modules[name] = module._replace(b_EOR=module.b_EOR * missing_scale)
    return Adapter(experts, BalanceConfig(weight=0.0), modules, changes)


def _settings(folder: AdapterFolder) -> _Settings:
    where = folder.config_path
    fixed: dict[str, object] = {
        "fan_in_fan_out": False,
        "lora_bias": False,
        "layer_replication": None,
        "target_parameters": None,
        "alora_invocation_tokens": None,
        "use_qalora": False,
    }
    check_settings(folder, [*(f.name for f in dataclasses.fields(_Settings)), *_NO_EFFECT], fixed)
    read = parse(_Settings, folder.config, where)
    start = read.init_lora_weights
    if isinstance(start, str) and start not in PLAIN_STARTS:
        raise ValueError(
            f"init_lora_weights={shown(start)} in {where}: this start changes the base's weights (as PiSSA, "
            "OLoRA, CorDA, LoftQ and LoRA-GA do), and the folder does not hold them: save the adapter as "
            "plain LoRA with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    return read


def _projections(targets: _Targets, model: ModelConfig) -> dict[str, ModuleSpec]:
    """The projections that have a pair, with their ranks."""
    specs: dict[str, ModuleSpec] = {}
    for layer in range(model.num_layers):
        for projection, sizes in projection_sizes(model).items():
            name = module_name(layer, projection)
            if targets.chosen(f"model.{name}"):
                specs[name] = ModuleSpec(1, *targets.size(f"model.{name}"), *sizes)
    return specs


def _experts(read: _Settings, specs: Mapping[str, ModuleSpec], model: ModelConfig) -> ExpertConfig:
    by_layer: dict[int, list[ModuleSpec]] = {}
    for name, spec in specs.items():
        by_layer.setdefault(int(name.split(".")[1]), []).append(spec)
    layers = range(model.num_layers)
    ranks = [max((s.rank for s in by_layer.get(i, [])), default=1) for i in layers]
    counts = [int(i in by_layer) for i in layers]
    return ExpertConfig(
        num_experts=1 if all(counts) else tuple(counts),
        rank=ranks[0] if len(set(ranks)) == 1 else tuple(ranks),
        alpha=read.lora_alpha,
        scaling="sqrt_rank" if read.use_rslora else "rank",
        targets=_targets_of(specs, model),
        routing="none",
        dropout=read.lora_dropout or 0.0,
        dora=bool(read.use_dora),
    )


def _targets_of(names: Mapping[str, ModuleSpec], model: ModelConfig) -> tuple[str, ...]:
    """Targets for exactly these modules: a projection's name if it is in every layer that has any."""
    layers = {int(name.split(".")[1]) for name in names}
    targets: list[str] = []
    for projection in model.projections:
        own = [n for i in range(model.num_layers) if (n := module_name(i, projection)) in names]
        targets += [projection] if len(own) == len(layers) else [regex.escape(n) for n in own]
    return tuple(targets)


def _take_base_changes(
    folder: AdapterFolder, targets: _Targets, model: ModelConfig
) -> tuple[AdapterFolder, BaseChanges]:
    """The folder without its changes to the base's weights, and those changes."""
    read, tensors = targets.read, dict(folder.tensors)

    def take(module: str, part: str) -> np.ndarray:
        name = f"{PREFIX}{module}.{part}"
        if name not in tensors:
            raise ValueError(f"{folder.path} lacks {name}, which {folder.config_path.name} asks for")
        return tensors.pop(name).all().astype(np.float32)

    low_rank: dict[str, LowRank] = {}
    tied = bool(read.ensure_weight_tying) and model.tie_embeddings and targets.chosen(EMBEDDING_MODULE)
    if targets.chosen(EMBEDDING_MODULE):
        if read.use_dora:
            raise ValueError(
                f"use_dora on embed_tokens in {folder.config_path} is not supported: merge the adapter into "
                "its base with PEFT"
            )
        a_RV, b_DR = (take(EMBEDDING_MODULE, f"lora_embedding_{part}") for part in "AB")
        low_rank[EMBEDDING] = LowRank(b_DR.T, a_RV.T, targets.size(EMBEDDING_MODULE)[1])
    if targets.chosen(HEAD_MODULE) or tied:
        a_RD, b_VR = (take(HEAD_MODULE, f"lora_{part}.weight") for part in "AB")
        magnitude = take(HEAD_MODULE, "lora_magnitude_vector") if read.use_dora else None
        low_rank[HEAD] = LowRank(a_RD, b_VR, targets.size(HEAD_MODULE)[1], magnitude)
    tokens = {
        f"{module}.weight": TokenRows(rows, take(module, "token_adapter.trainable_tokens_delta"))
        for module, rows in _trained_tokens(folder, read).items()
    }
    replaced, copied = _whole_tensors(tensors, read)
    for saved in read.modules_to_save or ():
        if not any(_is_saved(name, (saved,)) for name in copied):
            raise ValueError(f"{folder.path} lacks {shown(saved)}, which modules_to_save says that it holds")
    return folder._replace(tensors=tensors), BaseChanges(replaced, copied, low_rank, tokens)


def _trained_tokens(folder: AdapterFolder, read: _Settings) -> dict[str, tuple[int, ...]]:
    """By module, the tokens whose rows alone were trained."""
    given = read.trainable_token_indices or {}
    given = given if isinstance(given, dict) else {"embed_tokens": given}
    by_module: dict[str, tuple[int, ...]] = {}
    for name, rows in given.items():
        module = next((m for m in (EMBEDDING_MODULE, HEAD_MODULE) if f".{m}".endswith(f".{name}")), None)
        if module is None:
            raise ValueError(
                f"trainable_token_indices in {folder.config_path} names {name[:80]!r}; there are "
                "embed_tokens and lm_head"
            )
        by_module[module] = rows
    return by_module


def _whole_tensors(
    tensors: dict[str, StoredTensor], read: _Settings
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Takes out whole weights of the base: (replacements for its own, those of copies)."""
    replaced: dict[str, StoredTensor] = {}
    copied: dict[str, StoredTensor] = {}
    for full in sorted(tensors):
        if not full.startswith(PREFIX) or ".lora_" in full or ".token_adapter." in full:
            continue
        # with a resized vocabulary PEFT writes a copied module three times
        twin = ".modules_to_save." in full and full.replace(".modules_to_save", "") in tensors
        if twin or ".original_module." in full:
            del tensors[full]
            continue
        name = full.removeprefix(PREFIX).replace(".modules_to_save", "").replace(".base_layer", "")
        if _is_saved(name, read.modules_to_save or ()):
            copied[name] = tensors.pop(full)
        elif name in (EMBEDDING, HEAD) or (name.endswith(".bias") and read.bias != "none"):
            replaced[name] = tensors.pop(full)
    return replaced, copied


def _is_saved(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a weight is of a module that modules_to_save names, or of one inside it."""
    parts = name.split(".")[:-1]
    above = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(module.endswith(saved) for module in above for saved in modules)


def _write(adapter: Adapter, model: ModelConfig, base: str) -> Files:
    """PEFT's plain LoRA or DoRA; several experts without a router become one of their joint rank.

    Σᵢ Bᵢ Aᵢ = [B_0 | B_1 | ..] [A_0; A_1; ..], so nothing is lost. Weights of the base that were changed are
    written whole, as modules_to_save.
    Raises: ValueError if there is a router: PEFT's LoRA has no routing.
    """
    experts = adapter.config
    if experts.routing != "none":
        raise ValueError(
            f"the peft format holds plain LoRA (routing none); these experts are routed ({experts.routing}): "
            "use format 'loramoe' or 'hf'"
        )
    joined: dict[str, ModuleExperts] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int | float] = {}
    for name, spec in module_specs(experts, model).items():
        module = join(adapter.modules[name])
        rank = module.a_ERI.shape[1]
        joined[name], ranks[name] = module, rank
        alphas[name] = number(spec.scale * (rank**0.5 if experts.scaling == "sqrt_rank" else rank))
    if any(name.endswith(f".{EXPERT_BLOCK}") for name in joined):
        raise ValueError(
            "the peft format has no adapter beside a block of experts: use format 'hf' or 'loramoe'"
        )
    first = next(iter(joined))
    names = [n for n in PROJECTIONS if n in experts.targets]
    whole = len(names) == len(experts.targets) and min(experts.layer_counts(model.num_layers)) > 0
    saved, bias, brought = _brought(adapter, joined)
    config: dict[str, object] = {
        "base_model_name_or_path": base,
        "bias": bias,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alphas[first],
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alphas[first]},
        "lora_dropout": experts.dropout,
        "modules_to_save": saved or None,
        "peft_type": "LORA",
        "r": ranks[first],
        "rank_pattern": {n: r for n, r in ranks.items() if r != ranks[first]},
        "target_modules": names if whole else list(joined),
        "task_type": "CAUSAL_LM",
        "use_dora": experts.dora,
        "use_rslora": experts.scaling == "sqrt_rank",
    }
    return config, modules_to_tensors(LAYOUT, dataclasses.replace(adapter, modules=joined)) | brought


def _brought(
    adapter: Adapter, joined: Mapping[str, ModuleExperts]
) -> tuple[list[str], str, dict[str, np.ndarray]]:
    """Changed weights of the base as PEFT writes them: modules_to_save, bias, tensors."""
    saved: list[str] = []
    tensors: dict[str, np.ndarray] = {}
    bias = "none"
    for name, tensor in sorted({**adapter.base.replaced, **adapter.base.copied}.items()):
        module, _, part = name.rpartition(".")
        if part == "bias":
            bias = "all"
            inner = ".base_layer" if module.removeprefix("model.") in joined else ""
            tensors[f"{PREFIX}{module}{inner}.bias"] = tensor.all()
            continue
        tensors[f"{PREFIX}{name}"] = tensor.all()
        if name in adapter.base.copied:
            saved.append(module)
    return saved, bias, tensors


def _recognizes(config: Mapping[str, object]) -> bool:
    return config.get("peft_type") == "LORA" and "lora_nums" not in config


FORMAT = FileFormat("peft", _recognizes, _read, _write)
