"""What vLLM's and SGLang's Transformers backends do to an exported model, done here: the experts stay.

They build `AutoModel` without memory for weights, put a linear layer of their own in place of each
`nn.Linear`, split as the first entry of `tp_plan` says whose pattern its name begins with, and load tensors
by name. Here the devices of a group are threads. transformers' own tensor parallelism runs as it is, on two
processes.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import jaxmoe
from jaxmoe.adapters.files import write_adapter
from jaxmoe.export import modeling_file
from jaxmoe.families import FAMILIES
from jaxmoe.model.config import ExpertConfig
from tests.tiny_checkpoints import FLOAT32_LOGITS, random_adapter, write_checkpoint

CASES = {
    # every family and routing; experts in some layers only, beside attention, shared A, biases, a tied head
    "llama-dense": ({"model_type": "llama", "mlp_bias": True}, ExpertConfig(4, 2, 4.0)),
    "mistral-top-k": (
        {"model_type": "mistral", "sliding_window": None},
        ExpertConfig((3, 2), (2, 4), 4.0, "sqrt_rank", ("q_proj", "v_proj", "o_proj", "down_proj"), "top_k"),
    ),
    "qwen2-some-layers": (
        {"model_type": "qwen2", "tie_word_embeddings": True},
        ExpertConfig(5, 2, 4.0, "rank", ("k_proj", r"layers\.1\.mlp\.up_proj"), "top_p", top_p=0.6),
    ),
    "qwen3-shared-a": (
        {"model_type": "qwen3", "head_dim": 16},
        ExpertConfig(3, 2, 4.0, "sqrt_rank", ("o_proj", "gate_proj", "up_proj"), shared_a=True),
    ),
    "llama-lora": (
        {"model_type": "llama"},
        ExpertConfig((0, 2), 2, 4.0, "rank", ("q_proj", "down_proj"), "none"),
    ),
}
STYLES = {
    "colwise": "column",
    "rowwise": "row",
    "replicate": "whole",
    "replicated_with_grad_allreduce": "whole",
}


@pytest.fixture(autouse=True, scope="module")
def _module_cache(tmp_path_factory):
    """transformers copies modeling files into its cache; a fresh one keeps old copies out."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module", params=CASES)
def exported(request, tmp_path_factory):
    """An exported model, and the logits that it must give."""
    settings, experts = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder / "base", **settings)
    config = jaxmoe.load(folder / "base").config
    (folder / "adapter").mkdir()
    write_adapter(folder / "adapter", random_adapter(experts, config), config, "loramoe", "base")
    lm = jaxmoe.load(folder / "base", folder / "adapter")
    jaxmoe.save(lm, folder / "out", format="hf")
    tokens = np.random.default_rng(0).integers(3, 96, (1, 12))
    plain = np.asarray(jaxmoe.load(folder / "base")(tokens).logits)
    logits = np.asarray(lm(tokens).logits)
    assert np.abs(plain - logits).max() > 0.1  # the experts matter
    return folder / "out", tokens, logits


class Group:
    """Devices that add up what each has."""

    def __init__(self, size):
        self.size, self.parts, self.barrier = size, [None] * size, threading.Barrier(size, timeout=60)

    def total(self, rank, part):
        self.parts[rank] = part
        self.barrier.wait()
        total = sum(self.parts)
        self.barrier.wait()
        return total


class SplitLinear(nn.Module):
    """A server's linear layer: one device's part of the weight."""

    def __init__(self, linear, style, rank, group):
        super().__init__()
        self.kind, self.rank, self.group = STYLES[style], rank, group
        self.shape, self.weight, self.bias = linear.weight.shape, None, None

    def load(self, name, tensor):
        if name == "weight":
            assert tensor.shape == self.shape
        if self.kind == "column":
            tensor = tensor.chunk(self.group.size, 0)[self.rank]
        elif self.kind == "row" and name == "weight":
            tensor = tensor.chunk(self.group.size, 1)[self.rank]
        setattr(self, name, tensor)

    def forward(self, x):
        if self.kind != "row":
            return nn.functional.linear(x, self.weight, self.bias)
        total = self.group.total(self.rank, nn.functional.linear(x, self.weight))
        return total if self.bias is None else total + self.bias


def replace_linears(model, rank, group):
    """Every `nn.Linear` becomes a server's; by name, what became of it."""
    plan = {f"model.{pattern}": style for pattern, style in model.tp_plan.items()}
    styles = {}

    def visit(module, prefix):
        for name, child in list(module.named_children()):
            full = f"{prefix}.{name}"
            if isinstance(child, nn.Linear):
                pattern = next((p for p in plan if re.match(p, full)), None)
                styles[full] = plan.get(pattern, "replicate")
                setattr(module, name, SplitLinear(child, styles[full], rank, group))
            else:
                visit(child, full)

    visit(model, "model")
    return styles


