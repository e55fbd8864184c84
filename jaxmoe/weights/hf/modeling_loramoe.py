"""Llama with routed LoRA experts beside its projections, for transformers 5 and servers that use its models.

Stored with exported weights, for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. It
needs torch and transformers only. Attention, cache and generation are those of the base family: only the
projections that carry experts are replaced, by

    o = W0 x + scale · Σᵢ ωᵢ Bᵢ Aᵢ x,   ω = route(W_g x)

vLLM and SGLang build `AutoModel` and replace every `nn.Linear` with linear layers of their own. So the
experts are linear layers in a module that is not one itself, and `base_model_tp_plan` says how each is split
over devices.

For inference: experts have no dropout here, and the balancing losses of training are not computed.
"""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel


def route(logits: torch.Tensor, settings: dict) -> torch.Tensor:
    """Weights of the experts, float32 [.., E]: softmax over all, the k best, or the fewest that reach p.

    Args:
      logits: the router's output [.., E].
      settings: `routing` is "dense", "top_k" (with `top_k`) or "top_p" (with `top_p`).
    Returns: weights that sum to 1, 0 for the experts left out.
    """
    logits = logits.float()
    routing = settings["routing"]
    if routing in ("top_k", "top_p"):
        order = torch.argsort(logits, dim=-1, descending=True, stable=True)
        if routing == "top_k":
            rank = torch.argsort(order, dim=-1)
            kept = rank < settings["top_k"]
        else:
            ordered = torch.softmax(logits, dim=-1).gather(-1, order)
            before = ordered.cumsum(-1) - ordered
            kept = (before < settings["top_p"]).gather(-1, torch.argsort(order, dim=-1))
        logits = logits.masked_fill(~kept, float("-inf"))
    return torch.softmax(logits, dim=-1)


class Mixture(nn.Module):
    """E low-rank experts; their products are batched, never looped over.

    Weights: lora_a [E·R, in] ([R, in] if shared), lora_b [out, E·R], router [E, in] (none where every expert
    always counts in full).
    """

    def __init__(self, in_features: int, out_features: int, settings: dict, module: dict):
        super().__init__()
        experts, self.rank = module["experts"], module["rank"]
        self.experts, self.settings, self.scale = experts, settings, module["scale"]
        kinds = 1 if settings["shared_a"] else experts
        self.lora_a = nn.Linear(in_features, kinds * self.rank, bias=False)
        self.lora_b = nn.Linear(experts * self.rank, out_features, bias=False)
        routed = settings["routing"] != "none"
        self.router = nn.Linear(in_features, experts, bias=False) if routed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the experts add to a projection's output, [.., out] from x [.., in]."""
        low = self.lora_a(x).unflatten(-1, (-1, self.rank)) * self.scale
        if self.router is not None:
            low = low * route(self.router(x), self.settings).to(x.dtype).unsqueeze(-1)
        low = low.expand(*x.shape[:-1], self.experts, self.rank)
        return self.lora_b(low.flatten(-2))


