"""Llama, Mistral, Qwen2 and Qwen3 with routed LoRA experts beside their projections, for transformers 5.

Lies beside exported weights, for `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. It
needs torch and transformers only. Attention, cache and generation are those of the base family: just the
projections that carry experts are replaced, by

    o = W0 x + scale · Σᵢ ωᵢ Bᵢ Aᵢ x,   ω = route(W_g x)

For inference: experts have no dropout here, and the balancing losses of training are not computed.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)


def route(logits: torch.Tensor, settings: dict) -> torch.Tensor:
    """Weights of the experts, float32 [.., E]: softmax over all, the k best, or the fewest that reach p."""
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


class RoutedLinear(nn.Linear):
    """A linear layer with E low-rank experts; the experts' products are batched, never looped over.

    Parameters beside weight and bias: lora_a [E, R, in] (one expert's if shared), lora_b [E, out, R] and
    router [E, in] (absent where every expert always counts in full).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, settings: dict, module: dict):
        super().__init__(in_features, out_features, bias=bias)
        experts, rank = module["experts"], module["rank"]
        self.settings, self.scale = settings, module["scale"]
        kinds = 1 if settings["shared_a"] else experts
        self.lora_a = nn.Parameter(torch.zeros(kinds, rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(experts, out_features, rank))
        routed = settings["routing"] != "none"
        self.router = nn.Parameter(torch.zeros(experts, in_features)) if routed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        experts, out_features, rank = self.lora_b.shape
        low = functional.linear(x, self.lora_a.flatten(0, 1)).unflatten(-1, (-1, rank)) * self.scale
        if self.router is not None:
            low = low * route(functional.linear(x, self.router), self.settings).to(x.dtype).unsqueeze(-1)
        low = low.expand(*x.shape[:-1], experts, rank).flatten(-2)
        stacked = self.lora_b.permute(1, 0, 2).reshape(out_features, experts * rank)
        return super().forward(x) + functional.linear(low, stacked)


class WithExperts(PreTrainedModel):
    """Puts experts beside the projections that the config names, when the base model stands."""

    def __init__(self, config):
        super().__init__(config)
        for name, module in config.loramoe["modules"].items():
            parent_name, _, child = name.rpartition(".")
            parent = self.model.get_submodule(parent_name)
            base = getattr(parent, child)
            routed = RoutedLinear(
                base.in_features, base.out_features, base.bias is not None, config.loramoe, module
            )
            setattr(parent, child, routed)


class LlamaLoraMoeConfig(LlamaConfig):
    model_type = "loramoe_llama"


class LlamaLoraMoeForCausalLM(WithExperts, LlamaForCausalLM):
    config_class = LlamaLoraMoeConfig


class MistralLoraMoeConfig(MistralConfig):
    model_type = "loramoe_mistral"


class MistralLoraMoeForCausalLM(WithExperts, MistralForCausalLM):
    config_class = MistralLoraMoeConfig


class Qwen2LoraMoeConfig(Qwen2Config):
    model_type = "loramoe_qwen2"


class Qwen2LoraMoeForCausalLM(WithExperts, Qwen2ForCausalLM):
    config_class = Qwen2LoraMoeConfig


class Qwen3LoraMoeConfig(Qwen3Config):
    model_type = "loramoe_qwen3"


class Qwen3LoraMoeForCausalLM(WithExperts, Qwen3ForCausalLM):
    config_class = Qwen3LoraMoeConfig
