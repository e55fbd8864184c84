"""Serve a model over HTTP as OpenAI's API: many requests at a time, with its experts and without.

Not covered: several processes behind one address, and adapters that are loaded while the server runs.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.model.quantized import QuantizedDtype
from jaxmoe.pretrained import load_adapters
from jaxmoe.text.chat_template import has_chat_template
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer
from training.commands.export import open_model
from training.runtime import config as configs
from training.runtime import distributed
from training.runtime.distributed import DistributedConfig, MeshConfig
from training.serving.app import make_app
from training.serving.served_model import ServedModel, ServingLimits
from training.serving.worker import EngineWorker

KEY_VARIABLE = "JAXMOE_API_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeConfig:
    """What to serve, where, and how much of it at a time.

    Attributes:
      run: output folder of a training run; or base (and adapter) instead.
      step: checkpoint of the run; null takes the newest.
      base: checkpoint, a folder, GGUF file, named model or hub id.
      adapter: folder of an adapter beside the base.
      adapters: several adapters beside the base, folders by the names that clients call them; the base alone
        is NAME-base.
      name: what clients call the model; null takes the last part of its path. With experts, NAME uses them
        and NAME-base does not.
      host: address to listen on; other than this machine's own needs a key in JAXMOE_API_KEY.
      port: to listen on.
      dtype: of weights and products, with base.
      base_dtype: int8 or nf4 hold the kernels of a base's attention and feed-forward quantized; null holds
        them in dtype. A run keeps its own.
      most_waiting: requests that may wait for a slot before others are turned away.
      drain_s: seconds that requests in progress have when the server is told to end.
    """

    __pydantic_config__ = configs.STRICT

    run: str | None = None
    step: int | None = None
    base: str | None = None
    adapter: str | None = None
    adapters: dict[str, str] = field(default_factory=dict[str, str])
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    dtype: str = "float32"
    base_dtype: QuantizedDtype | None = None
    most_waiting: int = 256
    drain_s: int = 30
    engine: EngineConfig = field(default_factory=EngineConfig)
    limits: ServingLimits = field(default_factory=ServingLimits)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __post_init__(self) -> None:
        if (self.run is None) == (self.base is None):
            raise ValueError("give either run (the folder of a training run) or base (a checkpoint)")
        if self.run is not None and self.base_dtype is not None:
            raise ValueError("base_dtype goes with base; a run has its own")
        if self.adapters and (self.base is None or self.adapter is not None):
            raise ValueError("adapters stand beside a base: give base, and neither run nor adapter")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must lie in 0..65535; got {self.port}")
        if self.most_waiting < 0:
            raise ValueError(f"most_waiting must not be negative; got {self.most_waiting}")


def main(config: ServeConfig) -> None:
    """Serves until it is told to end; requests in progress are finished first."""
    key = os.environ.get(KEY_VARIABLE) or None
    if config.host not in LOCAL and key is None:
        raise ValueError(f"host {config.host} is open to others: set a key in {KEY_VARIABLE} first")
    distributed.start(config.distributed)
    mesh, runs = config.mesh.make(), {}
    if config.adapters:
        lm, runs = load_adapters(str(config.base), config.adapters, config.dtype, mesh, config.base_dtype)
        tokenizer = load_tokenizer(str(lm.source))
    else:
        lm, tokenizer = open_model(
            config.run, config.step, config.base, config.adapter, mesh, config.dtype, config.base_dtype
        )
    name = config.name or Path(str(config.run or config.adapter or config.base)).name
    names: dict[str, bool | str] = {own: own for own in runs}
    if not runs:
        names[name] = True
    if lm.experts:
        names[f"{name}-base"] = False
    ends = stop_tokens(tokenizer, lm.stop_tokens)
    model = ServedModel(names, tokenizer, ends, config.engine.max_length)
    with EngineWorker(lambda: Engine(lm, config.engine, runs), config.most_waiting) as worker:
        app = make_app(worker, model, config.limits, key)
        print(
            _greeting(
                config.host,
                config.port,
                config.engine,
                next(iter(names)),
                has_chat_template(tokenizer),
                key is not None,
            ),
            file=sys.stderr,
        )
        uvicorn.run(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=config.drain_s,
            server_header=False,
        )


def _greeting(at: str, port: int, engine: EngineConfig, name: str, chat: bool, key: bool) -> str:
    """Where the server is, and a line to try it with."""
    host = "localhost" if at in LOCAL else at
    address = f"http://{host}:{port}"
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if chat else {"prompt": "Hello"}
    route = "chat/completions" if chat else "completions"
    header = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if key else ""
    return (
        f"serving {name} at {address}/v1 ({engine.slots} slots of {engine.max_length} tokens); "
        f"a page to chat at {address}/\n"
        f"  curl {address}/v1/{route} -H 'Content-Type: application/json'{header} "
        f"-d '{json.dumps({'model': name, **asked})}'"
    )
