"""The sandbox: each test attacks one property. Programs are bounded, so that a hole does no harm here."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from rl.feedback import pool as pooling
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
from rl.sandbox import __main__ as check
from rl.sandbox.jobs import WorkerDiedError
from rl.sandbox.worker import Worker
from tests.rl.sandbox.programs import ATTACKS, CALL, GOOD, LIMITS, SECRET, STDIN, STRETCHED


class Outside(NamedTuple):
    """What programs must not reach."""

    folder: Path
    port: int
    udp_port: int
    unix_socket: str
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket

    def fill(self, program: str) -> str:
        for name, value in {
            "OUT": self.folder,
            "PORT": self.port,
            "UDP": self.udp_port,
            "USOCK": self.unix_socket,
            "CANARY": self.folder / "canary",
            "PID": os.getpid(),
        }.items():
            program = program.replace(f"@{name}@", str(value))
        return program

    def assert_untouched(self) -> None:
        assert sorted(p.name for p in self.folder.iterdir()) == ["canary", "usock"]
        assert (self.folder / "canary").read_text() == SECRET
        for channel in (self.tcp, self.unix):
            with pytest.raises(BlockingIOError):
                channel.accept()
        with pytest.raises(BlockingIOError):
            self.udp.recv(1)
        for folder in ("/dev/shm", "/tmp", "/var/tmp", "."):
            assert not list(Path(folder).glob("SC_MARKER*"))


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    monkeypatch.setenv("GRADER_SECRET", SECRET)
    (tmp_path / "canary").write_text(SECRET)
    tmp_path.chmod(0o777)
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    unix = socket.socket(socket.AF_UNIX)
    with tcp, udp, unix:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "usock"))
        (tmp_path / "usock").chmod(0o777)
        for channel in (tcp, unix):
            channel.listen()
        for channel in (tcp, udp, unix):
            channel.setblocking(False)
        path = str(tmp_path / "usock")
        yield Outside(tmp_path, tcp.getsockname()[1], udp.getsockname()[1], path, tcp, udp, unix)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(workers=2, limits=LIMITS) as pool:
        yield pool


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gets_its_verdict_and_nothing_else(name: str, pool: Pool, outside: Outside):
    problem, expected, program = ATTACKS[name]
    started = time.monotonic()
    feedback = pool.grade(problem, outside.fill(textwrap.dedent(program)))
    assert feedback.verdict in expected.split("|"), feedback
    assert SECRET not in repr(feedback)
    assert time.monotonic() - started < 30
    outside.assert_untouched()
    assert pool.grade(CALL, "def f(n): return n * 2").verdict == "pass"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiled_program_cannot_stretch_its_time_either(pool: Pool):
    assert pool.grade(replace(STDIN, language="cpp"), STRETCHED).verdict == "timeout"


@pytest.mark.parametrize("name", GOOD)
def test_honest_programs_pass(name: str, pool: Pool):
    problem, program = GOOD[name]
    feedback = pool.grade(problem, textwrap.dedent(program))
    assert feedback.verdict == "pass", feedback


def test_every_reference_attack(shared: Path, outside: Outside):
    assert not run_folder(shared / "attacks", outside)


def run_folder(folder: Path, outside: Outside) -> list[str]:
    """Runs a folder of attacks; what went wrong, in words."""
    programs = {path.name: path.read_text() for path in sorted(folder.glob("*.py"))}
    assert programs, f"no programs in {folder}"
    tasks = {"stdin": STDIN, "call": CALL}
    pairs = [(tasks[_header(text, "KIND")], outside.fill(text)) for text in programs.values()]
    limits = Limits(time_s=2, memory_bytes=512 << 20, output_bytes=1 << 20, timeouts=1)
    with Pool(workers=2, limits=limits) as pool:
        feedbacks = pool.grade_many(pairs)
    outside.assert_untouched()
    return [
        f"{name}: {feedback}"
        for (name, text), feedback in zip(programs.items(), feedbacks, strict=True)
        if feedback.verdict not in _header(text, "EXPECT").split("|") or SECRET in repr(feedback)
    ]


def _header(program: str, key: str) -> str:
    match = re.search(rf"{key}: (\S+)", program)
    assert match, f"the program has no {key}"
    return match[1]


AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.rl.sandbox import test_sandbox as t
assert os.getuid() == 65534
wrong = []
with t.Pool(workers=2, limits=t.LIMITS) as pool:
    pairs = []
    for name, (problem, expected, program) in t.ATTACKS.items():
        for key, value in zip(("OUT", "PORT", "UDP", "USOCK", "CANARY", "PID"), sys.argv[2:8]):
            program = program.replace(f"@{key}@", value)
        pairs.append((problem, t.textwrap.dedent(program)))
    for (name, (_, expected, _)), feedback in zip(t.ATTACKS.items(), pool.grade_many(pairs)):
        if feedback.verdict not in expected.split("|") or t.SECRET in repr(feedback):
            wrong.append(f"{name}: {feedback}")
    for name, (problem, program) in t.GOOD.items():
        feedback = pool.grade(problem, t.textwrap.dedent(program))
        if feedback.verdict != "pass":
            wrong.append(f"{name}: {feedback}")
print(wrong)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="becomes nobody with setpriv (util-linux)")
def test_the_same_as_nobody(outside: Outside):
    here = Path(__file__).parents[2]
    python = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    if subprocess.run([*python, "-c", "import pytest"], check=False, capture_output=True).returncode != 0:
        pytest.skip("nobody cannot run this interpreter")
    places = (outside.folder, outside.port, outside.udp_port, outside.unix_socket, outside.folder / "canary")
    arguments = [str(a) for a in (here.parent, *places, os.getpid())]
    done = subprocess.run(
        [*python, "-P", "-B", "-c", AS_NOBODY, *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        cwd="/",
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    outside.assert_untouched()


def test_verdict_and_limits_of_each_test_are_its_own():
    program = """
    def f(n):
        if n == 3: raise ValueError("three")
        while n == 21: pass
        return n * 2
    """
    with Pool(1, Limits(time_s=0.5)) as pool:
        feedback = pool.grade(CALL, textwrap.dedent(program))
    assert [test.verdict for test in feedback.tests] == ["runtime_error", "timeout", "pass"]
    assert feedback.verdict == "runtime_error"
    assert "three" in feedback.message
    assert feedback.passed == 1


def test_a_program_that_keeps_timing_out_is_given_up():
    problem = Problem("p", "", fn_name="f", inputs=[[i] for i in range(50)], outputs=[0] * 50)
    with Pool(1, Limits(time_s=0.3, timeouts=2)) as pool:
        started = time.monotonic()
        feedback = pool.grade(problem, "def f(n):\n    while True: pass")
    assert [test.verdict for test in feedback.tests] == ["timeout"] * 50
    assert feedback.executed is not None
    assert feedback.executed.tests_run == 2
    assert time.monotonic() - started < 20


def test_a_problems_own_time_limit_caps_the_pools(pool: Pool):
    problem = Problem("p", "", fn_name="f", inputs=[[1]], outputs=[1], time_s=0.2)
    program = "import time\ndef f(n):\n    time.sleep(0.6)\n    return n"
    assert pool.grade(problem, program).verdict == "timeout"


def test_reference_time_limits():
    quick = Problem("q", "", fn_name="f", canonical_solution="def f(n): return n", inputs=[[1]], outputs=[1])
    slow = Problem(
        "s",
        "",
        fn_name="f",
        canonical_solution="import time\ndef f(n):\n    time.sleep(0.2)\n    return n",
        inputs=[[1]],
        outputs=[1],
    )
    wrong = Problem("w", "", fn_name="f", canonical_solution="def f(n): return 0", inputs=[[1]], outputs=[1])
    with Pool(2, Limits(time_s=5)) as pool:
        timed = pooling.reference_time_limits(pool, [quick, slow, wrong], factor=5.0, least_s=0.5)
    assert timed[0].time_s is not None
    assert timed[1].time_s is not None
    assert 0.5 <= timed[0].time_s < timed[1].time_s
    assert timed[1].time_s >= 1.0
    assert timed[2].time_s is None


LATE = {  # what is found only after the end of the process, while the next one stands ready
    "junk on the channel": (
        "import os\nos.write(3, b'junk junk junk junk')\nprint(2 * int(input()))",
        "runtime_error",
    ),
    "text on the channel": ("import os\nos.fdopen(3, 'w').write('x' * 50)", "runtime_error"),
    "too much output": ("print('x' * 20_000)", "output_limit"),
}


@pytest.mark.parametrize("name", LATE)
def test_what_is_found_after_the_end_costs_the_next_test_nothing(name: str):
    program, verdict = LATE[name]
    with Pool(1, Limits(time_s=20, output_bytes=1000)) as pool:
        for _ in range(4):
            assert pool.grade(STDIN, program).verdict == verdict
            assert pool.grade(STDIN, "print(2 * int(input()))").verdict == "pass"


@pytest.mark.parametrize("said", ["\\ud800" * 300, "a\\nb\\x1b[2J\\r", "\\u2028"])
def test_what_a_program_says_can_be_written_anywhere(said: str, pool: Pool):
    for problem in (STDIN, CALL):
        body = f"raise ValueError('{said}')"
        program = body if problem is STDIN else f"def {CALL.fn_name}(*a): {body}"
        message = pool.grade(problem, program).message
        assert message.startswith("ValueError")
        assert message.encode().decode().isprintable()


def test_early_stop_and_reward_schemes():
    program = "def f(n): return n * 2 if n > 3 else 0"
    with Pool(1, LIMITS, stop_at_first_failure=True) as pool:
        feedback = pool.grade(CALL, program)
    # a quick program may have answered more tests before it is stopped: those ran, and are told
    assert feedback.tests[0].verdict == "fail"
    assert feedback.executed is not None
    assert (feedback.executed.tests_run, feedback.executed.tests_total) == (len(feedback.tests), 3)
    with Pool(1, LIMITS, reward="pass_ratio") as pool:
        assert pool.grade(CALL, program).reward == pytest.approx(2 / 3)


def test_tests_on_standard_input_share_what_is_made_ready(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    started = []
    start = Worker.start_program
    monkeypatch.setattr(Worker, "start_program", lambda *a: (started.append(1), start(*a))[1])
    many = replace(STDIN, inputs=[f"{n}\n" for n in range(20)], outputs=[f"{2 * n}\n" for n in range(20)])
    assert pool.grade(many, "print(2 * int(input()))").verdict == "pass"
    assert len(started) == 1


def test_tests_on_standard_input_find_slow_modules_imported(pool: Pool):
    program = """
    import sys
    n, ready = int(input()), "numpy" in sys.modules and "fractions" in sys.modules
    import numpy as np
    def later():
        from fractions import Fraction
        return Fraction(2 * n, 1)
    np.seen = getattr(np, "seen", 0) + 1
    print(later() if ready and np.seen == 1 else [ready, np.seen])
    """
    assert pool.grade(STDIN, textwrap.dedent(program)).verdict == "pass"


def test_what_is_made_ready_takes_no_time_of_a_test():
    program = "import numpy, decimal, statistics, concurrent.futures\nprint(2 * int(input()))"
    with Pool(1, Limits(time_s=0.1)) as pool:
        assert pool.grade(STDIN, program).verdict == "pass"


def descendants(root: int) -> list[int]:
    """The processes below a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, fresh = [], [root]
    while fresh:
        fresh = [pid for pid, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_behind():
    before, shm = descendants(os.getpid()), sorted(os.listdir("/dev/shm"))
    descriptors, files = open_descriptors(), sorted(os.listdir("/tmp"))
    programs = ["def f(n): return n * 2", "def f(n): return 1 / 0", "import os\ndef f(n): os._exit(3)", "x ="]
    with Pool(2, LIMITS) as pool:
        pool.grade(CALL, programs[0])
        inside, held = len(descendants(os.getpid())), open_descriptors()
        pool.grade_many([(CALL, programs[i % 4]) for i in range(100)])
        assert len(descendants(os.getpid())) <= inside + 1  # the second worker's compiler
        assert open_descriptors() <= held + 2
    assert descendants(os.getpid()) == before
    assert open_descriptors() == descriptors
    assert sorted(os.listdir("/dev/shm")) == shm
    assert [f for f in sorted(os.listdir("/tmp")) if f not in files and "sandbox" in f] == []


def test_results_keep_their_order_when_servers_are_killed():
    pairs = [
        (CALL, f"def f(n):\n    assert {i} >= 0\n    return n * {2 if i % 3 else 1}") for i in range(120)
    ]
    with Pool(2, LIMITS) as pool:
        futures = [pool.submit(*pair) for pair in pairs]
        for _ in range(4):
            time.sleep(0.05)
            for slot in pool._slots:
                process = slot["python"].worker._process  # pyright: ignore[reportAttributeAccessIssue]
                if process is not None and process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
        verdicts = [future.result().verdict for future in futures]
    assert verdicts == ["pass" if i % 3 else "fail" for i in range(120)]


def test_a_server_that_keeps_dying_is_an_error_not_a_verdict(monkeypatch: pytest.MonkeyPatch):
    def die(*_):
        raise WorkerDiedError

    with Pool(1, LIMITS) as pool:
        monkeypatch.setattr("rl.feedback.pool.grade", die)
        with pytest.raises(pooling.SandboxError, match="failed 6 times"):
            pool.grade(CALL, "def f(n): return n")


def test_programs_do_not_outlive_the_grader(tmp_path: Path):
    script = f"""
import sys, threading, time
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from rl.feedback.pool import Limits, Pool
from rl.feedback.problems import Problem
pool = Pool(1, Limits(time_s=60))
pool.submit(Problem("p", "", inputs=[""], outputs=[""]), "while True: pass")
time.sleep(0.5)
print(pool._slots[0]["python"].worker._process.pid, flush=True)
time.sleep(60)
"""
    grader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with grader:
        assert grader.stdout is not None
        server = int(grader.stdout.readline())
        assert descendants(server)
        inner = [server, *descendants(server)]
        grader.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in inner) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in inner if Path(f"/proc/{pid}").exists()] == []


