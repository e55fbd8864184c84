"""Programs graded elsewhere: every program has one verdict, whatever hosts do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rl.feedback.language import CompilerFeedback, Executed, Limits, Settings, TestResult
from rl.feedback.problems import Problem
from rl.hosts import remote
from rl.hosts.remote import HostLostError, RemotePool
from rl.hosts.wire import GradingRequest, Refusal, read_reply, read_request, write_reply, write_request
from rl.sandbox.worker import SandboxError, ToolsError

SETTINGS = Settings(Limits(time_s=1.0))
PROBLEM = Problem("p", "", inputs=["1"], outputs=["2"])


class FakeHost:
    """Passes every program, until it is told otherwise."""

    def __init__(self, name, workers=2, behave=None):
        self.name, self.count, self.behave = name, workers, behave
        self.opened, self.graded, self.running, self.most = 0, [], 0, 0
        self.lock = threading.Lock()

    def open(self):
        self.opened += 1
        if self.count == 0:
            raise HostLostError(f"{self.name} is away")
        return self.count

    def grade(self, request, time_s):
        asked = read_request(request)
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.002)
        try:
            if self.behave is not None:
                reply = self.behave(asked)
                if reply is not None:
                    return reply
            self.graded.append(asked.program)
            return write_reply(CompilerFeedback("pass", 1.0, message=asked.program))
        finally:
            with self.lock:
                self.running -= 1

    def close(self):
        self.opened = -1


def _lost(asked):
    raise HostLostError("b is lost (connection reset)")


def test_programs_are_shared_out_and_no_host_has_more_than_it_takes():
    hosts = [FakeHost("a", 1), FakeHost("b", 3)]
    with RemotePool(hosts, SETTINGS) as pool:
        feedbacks = pool.grade_many([(PROBLEM, str(i)) for i in range(60)])
    assert [feedback.message for feedback in feedbacks] == [str(i) for i in range(60)]
    assert sorted(map(int, hosts[0].graded + hosts[1].graded)) == list(range(60))
    assert (hosts[0].most, hosts[1].most) == (1, 3)
    assert [host.opened for host in hosts] == [-1, -1]


def test_what_a_lost_host_had_goes_to_the_others_and_is_graded_once(caplog):
    hosts = [FakeHost("a", 2), FakeHost("b", 2, _lost)]
    with RemotePool(hosts, SETTINGS) as pool:
        feedbacks = pool.grade_many([(PROBLEM, str(i)) for i in range(40)])
    assert [feedback.message for feedback in feedbacks] == [str(i) for i in range(40)]
    assert sorted(map(int, hosts[0].graded)) == list(range(40))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "b is lost (connection reset): its programs go to the others"
    ]


def test_a_host_that_comes_back_is_used_again(monkeypatch):
    monkeypatch.setattr(remote, "_AGAIN_S", 0.01)
    host = FakeHost("b", 1, _lost)
    with RemotePool([FakeHost("a", 1), host], SETTINGS) as pool:
        pool.grade_many([(PROBLEM, str(i)) for i in range(4)])
        host.behave = None
        time.sleep(0.02)
        pool.grade_many([(PROBLEM, str(i)) for i in range(30)])
    assert host.graded
    assert host.most == 1


def test_a_program_that_costs_every_host_ends_with_a_line(monkeypatch):
    monkeypatch.setattr(remote, "_AGAIN_S", 0.0)
    with (
        RemotePool([FakeHost("b", 1, _lost)], SETTINGS) as pool,
        pytest.raises(SandboxError, match="3 hosts were lost over p: b is lost"),
    ):
        pool.grade(PROBLEM, "x")


def test_no_host_at_all_is_said(monkeypatch):
    with pytest.raises(SandboxError, match="no host grades programs: a is away"):
        RemotePool([FakeHost("a", 0)], SETTINGS)
    with pytest.raises(SandboxError, match="no host grades programs: none is named"):
        RemotePool([], SETTINGS)
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.0)
    with (
        RemotePool([FakeHost("b", 1, _lost)], SETTINGS) as pool,
        pytest.raises(SandboxError, match="all hosts are lost"),
    ):
        pool.grade(PROBLEM, "x")


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (write_reply(Refusal("request", "has no tests")), ValueError, "has no tests"),
        (write_reply(Refusal("tools", "Go problems need go")), ToolsError, "a: Go problems need go"),
        (write_reply(Refusal("sandbox", "no user namespaces")), SandboxError, "no user namespaces"),
        (b"<html>", SandboxError, "a sent no feedback on a program"),
        (b"[" * 100_000, SandboxError, "a sent no feedback on a program"),
        (b'{"feedback": {"verdict": "good", "reward": 1}}', SandboxError, "a sent no feedback"),
    ],
)
def test_what_a_host_refuses_or_garbles_is_told(monkeypatch, reply, error, message):
    monkeypatch.setattr(remote, "_AGAIN_S", 0.0)
    with (
        RemotePool([FakeHost("a", 1, lambda asked: reply)], SETTINGS) as pool,
        pytest.raises(error, match=message),
    ):
        pool.grade(PROBLEM, "x")


def test_many_threads_lose_and_gain_hosts_without_losing_a_program(monkeypatch):
    monkeypatch.setattr(remote, "_AGAIN_S", 0.001)
    seen = {"count": 0}

    def now_and_then(asked):
        seen["count"] += 1
        if seen["count"] % 7 == 0:
            raise HostLostError("b is lost (again)")

    monkeypatch.setattr(remote, "_MOST_LOSSES", 1000)
    hosts = [FakeHost("a", 2, now_and_then), FakeHost("b", 2, now_and_then)]
    with RemotePool(hosts, SETTINGS) as pool, ThreadPoolExecutor(4) as callers:
        parts = [
            callers.submit(pool.grade_many, [(PROBLEM, str(i)) for i in range(k, k + 25)])
            for k in range(0, 100, 25)
        ]
        messages = [feedback.message for part in parts for feedback in part.result()]
    assert messages == [str(i) for i in range(100)]
    assert max(host.most for host in hosts) <= 2


def test_requests_and_replies_keep_what_they_hold():
    problem = Problem(
        "p",
        "é\u2028",
        fn_name="f",
        inputs=[[(1, {2}, {3: "x"}, 10**2000, float("inf"))]],
        outputs=[{(4, 5): 6}],
    )
    settings = Settings(Limits(time_s=0.5), "portable", True, "strict", 1e-3)
    asked = GradingRequest(problem, "\ud800 lone", settings, "pass_ratio")
    assert read_request(write_request(asked)) == asked
    feedback = CompilerFeedback(
        "fail",
        -0.3,
        (TestResult("pass", "", 0.25), TestResult("fail", "got 3")),
        Executed(((0, 4),), 2, 2),
        "m",
        0.5,
        True,
    )
    assert read_reply(write_reply(feedback)) == feedback
    assert read_reply(write_reply(Refusal("tools", "x"))) == Refusal("tools", "x")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (b"", "no request to grade a program"),
        (b"[]", "no request to grade a program"),
        (b'{"problem": {"inputs": [], "outputs": []}}', "no request to grade a program"),
        (b'{"problem": {"inputs": {"t": "other", "v": 1}, "outputs": []}}', "no request"),
        (
            write_request(GradingRequest(Problem("p", ""), "x", SETTINGS, "binary")),
            "the problem has no tests",
        ),
    ],
)
def test_forged_requests_are_refused_in_one_line(form, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_request(form)
    assert "\n" not in str(caught.value)
