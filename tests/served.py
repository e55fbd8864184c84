"""Models behind a server on this machine, for tests: a tiny one, or any that was loaded."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import jax
import numpy as np
import openai
import uvicorn
from transformers import PreTrainedTokenizerBase

import jaxmoe
from jaxmoe.datasets.programs import pretraining_texts
from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ExpertConfig, ModelConfig
from jaxmoe.tokenizer import train_bpe
from training.serving.app import make_app
from training.serving.served_model import ServedModel, ServingLimits
from training.serving.worker import EngineWorker

ENGINE = EngineConfig(slots=3, max_length=160, chunk=16, sizes=())
LIMITS = ServingLimits()


class Served:
    """A model behind a server on this machine."""

    def __init__(
        self,
        lm: LanguageModel,
        tokenizer: PreTrainedTokenizerBase,
        config: EngineConfig = ENGINE,
        stop_tokens: tuple[int, ...] = (),
        names: dict[str, bool | str] | None = None,
        adapters: dict[str, tuple[int, int]] | None = None,
    ):
        self.lm, self.tokenizer, self.config, self.adapters = lm, tokenizer, config, adapters
        names = names or {"tiny": True}
        self.model = ServedModel(names, tokenizer, stop_tokens, config.max_length)
        self.worker = EngineWorker(self.engine, most_waiting=50)
        self.address = ""

    def engine(self, slots: int | None = None) -> Engine:
        return Engine(self.lm, replace(self.config, slots=slots or self.config.slots), self.adapters)

    @contextmanager
    def serving(
        self,
        worker: EngineWorker | None = None,
        limits: ServingLimits = LIMITS,
        key: str | None = None,
    ) -> Iterator[str]:
        """A server; its address."""
        app = make_app(worker or self.worker, self.model, limits, key)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join(30)

    def expected(self, prompt: list[int], new: int, experts: bool = True) -> str:
        made = self.lm.generate(np.asarray([prompt]), max_new_tokens=new, stop_tokens=(), experts=experts)
        return self.tokenizer.decode(
            made.tokens[0, len(prompt) : len(prompt) + new], skip_special_tokens=True
        )


def tiny(config: EngineConfig = ENGINE) -> Served:
    """A small model with experts, whose texts no token ends: lengths are then known."""
    tokenizer = train_bpe(["the quick brown fox jumps over the lazy dog"] * 5, 300)
    shape = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
    )
    experts = ExpertConfig(num_experts=2, rank=2, targets=("up_proj",))
    model = params.build(shape, experts, std=0.3)
    b = model.blocks.mlp.up_proj.experts.b
    b[...] = jax.random.normal(jax.random.key(1), b.shape)
    lm = LanguageModel(shape, params.split(model), params.single_device_mesh(), experts)
    return Served(lm, tokenizer, config, names={"tiny": True, "tiny-base": False})


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    """OpenAI's own client, unpatched."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=120)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def save_tiny_base(folder: Path) -> None:
    """A checkpoint of some thousand random weights, with its tokenizer."""
    texts = [text for text, _ in zip(pretraining_texts(60), range(60), strict=True)]
    tokenizer = train_bpe(texts, 300)
    config = ModelConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    weights = params.split(params.build(config, std=0.4), "all")
    jaxmoe.save(
        LanguageModel(config, weights, params.single_device_mesh()), folder, "hf", tokenizer=tokenizer
    )


def wait_until_healthy(address: str, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Until a server answers; its processes must be alive."""
    deadline = time.monotonic() + 200
    while True:
        assert time.monotonic() < deadline
        assert all(p.poll() is None for p in processes), [p.communicate()[0] for p in processes]
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