class RoutedLinear(nn.Module):
    """A projection of the base model and the experts beside it; without any in layers that have none."""

    def __init__(self, base_layer: nn.Linear, settings: dict, module: dict | None):
        super().__init__()
        self.base_layer = base_layer
        sizes = base_layer.in_features, base_layer.out_features
        self.mixture = None if module is None else Mixture(*sizes, settings, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The projection's output with what its experts add, [.., out] from x [.., in]."""
        out = self.base_layer(x)
        return out if self.mixture is None else out + self.mixture(x)


class RoutedExperts(nn.Module):
    """All experts of a mixture-of-experts layer, and the LoRA experts beside them as a whole."""

    def __init__(self, base_layer: nn.Module, settings: dict, module: dict | None, width: int):
        super().__init__()
        self.base_layer = base_layer
        self.mixture = None if module is None else Mixture(width, width, settings, module)

    def forward(self, x: torch.Tensor, *choice: torch.Tensor) -> torch.Tensor:
        """The chosen experts' output with what the LoRA experts add, [.., D] from x [.., D]."""
        out = self.base_layer(x, *choice)
        return out if self.mixture is None else out + self.mixture(x)


# layers that compute several projections at once, in the order of their outputs
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class FusedLinear(nn.Linear):
    """Several projections in one, and the experts beside some of them.

    `parts` holds, for each projection in turn, the module with its experts (an attribute of the layer, under
    the projection's name) and the width of its output.
    """

    parts: tuple[tuple[nn.Module, int], ...]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The projections' outputs with what their experts add, [.., out] from x [.., in]."""
        out = super().forward(x)
        added: list[torch.Tensor] = []
        for holder, width in self.parts:
            mixture = getattr(holder, "mixture", None)
            added.append(out.new_zeros(*out.shape[:-1], width) if mixture is None else mixture(x))
        return out + torch.cat(added, dim=-1)


def add_to_fused(parent: nn.Module, fused: str, settings: dict, modules: dict[str, dict], config) -> None:
    """Puts experts beside parts of a fused layer; they are named as if beside single projections.

    Args:
      parent: the part of a layer that contains the fused one.
      fused: its name.
      settings: the config's `loramoe` section.
      modules: sizes of the experts by projection.
      config: of the model, for the outputs of each part.
    """
    base = getattr(parent, fused)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    widths = [n * head_dim for n in heads] if fused == "qkv_proj" else [config.intermediate_size] * 2
    parts = []
    for name, width in zip(FUSED[fused], widths, strict=True):
        holder = nn.Module()
        if name in modules:
            holder.mixture = Mixture(base.in_features, width, settings, modules[name])
            parent.add_module(name, holder)
        parts.append((holder, width))

    base.__class__ = FusedLinear
    base.parts = tuple(parts)


_CLASSES: dict[tuple[type, tuple[str, ...]], type] = {}


def _class_of_its_own(parent: nn.Module, names: tuple[str, ...]) -> type:
    """A subclass for modules with experts at these projections.

    Serving programs look at one module of a class and fuse the projections of all, including those of another
    model in the same process: a block with experts must not share the class of one without.
    """
    key = (type(parent), names)
    if key not in _CLASSES:
        suffix = "".join(part.capitalize() for name in names for part in name.split("_"))
        _CLASSES[key] = type(f"{type(parent).__name__}With{suffix}", (type(parent),), {})
    return _CLASSES[key]


def routed_projections(config) -> dict[str, list[str]]:
    """By part of a layer (self_attn, mlp), the projections that have experts in some layer."""
    found: dict[str, list[str]] = {}
    for name in config.loramoe["modules"]:
        _, _, part, projection = name.split(".")
        if projection not in found.setdefault(part, []):
            found[part].append(projection)
    return found


def add_experts(decoder: LlamaModel, config) -> None:
    """Puts experts beside the projections that the config names; all layers get the same structure.

    Args:
      decoder: a model of the base family, changed in place.
      config: whose `loramoe` section lists the modules with experts.
    """
    for part, projections in routed_projections(config).items():
        for number, layer in enumerate(decoder.layers):
            parent = getattr(layer, part)
            for fused, names in FUSED.items():
                here = {n: config.loramoe["modules"].get(f"layers.{number}.{part}.{n}") for n in names}
                if hasattr(parent, fused) and any(here.values()):
                    found = {name: module for name, module in here.items() if module is not None}
                    add_to_fused(parent, fused, config.loramoe, found, config)
            for projection in projections:
                if any(projection in names and hasattr(parent, fused) for fused, names in FUSED.items()):
                    continue
                module = config.loramoe["modules"].get(f"layers.{number}.{part}.{projection}")
                base = getattr(parent, projection)
                if isinstance(base, nn.Linear):
                    routed = RoutedLinear(base, config.loramoe, module)
                else:
                    routed = RoutedExperts(base, config.loramoe, module, config.hidden_size)
                setattr(parent, projection, routed)
            parent.__class__ = _class_of_its_own(parent, tuple(sorted(projections)))


def tensor_parallel_plan(config, base: dict[str, str]) -> dict[str, str]:
    """How layers are split over devices: the base's plan, with experts split where their projection is.

    Where the projection splits its output, so does B, and A and the router are on every device; where it
    splits its input, A and the router do too, and B is on every device. Experts come first: servers take the
    first entry that a module's name begins with. "replicated_with_grad_allreduce" is what replicated layers
    are called in transformers; servers read it as "replicate".

    Args:
      config: whose `loramoe` section lists the modules with experts.
      base: the base family's plan, styles by module name with * for the layer.
    Returns: a new plan, styles by module name.
    """
    whole = "replicated_with_grad_allreduce"
    plan, rest = {}, dict(base)
    for part, projections in routed_projections(config).items():
        for projection in projections:
            place = f"layers.*.{part}.{projection}"
            if place not in rest or any(name.startswith(f"{place}.") for name in rest):  # a block of experts
                for name in [n for n in rest if n == place or n.startswith(f"{place}.")]:
                    plan[f"{place}.base_layer{name.removeprefix(place)}"] = rest.pop(name)
                plan[f"{place}.mixture"] = whole
                continue
            style = rest.pop(place)
            inner = ("rowwise", "rowwise", whole) if style == "rowwise" else (whole, whole, style)
            plan[f"{place}.base_layer"] = style
            for layer, layer_style in zip(("lora_a", "router", "lora_b"), inner, strict=True):
                if layer != "router" or config.loramoe["routing"] != "none":
                    plan[f"{place}.mixture.{layer}"] = layer_style
    return {**plan, **rest}


class LlamaLoraMoeConfig(LlamaConfig):
    model_type = "loramoe_llama"

    @property
    def base_model_tp_plan(self) -> dict[str, str]:
        return tensor_parallel_plan(self, LlamaConfig.base_model_tp_plan or {})


class LlamaLoraMoeModel(LlamaModel):
    config_class = LlamaLoraMoeConfig

    def __init__(self, config):
        super().__init__(config)
        add_experts(self, config)


class LlamaLoraMoeForCausalLM(LlamaForCausalLM):
    config_class = LlamaLoraMoeConfig

    def __init__(self, config):
        super().__init__(config)
        add_experts(self.model, config)
