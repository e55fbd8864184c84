"""Model library: LoRA experts and routers on a frozen decoder, weights in and out, generation.

    load            a checkpoint, with an adapter or new experts, as a LanguageModel
    save            a LanguageModel as an adapter or a whole model that other programs load
    LanguageModel   logits, balance loss and generation
    ModelConfig, ExpertConfig, BalanceConfig    describe a model, its experts and their balancing losses

A model with random weights needs no checkpoint:

>>> import tempfile
>>> import jaxmoe
>>> config = jaxmoe.ModelConfig(
...     vocab_size=64,
...     hidden_size=16,
...     intermediate_size=32,
...     num_layers=2,
...     num_heads=2,
...     num_kv_heads=1,
...     head_dim=8,
... )
>>> experts = jaxmoe.ExpertConfig(num_experts=4, rank=2, alpha=8.0)
>>> lm = jaxmoe.LanguageModel.random(config, experts)
>>> lm([[5, 6, 7]]).logits.shape
(1, 3, 64)
>>> lm.generate([[5, 6, 7]], max_new_tokens=4).tokens.shape
(1, 7)

A model saved whole loads again, here and in transformers (`trust_remote_code=True`). Its adapter alone is
saved with `format="loramoe"` and loaded with `jaxmoe.load(base, adapter)`:

>>> with tempfile.TemporaryDirectory() as folder:
...     saved = jaxmoe.save(lm, folder, format="hf")
...     again = jaxmoe.load(saved)
>>> again.experts == experts
True
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxmoe.export import save
    from jaxmoe.language_model import CausalOutput, Generation, LanguageModel
    from jaxmoe.model.balance import BalanceConfig
    from jaxmoe.model.config import ExpertConfig, ModelConfig
    from jaxmoe.pretrained import load

__all__ = [
    "BalanceConfig",
    "CausalOutput",
    "ExpertConfig",
    "Generation",
    "LanguageModel",
    "ModelConfig",
    "load",
    "save",
]
_HOMES = {
    "BalanceConfig": "model.balance",
    "CausalOutput": "language_model",
    "ExpertConfig": "model.config",
    "Generation": "language_model",
    "LanguageModel": "language_model",
    "ModelConfig": "model.config",
    "load": "pretrained",
    "save": "export",
}


def __getattr__(name: str) -> object:
    """Imports a name when it is first asked for, so that `import jaxmoe` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxmoe' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxmoe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