def served_model(folder, rank, group):
    """The decoder as a server has it on one device of a group, the head, and how each layer is split."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=True)
    styles = replace_linears(model, rank, group)
    model = model.to_empty(device="cpu").eval()
    model.rotary_emb = type(model.rotary_emb)(config=config)  # its buffers are no weights
    tensors = load_file(folder / "model.safetensors")
    head = tensors.pop("lm_head.weight", tensors["model.embed_tokens.weight"])
    others = dict(model.named_parameters())
    for name, tensor in tensors.items():
        module_name, _, part = name.removeprefix("model.").rpartition(".")
        module = model.get_submodule(module_name)
        if isinstance(module, SplitLinear):
            module.load(part, tensor)
        else:
            others.pop(name.removeprefix("model.")).data.copy_(tensor)
    assert not others, "weights that no tensor filled"
    return model, head, styles


@pytest.mark.parametrize("devices", [1, 2])
def test_experts_stay_where_servers_replace_linear_layers(exported, devices):
    folder, tokens, logits = exported
    group = Group(devices)
    torch.set_num_threads(1)
    served = [served_model(folder, rank, group) for rank in range(devices)]

    def run(model, head, _):
        with torch.no_grad():
            return nn.functional.linear(model(torch.tensor(tokens)).last_hidden_state, head).numpy()

    with ThreadPoolExecutor(devices) as pool:
        results = list(pool.map(lambda one: run(*one), served))
    for result, (_, _, styles) in zip(results, served, strict=True):
        np.testing.assert_allclose(result, logits, atol=FLOAT32_LOGITS)
        parts = {name.rsplit(".", 1)[1] for name in styles}
        assert {"base_layer", "lora_a", "lora_b"} <= parts
        # a projection's experts are split as it is: none is replicated where its part is not
        for name, style in styles.items():
            if name.endswith(".base_layer"):
                mixture = f"{name.removesuffix('.base_layer')}.mixture"
                if f"{mixture}.lora_a" not in styles:
                    continue  # a layer without experts
                inner = [STYLES[styles[f"{mixture}.{part}"]] for part in ("lora_a", "lora_b")]
                assert inner == (["row", "whole"] if style == "rowwise" else ["whole", "column"])
    assert "row" in {STYLES[s] for s in served[0][2].values()}


def test_auto_model_is_the_decoder_of_the_causal_model(exported):
    folder, tokens, logits = exported
    decoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    causal = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(decoder).__name__.endswith("LoraMoeModel")
    assert decoder.is_backend_compatible()
    with torch.no_grad():
        hidden = decoder(torch.tensor(tokens)).last_hidden_state
        np.testing.assert_allclose(causal.lm_head(hidden).numpy(), logits, atol=FLOAT32_LOGITS)
        np.testing.assert_allclose(causal(torch.tensor(tokens)).logits.numpy(), logits, atol=FLOAT32_LOGITS)
    # servers look at one module of a class and fuse the linear layers of all
    seen: dict[type, frozenset[str]] = {}
    for module in decoder.modules():
        linears = frozenset(n for n, child in module.named_children() if isinstance(child, nn.Linear))
        assert seen.setdefault(type(module), linears) == linears, type(module).__name__
    # three linear layers on one input would be fused as q, k and v: a routed projection has one, its
    # mixture two
    for cls, linears in seen.items():
        if cls.__name__ == "RoutedLinear":
            assert not issubclass(cls, nn.Linear)
            assert linears == {"base_layer"}
        if cls.__name__ == "Mixture":
            assert linears <= {"lora_a", "router", "lora_b"}


ONE_OF_TWO = """
import os, sys, numpy, torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

folder, tokens, out = sys.argv[1:]
split = DistributedConfig(tp_plan="auto", tp_size=2)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, distributed_config=split).eval()
with torch.no_grad():
    logits = model(torch.tensor(numpy.load(tokens))).logits
numpy.save(out, logits.full_tensor().numpy() if hasattr(logits, "full_tensor") else logits.numpy())
torch.distributed.destroy_process_group()
os._exit(0)  # threads of torch that still run end the interpreter with SIGABRT now and then
"""


@pytest.mark.parametrize("exported", ["qwen2-some-layers"], indirect=True)
def test_transformers_splits_the_model_over_two_processes(exported, tmp_path):
    folder, tokens, logits = exported
    np.save(tmp_path / "tokens.npy", tokens)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"CUDA_VISIBLE_DEVICES": "", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    processes = []
    for rank in ("0", "1"):
        arguments = [str(folder), str(tmp_path / "tokens.npy"), str(tmp_path / f"{rank}.npy")]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", ONE_OF_TWO, *arguments],
                env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    for rank in ("0", "1"):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), logits, atol=FLOAT32_LOGITS)


def test_what_transformers_saves_again_loads_again(exported, tmp_path):
    folder, tokens, logits = exported
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.tensor(tokens)).logits.numpy(), logits, atol=FLOAT32_LOGITS)
    ours = jaxmoe.load(tmp_path / "again")
    np.testing.assert_allclose(np.asarray(ours(tokens).logits), logits, atol=FLOAT32_LOGITS)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_the_modeling_file_is_the_familys_own(family):
    text = modeling_file(family)
    compile(text, "modeling_loramoe.py", "exec")
    names = {other.CLASS_PREFIX for other in FAMILIES.values()} - {family.CLASS_PREFIX}
    assert not any(re.search(rf"\b{name}(Config|Model|ForCausalLM|LoraMoe)", text) for name in names)
    assert f'model_type = "loramoe_{family.MODEL_TYPE}"' in text