def test_a_missing_required_layer_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rl.sandbox.seccomp.supported", lambda: False)
    with pytest.raises(pooling.SandboxError, match=r"seccomp.*no table of system calls"):
        Pool(1)


def test_without_namespaces_landlock_and_seccomp_hold(monkeypatch: pytest.MonkeyPatch, outside: Outside):
    # what an unprivileged process has in a container that forbids user namespaces
    monkeypatch.setattr("rl.sandbox.worker._BOOT", NO_NAMESPACES)
    with Pool(1, LIMITS) as pool:
        layers = pool.layers
        assert not any(layers[name] for name in ("pid", "net", "ipc", "mounts"))
        assert layers["landlock"]
        for name in (
            "TCP",
            "UDP",
            "unix socket",
            "reads a secret",
            "writes outside",
            "signals everyone",
            "daemon",
        ):
            problem, expected, program = ATTACKS[name]
            feedback = pool.grade(problem, outside.fill(textwrap.dedent(program)))
            assert feedback.verdict in expected.split("|"), feedback
        assert pool.grade(CALL, "def f(n): return n * 2").verdict == "pass"
    outside.assert_untouched()


@pytest.mark.parametrize("boot", ["own", "no namespaces"])
def test_what_is_installed_beside_a_package_is_absent(monkeypatch: pytest.MonkeyPatch, boot: str):
    """Packages try others and do without: numpy imports charset_normalizer, where requests has brought it."""
    if boot != "own":
        monkeypatch.setattr("rl.sandbox.worker._BOOT", NO_NAMESPACES)
    with Pool(1, LIMITS, packages=("numpy",)) as pool:
        tries = "try:\n    import pytest\nexcept ModuleNotFoundError:\n    import numpy\n"
        known = "import importlib.metadata as m\nassert m.version('numpy') == numpy.__version__\n"
        feedback = pool.grade(CALL, f"{tries}{known}def f(n): return int(numpy.multiply(n, 2))")
        assert feedback.verdict == "pass", feedback


