"""One engine on the devices of several processes: the first takes requests, the others do what it does.

Every process holds an engine over the same mesh and must run the same programs in the same order. What an
engine does follows from what it is asked, so the first process tells the others, before each step, which
requests came in and which ended. If its caller ends a text by a callback, which the others do not have, the
text ends on all of them at the beginning of the next step.
"""

import dataclasses
import json
import traceback
from collections.abc import Callable, Mapping
from typing import TypedDict

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.generation.engine import Engine, EngineConfig
from jaxmoe.generation.model_runner import Served
from jaxmoe.generation.requests import Completion, FinishReason, NewToken, Request
from jaxmoe.generation.sampling import Sampling
from jaxmoe.json_values import JsonObject

# An engine without requests is stepped this often: a process that hears nothing for long assumes a fault.
IDLE_STEP_S = 1.0
# bytes of a message that are sent with its length; the rest of a longer one follows in a second piece
_FIRST = 4096


class _Message(TypedDict):
    """What the first process tells the others before a step.

    Attributes:
      new: whether to make a new engine, after a fault.
      end: nothing follows.
      requests: in the order in which they came.
      ended: numbers of requests, each with its reason.
    """

    new: bool
    end: bool
    requests: list[JsonObject]
    ended: list[tuple[int, FinishReason]]


class LeadingEngine(Engine):
    """The engine of the first process, made by `leading`; arguments as of `Engine`."""

    def __init__(
        self, lm: Served, config: EngineConfig, adapters: Mapping[str, tuple[int, int]] | None = None
    ):
        super().__init__(lm, config, adapters)
        self._told: _Message = _nothing()

    def submit(self, request: Request) -> int:
        """As `Engine.submit`; the others hear of it before the next step."""
        number: list[int] = []

        def on_token(token: NewToken) -> None:
            if request.on_token is not None and request.on_token(token):
                self.cancel(number[0], "stop")

        number.append(super().submit(dataclasses.replace(request, on_token=on_token)))
        self._told["requests"].append(_as_json(request))
        return number[0]

    def cancel(self, id: int, reason: FinishReason = "cancelled") -> None:
        """As `Engine.cancel`; the others hear of it before the next step.

        Args:
          id, reason: as there.
        """
        super().cancel(id, reason)
        self._told["ended"].append((id, reason))

    def step(self) -> dict[int, Completion]:
        """As `Engine.step`, which all processes do."""
        told, self._told = self._told, _nothing()
        _send(told)
        return super().step()


def leading(
    lm: Served, config: EngineConfig, adapters: Mapping[str, tuple[int, int]] | None = None
) -> Callable[[], LeadingEngine]:
    """Makes the first process's engine; called again after a fault, it lets the others make theirs anew.

    Args:
      lm, config, adapters: as of `Engine`.
    Returns: a function without arguments.
    """
    made = False

    def make() -> LeadingEngine:
        nonlocal made
        if made:
            _send({**_nothing(), "new": True})
        made = True
        return LeadingEngine(lm, config, adapters)

    return make


def follow(make: Callable[[], Engine]) -> None:
    """Does what the first process's engine does, until it ends.

    A step that fails here fails there too, and the first process then has all of them make new engines.

    Args:
      make: makes an engine like the first process's.
    Raises: the fault of a step after which the first process goes on without new engines.
    """
    engine, fault = make(), None
    while True:
        told = _receive()
        if told["end"]:
            jax.distributed.shutdown()
            return
        if told["new"]:
            engine.close()
            engine, fault = make(), None
            continue
        if fault is not None:
            raise fault
        try:
            for request in told["requests"]:
                engine.submit(_from_json(request))
            for id, reason in told["ended"]:
                engine.cancel(id, reason)
            engine.step()
        except Exception as error:
            traceback.print_exc()
            # its frames keep what is on the device, where there may be no room for two
            fault = error.with_traceback(None)


def tell_the_end() -> None:
    """Tells the other processes to end, and waits until they have.

    Called by the thread that steps the engine, after its last step; no program runs from then on.
    """
    _send({**_nothing(), "end": True})
    jax.distributed.shutdown()


def _nothing() -> _Message:
    return {"new": False, "end": False, "requests": [], "ended": []}


def _as_json(request: Request) -> JsonObject:
    asked = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    del asked["on_token"]
    return asked | {
        "prompt": list(map(int, request.prompt)),
        "sampling": dataclasses.asdict(request.sampling),
    }


def _from_json(asked: JsonObject) -> Request:
    made: JsonObject = dict(asked)
    made |= {"sampling": Sampling(**asked["sampling"]), "stop_tokens": tuple(asked["stop_tokens"])}
    return Request(**made)


def _send(message: _Message) -> None:
    _broadcast(json.dumps(message).encode())


def _receive() -> _Message:
    return json.loads(_broadcast(b""))


def _broadcast(content: bytes) -> bytes:
    """What the first process gives, on all of them; the others' own content does not matter."""
    first = np.zeros(4 + _FIRST, np.uint8)
    first[:4] = np.frombuffer(len(content).to_bytes(4, "big"), np.uint8)
    head = np.frombuffer(content[:_FIRST], np.uint8)
    first[4 : 4 + len(head)] = head
    first = np.asarray(multihost_utils.broadcast_one_to_all(first), np.uint8)
    length = int.from_bytes(first[:4].tobytes(), "big")
    if length <= _FIRST:
        return first[4 : 4 + length].tobytes()
    # padded to one of few sizes, each of which is compiled once
    rest = np.zeros(1 << (length - _FIRST - 1).bit_length(), np.uint8)
    rest[: max(len(content) - _FIRST, 0)] = np.frombuffer(content[_FIRST:], np.uint8)
    rest = np.asarray(multihost_utils.broadcast_one_to_all(rest), np.uint8)
    return first[4:].tobytes() + rest[: length - _FIRST].tobytes()
