"""Makes the adapters in this folder with PEFT, and what its models say: `pip install peft`, then run this
file.

Every case is a folder of its own beside a base of the same kind; expected.npz holds the logits by case.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
TOKENS = [[3, 7, 1, 4, 30, 12, 5, 9], [8, 8, 2, 29, 0, 11, 6, 22]]
SIZES = dict(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    initializer_range=0.3,
)
BASES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
}
QV = ["q_proj", "v_proj"]
EMBED, HEAD = ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]
# by case: the base, and the settings of LoRA
CASES: dict[str, tuple[str, dict]] = {
    "lora": ("plain", {"target_modules": ["q_proj", "down_proj"]}),
    "mica": ("plain", {"target_modules": QV, "init_lora_weights": "mica"}),
    "patterns": (
        "plain",
        {
            "target_modules": ["q_proj", "layers.1.mlp.down_proj"],
            "layers_to_transform": [0],
            "rank_pattern": {"down_proj": 1},
            "alpha_pattern": {r"layers\.0\..*": 7},
            "use_rslora": True,
        },
    ),
    "dora": ("plain", {"target_modules": "all-linear", "use_dora": True}),
    "dora-biased": (
        "biased",
        {"target_modules": ["o_proj", "up_proj"], "use_dora": True, "use_rslora": True},
    ),
    "dora-head": ("tied", {"target_modules": HEAD, "use_dora": True}),
    "embed": ("plain", {"target_modules": EMBED}),
    "embed-tied": ("tied", {"target_modules": EMBED}),
    "head": ("plain", {"target_modules": HEAD}),
    "head-tied": ("tied", {"target_modules": HEAD}),
    "both-tied": ("tied", {"target_modules": [*EMBED, "lm_head"]}),
    "together-tied": ("tied", {"target_modules": EMBED, "ensure_weight_tying": True}),
    "saved-embed": ("plain", {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
    "saved-embed-tied": ("tied", {"target_modules": QV, "modules_to_save": ["embed_tokens"]}),
    "saved-head-tied": ("tied", {"target_modules": QV, "modules_to_save": ["lm_head"]}),
    "saved-together-tied": (
        "tied",
        {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "saved-norms": ("plain", {"target_modules": QV, "modules_to_save": ["norm", "input_layernorm"]}),
    "saved-mlp": ("plain", {"target_modules": QV, "modules_to_save": ["layers.1.mlp"]}),
    "tokens": ("plain", {"target_modules": QV, "trainable_token_indices": [3, 30]}),
    "tokens-tied": ("tied", {"target_modules": QV, "trainable_token_indices": [3, 30]}),
    "tokens-both": (
        "plain",
        {"target_modules": QV, "trainable_token_indices": {"embed_tokens": [3, 30], "lm_head": [4]}},
    ),
    "resized": ("plain", {"target_modules": QV}),
    "resized-tied": ("tied", {"target_modules": QV}),
    "resized-saved": ("plain", {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "bias-all": ("biased", {"target_modules": QV, "bias": "all"}),
    "bias-lora": ("biased", {"target_modules": QV, "bias": "lora_only"}),
}


def base(kind: str) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(HERE / f"base-{kind}")


def main() -> None:
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    for kind, settings in BASES.items():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES, **settings))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" in name or name.endswith("bias"):
                    weight.add_(0.3 * torch.randn_like(weight))
        model.save_pretrained(HERE / f"base-{kind}")
        (HERE / f"base-{kind}" / "generation_config.json").unlink()
    expected = {"input_ids": np.array(TOKENS)}
    for number, (case, (kind, settings)) in enumerate(CASES.items()):
        model = base(kind)
        if case.startswith("resized"):
            model.resize_token_embeddings(34)
        torch.manual_seed(number)
        adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.add_(0.2 * torch.randn_like(weight))
        folder = HERE / case
        shutil.rmtree(folder, ignore_errors=True)
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink()
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"base-{kind}"  # not where it lies on this machine
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
        again = base(kind)
        if case.startswith("resized"):
            again.resize_token_embeddings(34)
        again = PeftModel.from_pretrained(again, folder).eval()
        with torch.no_grad():
            logits = again(torch.tensor(TOKENS)).logits
            difference = (logits - adapted.eval()(torch.tensor(TOKENS)).logits).abs().max()
        print(f"{case}: loads with a difference of {difference:.1e}")
        expected[case] = logits.numpy()
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
