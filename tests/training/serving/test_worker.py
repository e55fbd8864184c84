"""The thread that drives an engine: what fails ends with an error of its own, and nobody waits for good."""

import queue
import time
from types import SimpleNamespace

import pytest

from jaxmoe.generation.requests import Completion, Request
from training.serving import processes
from training.serving.worker import EngineEndedError, EngineWorker, Event, Failed


class FakeEngine:
    """Ends each request at its first step; or fails there."""

    def __init__(self, *, fails: bool = False):
        self.config = SimpleNamespace(slots=1)
        self._fails, self._waiting, self.closed = fails, [], False
        self.asked: list[Request] = []

    @property
    def idle(self) -> bool:
        return not self._waiting

    def check(self, request: Request) -> None: ...

    def submit(self, request: Request) -> int:
        self.asked.append(request)
        self._waiting.append(len(self.asked))
        return len(self.asked)

    def cancel(self, id: int, reason: str = "cancelled") -> None: ...

    def close(self) -> None:
        self.closed = True

    def step(self) -> dict[int, Completion]:
        if self._fails and self._waiting:
            raise RuntimeError("out of memory")
        ended, self._waiting = self._waiting, []
        return {id: Completion([], "stop") for id in ended}


def ask(worker: EngineWorker) -> "queue.SimpleQueue[Event]":
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    worker.submit(Request([1]), events.put)
    return events


def test_the_engine_that_failed_is_let_go_before_the_next_is_made(capsys):
    made: list[FakeEngine] = []

    def make() -> FakeEngine:
        assert all(one.closed for one in made)
        made.append(FakeEngine(fails=not made))
        return made[-1]

    with EngineWorker(make) as worker:
        failed = ask(worker).get(timeout=10)
        assert isinstance(failed, Failed)
        assert failed.error.__traceback__ is None  # its frames would hold the engine
        assert isinstance(ask(worker).get(timeout=10), Completion)
    assert "out of memory" in capsys.readouterr().err


def test_where_no_engine_can_be_made_anew_nobody_waits(capsys):
    made: list[FakeEngine] = []
    closed: list[bool] = []

    def make() -> FakeEngine:
        if made:
            time.sleep(0.1)
            raise RuntimeError("no memory for another")
        made.append(FakeEngine(fails=True))
        return made[-1]

    with EngineWorker(make, close=lambda: closed.append(True)) as worker:
        first = ask(worker)
        assert isinstance(first.get(timeout=10), Failed)
        late = ask(worker)  # while another is being made
        assert isinstance(late.get(timeout=10).error, EngineEndedError)
        with pytest.raises(EngineEndedError, match="could not be started again"):
            ask(worker)
        assert worker.pending == 0
    assert closed == [True]
    assert "no memory for another" in capsys.readouterr().err


def test_a_closed_server_takes_nothing(capsys):
    with EngineWorker(FakeEngine) as worker:
        pass
    with pytest.raises(EngineEndedError, match="closing"):
        ask(worker)


def test_an_answer_that_nobody_can_take_ends_nobody_else(capsys):
    def gone(_: Event) -> None:
        raise RuntimeError("Event loop is closed")

    with EngineWorker(FakeEngine) as worker:
        worker.submit(Request([1]), gone)
        assert isinstance(ask(worker).get(timeout=10), Completion)
    assert worker.restarts == 0


def told(monkeypatch, *messages: dict) -> None:
    left = iter(messages)
    monkeypatch.setattr(processes, "_receive", lambda: processes._nothing() | next(left))
    monkeypatch.setattr(processes.jax.distributed, "shutdown", lambda: None)


def asks(**more) -> dict:
    return {"requests": [processes._as_json(Request([1], **more))]}


def test_a_follower_survives_what_the_first_process_survives(monkeypatch, capsys):
    made: list[FakeEngine] = []

    def make() -> FakeEngine:
        assert all(one.closed for one in made)
        made.append(FakeEngine(fails=not made))
        return made[-1]

    told(monkeypatch, asks(), {"new": True}, asks(), {}, {"end": True})
    processes.follow(make)
    assert [len(one.asked) for one in made] == [1, 1]
    assert "out of memory" in capsys.readouterr().err


def test_a_follower_that_fails_alone_ends(monkeypatch, capsys):
    """It would no longer do what the first process does, which would wait for it."""
    told(monkeypatch, asks(), {}, {"end": True})
    with pytest.raises(RuntimeError, match="out of memory"):
        processes.follow(lambda: FakeEngine(fails=True))
