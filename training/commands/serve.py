"""Serve a model over HTTP with OpenAI's API: many requests at a time, with and without its experts.

Several processes of one mesh serve at the address of the first. Not covered: loading adapters while the
server runs.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping

import jax
import uvicorn

from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.language_model import LanguageModel
from jaxmoe.pretrained import load_adapters
from jaxmoe.text.chat_template import has_chat_template
from jaxmoe.text.stop_tokens import stop_tokens
from jaxmoe.tokenizer import load_tokenizer
from training.commands.export import open_model
from training.runtime import distributed
from training.runtime.given_models import check_base, check_named_adapter
from training.serving.app import make_app
from training.serving.config import ServeConfig, fitted
from training.serving.processes import IDLE_STEP_S, follow, leading, tell_the_end
from training.serving.served_model import ServedModel
from training.serving.worker import EngineWorker

KEY_VARIABLE = "JAXMOE_API_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")


def main(config: ServeConfig) -> None:
    """Serves until it is told to end; requests in progress are finished first."""
    key = os.environ.get(KEY_VARIABLE) or None
    if config.host not in LOCAL and key is None:
        raise ValueError(f"host {config.host} is open to others: set a key in {KEY_VARIABLE} first")
    distributed.start(config.distributed)
    mesh, runs = config.mesh.make(), {}
    if config.adapters:
        check_base("base", str(config.base))
        for own, folder in config.adapters.items():
            check_named_adapter(f"adapters.{own}", folder)
        lm, runs = load_adapters(str(config.base), config.adapters, config.dtype, mesh, config.base_dtype)
        tokenizer = load_tokenizer(str(lm.source))
    else:
        lm, tokenizer = open_model(
            config.run, config.step, config.base, config.adapter, mesh, config.dtype, config.base_dtype
        )
    engine = fitted(config.engine, lm.config)
    names: dict[str, bool | str] = {own: own for own in runs}
    if not runs:
        names[config.model_name] = True
    if lm.experts:
        names[config.base_name] = False
    ends = stop_tokens(tokenizer, lm.stop_tokens)
    model = ServedModel(names, tokenizer, ends, engine.max_length)
    if not distributed.is_main():
        follow(lambda: Engine(lm, engine, runs))
        return
    with _worker(lm, engine, config.most_waiting, runs) as worker:
        app = make_app(worker, model, config.limits, key)
        print(
            _greeting(
                config.host,
                config.port,
                engine,
                next(iter(names)),
                has_chat_template(tokenizer),
                key is not None,
            ),
            file=sys.stderr,
        )
        listening = uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=config.drain_s,
            server_header=False,
        )
        _Server(listening, worker).run()


class _Server(uvicorn.Server):
    """Lets the engine end before passing on the signal that ended the server, which ends the program at
    once."""

    def __init__(self, config: uvicorn.Config, worker: EngineWorker):
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains, as uvicorn does, then ends the engine.

        Args:
          sockets: to close.
        """
        await super().shutdown(sockets)
        await asyncio.to_thread(self._worker.end)


def _worker(
    lm: LanguageModel, engine: EngineConfig, most_waiting: int, runs: Mapping[str, tuple[int, int]]
) -> EngineWorker:
    """What drives the engine, alone or as the leader of the engines of other processes."""
    if jax.process_count() == 1:
        return EngineWorker(lambda: Engine(lm, engine, runs), most_waiting)
    return EngineWorker(
        leading(lm, engine, runs),
        most_waiting,
        idle_step_s=IDLE_STEP_S,
        close=tell_the_end,
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
