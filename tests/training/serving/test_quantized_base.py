"""A quantized base behind the server: what the same model generates in batches, alone and with adapters."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmoe
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.model.quantized import is_quantized
from jaxmoe.pretrained import load_adapters
from jaxmoe.tokenizer import load_tokenizer, train_bpe
from tests.served import Served, client_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with random weights, and two adapters."""
    made = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(["the quick brown fox jumps over the lazy dog"] * 5, 300)
    shape = ModelConfig(300, 32, 48, 1, 4, 2, 8)
    base = params.split(params.build(shape, std=0.3), "all")
    mesh = params.single_device_mesh()
    jaxmoe.save(LanguageModel(shape, base, mesh), made / "base", "hf", tokenizer=tokenizer)
    for seed, name in enumerate(("one", "two")):
        experts = ExpertConfig(num_experts=2, rank=2, targets=("up_proj",))
        model = params.build(shape, experts, std=0.3)
        b = model.blocks.mlp.up_proj.experts.b
        b[...] = jax.random.normal(jax.random.key(seed), b.shape)
        jaxmoe.save(LanguageModel(shape, params.split(model), mesh, experts), made / name, "loramoe")
    return made


def quantized(lm: LanguageModel) -> set[str]:
    leaves = jax.tree.leaves(lm.weights.frozen, is_leaf=is_quantized)
    return {leaf.quantized_dtype for leaf in leaves if is_quantized(leaf)}


def texts(served: Served, names: list[str]) -> list[str]:
    with served.worker, served.serving() as address:
        client = client_of(address)
        asked = {"prompt": "the quick", "max_tokens": 8, "temperature": 0}
        return [client.completions.create(model=name, **asked).choices[0].text for name in names]


def continued(lm: LanguageModel, served: Served, **values: bool) -> str:
    ids = served.tokenizer.encode("the quick")
    made = lm.generate(np.asarray([ids]), max_new_tokens=8, stop_tokens=(), **values)
    return served.tokenizer.decode(made.tokens[0, len(ids) :], skip_special_tokens=True)


def test_a_served_int8_base_writes_what_it_writes_in_batches(folder: Path):
    lm = jaxmoe.load(folder / "base", base_dtype="int8")
    assert quantized(lm) == {"int8"}
    served = Served(lm, load_tokenizer(folder / "base"))
    assert texts(served, ["tiny"]) == [continued(lm, served)]


@pytest.mark.slow
def test_adapters_stand_side_by_side_over_an_nf4_base(folder: Path):
    lm, runs = load_adapters(
        folder / "base", {name: folder / name for name in ("one", "two")}, base_dtype="nf4"
    )
    assert quantized(lm) == {"nf4"}
    names: dict[str, bool | str] = {"one": "one", "two": "two", "base": False}
    served = Served(lm, load_tokenizer(folder / "base"), names=names, adapters=runs)
    found = texts(served, ["one", "two", "base"])
    alone = [jaxmoe.load(folder / "base", folder / name, base_dtype="nf4") for name in ("one", "two")]
    expected = [continued(one, served) for one in alone] + [continued(alone[0], served, experts=False)]
    assert found == expected
    assert len(set(found)) == 3