def test_packages_are_found_over_links(monkeypatch: pytest.MonkeyPatch, pool: Pool, tmp_path: Path):
    """A home folder, or a virtual environment, is often a link; no layer is lost by that."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to(Path(sysconfig.get_path("purelib")).parent)
    real = sysconfig.get_path
    over = {key: f"{tmp_path}/a/{Path(real(key)).name}" for key in ("purelib", "platlib")}
    monkeypatch.setattr(
        "rl.sandbox.readable_files.sysconfig.get_path", lambda key: over.get(key) or real(key)
    )
    with Pool(1, LIMITS, packages=("numpy",)) as linked:
        assert linked.layers == pool.layers
        program = f"import numpy\nassert numpy.__file__.startswith({str(tmp_path)!r})\ndef f(n): return 2 * n"
        feedback = linked.grade(CALL, program)
        assert feedback.verdict == "pass", feedback


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_bubblewrap_stands_in_for_landlock_and_private_roots(
    monkeypatch: pytest.MonkeyPatch, outside: Outside
):
    monkeypatch.setattr("rl.sandbox.worker._BOOT", NO_FILE_WALLS)
    with Pool(1, LIMITS) as pool:
        assert pool.layers["bwrap"]
        assert not pool.layers["landlock"]
        for name in (
            "TCP",
            "UDP",
            "unix socket",
            "reads a secret",
            "writes outside",
            "signals everyone",
            "daemon",
        ):
            problem, expected, program = ATTACKS[name]
            feedback = pool.grade(problem, outside.fill(textwrap.dedent(program)))
            assert feedback.verdict in expected.split("|"), feedback
        assert pool.grade(CALL, "def f(n): return n * 2").verdict == "pass"
    outside.assert_untouched()


def test_without_any_wall_around_files_programs_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rl.sandbox.worker._BOOT", NO_FILE_WALLS)
    monkeypatch.setattr("rl.sandbox.worker.shutil.which", lambda name: None)
    with pytest.raises(pooling.SandboxError, match=r"layers files, which this machine lacks .*landlock"):
        Pool(1)


BOOT_WITHOUT = "import sys; sys.path.insert(0, sys.argv[1]); from rl.sandbox import isolation; {}; {}"
START = "from rl.sandbox.forkserver import main; main(int(sys.argv[2]))"
REFUSE_NAMESPACES = "isolation._available_namespaces = lambda *a, **k: (0, False, {'pid': 'refused'})"
NO_NAMESPACES = BOOT_WITHOUT.format(REFUSE_NAMESPACES, START)
NO_FILE_WALLS = BOOT_WITHOUT.format(REFUSE_NAMESPACES, f"isolation.linux.landlock_abi = lambda: 0; {START}")


def test_check_lists_the_layers(capsys: pytest.CaptureFixture[str]):
    assert check.main(["--check"]) == 0
    printed = capsys.readouterr().out
    for name in ("seccomp", "landlock", "pid", "untrusted programs can be run"):
        assert name in printed


def test_bad_arguments_are_named(pool: Pool):
    with pytest.raises(ValueError, match="at least 1 worker; got 0"):
        Pool(0)
    with pytest.raises(ValueError, match="limit time_s must be positive; got 0"):
        Limits(time_s=0)
    with pytest.raises(ValueError, match="has no tests"):
        pool.grade(Problem("empty", ""), "pass")
    with pytest.raises(ValueError, match="is in 'cobol'"):
        pool.grade(Problem("p", "", inputs=[""], outputs=[""], language="cobol"), "")
