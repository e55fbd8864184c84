"""Kills training runs at random moments; checks that nothing committed is lost and the outcome is the same.

    python benchmarks/faults.py [--kills 200] [--minutes M] [--kinds sft,ppo] [--work FILE] [--seed 0]
        [--folder FOLDER]

Each kind is run once without faults. Then runs of the same config are ended early, again and again, by
SIGKILL, SIGTERM, SIGINT (to the whole process group, like Ctrl-C) or a full disk, and restarted until they
finish; then the next run begins. After every fault, the newest checkpoint must be at least as new as before
and complete, every step up to it must be in metrics.jsonl, and no process may be left; the run's output must
contain no stack dump and, for a full disk, one line of error. When a run finishes, its metrics (except
times), curriculum and exported weights must equal those of the run without faults, bit by bit. One JSON line
per kind; exit status 1 if anything differs.

The disk is a small tmpfs, which root can mount; for other users it is a limit on file size, where a write
fails with EFBIG instead of ENOSPC. Run it on a CPU: other devices may not repeat a run bit by bit.
"""

import argparse
import atexit
import contextlib
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import jax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import training.__main__  # noqa: E402
from rl.sandbox.linux import PR_SET_CHILD_SUBREAPER, prctl  # noqa: E402
from training.runtime import checksums  # noqa: E402
from training.runtime.metrics import read_lines  # noqa: E402

QUIET = ["watch.tensorboard=false", "watch.plots=false", "watch.progress=false", "distributed.cpu_devices=1"]
FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "disk full")
# and how often each is tried
MOMENTS = {"start": 2, "steps": 3, "saving": 3, "end": 1}
TIMES = ("seconds", "tokens_per_s")
DUMP = re.compile(r"Traceback|Exception ignored|Fatal Python error|\*\*\* (SIG|Check)|terminate called")
DISK_BYTES = 64 << 20
# settings of JAX; None is a folder for compiled programs
PROGRAMS = {
    "jax_platforms": "cpu",
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
LEFT_BYTES = (0, 4096, 65536, 400_000)
# a signal that is a request takes effect after the current step or write
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Work:
    """A command to kill.

    Attributes:
      before: commands whose output it needs.
      arguments: all arguments but its output.
      steps: number of steps in the whole run.
      faults: pairs of fault and moment, instead of random ones.
    """

    arguments: list[str]
    steps: int
    before: Sequence[list[str]] = ()
    faults: Sequence[tuple[str, str]] = ()


def work(kind: str, folder: Path) -> Work:
    """A run of a kind that takes a second or two after its start, with a checkpoint after every step."""
    base = f"{folder}/base-{kind}"
    if kind == "sft":
        start = ["pretrain", "--config", "pretrain/tiny", "steps=5", "optimizer.warmup_steps=0"]
        command = ["sft", "--config", "sft/tiny", "steps=8", "valid_every=0", "checkpoint.every=1"]
        command += ["data.batch_size=2", "data.length=64", "watch.routing_every=3"]
        steps = 8
    else:
        start = ["pretrain", "--config", "pretrain/code_small", "steps=5", "optimizer.warmup_steps=0"]
        start += ["model.hidden_size=32", "model.intermediate_size=64", "model.num_layers=2"]
        start += ["model.head_dim=8", "valid_every=0"]
        command = ["ppo", "--config", "ppo/quickstart", "rounds=5", "rollout.prompts=2", "rollout.samples=2"]
        command += ["checkpoint.every=1", "evaluation.every=0", "problems.embedded.count=16"]
        command += ["rollout.response_tokens=48", "sandbox.workers=1"]
        steps = 5
    return Work([*command, f"base={base}/export", *QUIET], steps, [[*start, f"output={base}", *QUIET]])


def environment(folder: Path) -> dict[str, str]:
    """An environment in which programs are compiled once for all runs of a folder."""
    settings = {k.upper(): str(folder / "programs" if v is None else v) for k, v in PROGRAMS.items()}
    return os.environ | settings


def import_all() -> None:
    """Imports what the commands import as they start, so that a fork of this process has it."""
    for name in (
        "training.supervised.sft",
        "training.ppo.train",
        "transformers.models.auto.tokenization_auto",
    ):
        import_module(name)
    warnings.filterwarnings(
        "ignore", "os.fork", RuntimeWarning
    )  # JAX has no threads here, as nothing was computed


class Process(Protocol):
    """The interface of a running command, as in subprocess.Popen."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def kill(self) -> None: ...


def execute(arguments: list[str], folder: Path, said: BinaryIO) -> Process:
    """Runs `python -m training` with these arguments, in a process group of its own."""
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(folder), stdout=said, stderr=said, start_new_session=True
    )


class Fork:
    """The same without the imports, as a copy of this process: it starts in half the time."""

    def __init__(self, arguments: list[str], folder: Path, said: BinaryIO):
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in (1, 2):
                os.dup2(said.fileno(), number)
            os._exit(_run_here(arguments, folder))

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.002)
        return cast(int, self._code)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _run_here(arguments: list[str], folder: Path) -> int:
    """Runs `python -m training` in a copy of this process instead of a new one; returns the exit status."""
    for name, value in PROGRAMS.items():
        jax.config.update(name, value if value is not None else str(folder / "programs"))
    os.chdir(ROOT)
    sys.argv = ["training", *arguments]
    code = 1
    try:
        training.__main__.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does when it exits
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


Start = Callable[[list[str], Path, BinaryIO], Process]


@contextlib.contextmanager
def started(start: Start, arguments: list[str], folder: Path) -> Iterator[Process]:
    """A command while it runs; it is killed at the end. Its output goes to folder/said.txt."""
    with (folder / "said.txt").open("wb") as said:
        process = start(arguments, folder, said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(arguments: list[str], folder: Path, start: Start = execute) -> float:
    """Runs a command to its end; returns its seconds."""
    began = time.perf_counter()
    with started(start, arguments, folder) as process:
        code = process.wait()
    if code:
        raise RuntimeError(f"{arguments} failed: {(folder / 'said.txt').read_text()}")
    return time.perf_counter() - began


class Disk:
    """The runs' file system, which can be filled up: a tmpfs, or a limit on file size."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
        self.kind = "tmpfs" if self.mounted else "limit on file size"

    def fill(self, process: Process, left: int) -> None:
        """Leaves a running process `left` bytes."""
        if not self.mounted:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (left, resource.RLIM_INFINITY))
            return
        with (self.folder / "ballast").open("wb") as file:
            free = left + 1
            while free > left:  # the process may have written something in the meantime
                free = shutil.disk_usage(self.folder).free
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(free - left, 1))

    def free(self) -> None:
        """Undoes `fill`; a process's limit ends with the process."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts it; its contents are lost."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@dataclass
class Found:
    """The effects of the faults.

    Attributes:
      kills: runs that ended early, by fault and then by moment.
      wrong: what should not have happened, one line each.
      runs: number of finished runs, after however many faults.
    """

    kills: dict[str, Counter[str]] = field(default_factory=lambda: {fault: Counter() for fault in FAULTS})
    wrong: list[str] = field(default_factory=list)
    runs: int = 0

    def count(self) -> int:
        """The total number of kills."""
        return sum(kinds.total() for kinds in self.kills.values())


def newest(run: Path) -> int:
    """The step of the newest committed checkpoint; 0 if there is none."""
    return max(checksums.steps_of(run), default=0)


def outcome(run: Path) -> str:
    """A digest of what a finished run reports and exports, except times."""
    digest = hashlib.sha256()
    for name in ("metrics.jsonl", "routing.jsonl", "samples.jsonl"):
        for record in read_lines(run / name):
            timeless = {k: v for k, v in record.items() if k not in TIMES and not k.endswith("_s")}
            digest.update(json.dumps(timeless, sort_keys=True).encode())
    for path in sorted((run / "export").glob("*.safetensors")):
        digest.update(path.read_bytes())
    digest.update((run / "checkpoints" / str(newest(run)) / "data" / "metadata").read_bytes())
    return digest.hexdigest()


def moment(run: Path, steps: int, said: Path) -> str:
    """What a run is doing, judged by its folder and its output."""
    if str(run) not in said.read_text(errors="replace"):  # its first line
        return "start"
    if newest(run) == steps:
        return "end"
    return "saving" if any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*")) else "steps"


def wait_for(process: Process, there: Callable[[], bool], seconds: float) -> None:
    """Waits until something is there, the process has ended, or the time is up."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not there():
        time.sleep(0.005)


def wrong_in(run: Path, before: int) -> list[str]:
    """What is wrong with the folder of a run that was ended.

    Args:
      before: step of the newest checkpoint when the run was started.
    """
    step, wrong = newest(run), []
    if step < before:
        wrong.append(f"checkpoint {before} was there, {step} is the newest now")
    if (run / "damaged").exists():
        wrong.append("a checkpoint was set aside as damaged")
    if not step:
        return wrong
    if damage := checksums.damage(run, step):
        wrong.append(f"checkpoint {step}: {damage}")
    recorded = {record["step"] for record in read_lines(run / "metrics.jsonl")}
    if missing := {*range(1, step + 1)} - recorded:
        wrong.append(f"checkpoint {step}, but metrics.jsonl lacks {sorted(missing)}")
    json.loads((run / "run.json").read_text())
    return wrong


def wrong_said(fault: str, code: int, said: str) -> list[str]:
    """What is wrong with how a process ended."""
    wrong = ["a stack dump"] if DUMP.search(said) else []
    if fault == "disk full" and len(re.findall("^error: the disk of .* is full", said, re.MULTILINE)) != 1:
        wrong.append("no line that says so")
    allowed = {"SIGKILL": {-9}, "SIGTERM": {-15, 0}, "SIGINT": {-2, 0, 130}, "disk full": {2}}
    return wrong if code in allowed[fault] else [*wrong, f"exit status {code}"]


def orphans() -> list[str]:
    """Processes that outlived the run that started them: they are ours now, as we are their subreaper."""
    ours = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80] for pid in ours]
    return [name for name in names if name]  # a process that has ended has no command line


@dataclass
class Faults:
    """Ends runs of one kind early.

    Attributes:
      run: folder of the run, on the disk.
      todo: its command.
      folder: folder for what is not on the disk.
      expected: outcome of the run without faults.
      seconds: how long the command takes.
    """

    run: Path
    todo: Work
    disk: Disk
    folder: Path
    expected: str
    seconds: float
    rng: random.Random
    found: Found = field(default_factory=Found)

    def strike(self, fault: str, wanted: str, start: Start = execute) -> str | None:
        """Starts the run and ends it with a fault; returns the moment, or None if it finished after all."""
        before = newest(self.run)
        with started(start, self._command(), self.folder) as process:
            self._wait(process, wanted)
            at = self._moment()
            if fault == "disk full":
                self.disk.fill(process, self.rng.choice(LEFT_BYTES))
            elif process.poll() is None:
                os.killpg(process.pid, getattr(signal, fault))
            wait_for(process, lambda: False, PATIENCE_S)
            code = process.poll()
        self.disk.free()
        said = (self.folder / "said.txt").read_text(errors="replace")
        if code == 0 and "finished at" in said:
            self._compare()
            return None
        wrong = [f"still running after {PATIENCE_S} s"] if code is None else wrong_said(fault, code, said)
        deadline = time.monotonic() + 5.0
        while orphans() and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong += wrong_in(self.run, before) + [f"left behind: {name}" for name in orphans()]
        self.found.kills[fault][at] += 1
        self.found.wrong += [f"{fault} at {at}: {line}" for line in wrong]
        print(f"{self.found.count()} {fault} at {at}, step {newest(self.run)}", file=sys.stderr, flush=True)
        if wrong:
            print("\n".join([*wrong, said]), file=sys.stderr, flush=True)
        return at

    def finish(self, start: Start = execute) -> None:
        """Lets the run finish, and compares it with the one without faults."""
        finish(self._command(), self.folder, start)
        self._compare()

    def _command(self) -> list[str]:
        return [*self.todo.arguments, f"output={self.run}"]

    def _compare(self) -> None:
        self.found.runs += 1
        if outcome(self.run) != self.expected:
            self.found.wrong.append("the end differs from that of the run without faults")
        shutil.rmtree(self.run)

    def _moment(self) -> str:
        return moment(self.run, self.todo.steps, self.folder / "said.txt")

    def _wait(self, process: Process, wanted: str) -> None:
        """Waits for a moment of the wanted kind, or, if none comes, for the end of all steps."""
        if wanted == "start":
            wait_for(process, lambda: self._moment() != "start", self.rng.uniform(0, self.seconds))
            return
        wait_for(process, lambda: self._moment() in (wanted, "end"), PATIENCE_S)
        wait_for(process, lambda: False, self.rng.uniform(0, 0.3))


@contextlib.contextmanager
def prepared(
    kind: str, todo: Work, folder: Path, rng: random.Random, start: Start = execute
) -> Iterator[Faults]:
    """Prepares what a command needs, its run without faults, and a disk for the others."""
    whole = folder / f"{kind}-whole"
    for arguments in todo.before:
        finish(arguments, folder, start)
    seconds = finish([*todo.arguments, f"output={whole}"], folder, start)
    disk = Disk(folder / "disk")
    try:
        yield Faults(disk.folder / kind, todo, disk, folder, outcome(whole), seconds, rng)
    finally:
        disk.close()


def measure(
    kind: str, todo: Work, kills: int, seconds: float, folder: Path, rng: random.Random
) -> dict[str, Any]:
    """Kills runs of a kind until the number of kills or the time is reached, and finishes the last run."""
    deadline, at = time.monotonic() + seconds, None
    with prepared(kind, todo, folder, rng) as faults:
        while faults.found.count() < kills and time.monotonic() < deadline:
            if at == "end":  # once per run; each further one would need another start
                faults.finish(Fork)
                at = None
                continue
            (wanted,) = rng.choices([*MOMENTS], [*MOMENTS.values()])
            start = execute if wanted == "start" else Fork
            at = faults.strike(rng.choice(FAULTS), wanted, start)
        if faults.run.exists():
            faults.finish()
        return report(kind, faults)


def measure_listed(kind: str, todo: Work, folder: Path) -> dict[str, Any]:
    """The listed faults, one after another, and the rest of the run."""
    with prepared(kind, todo, folder, random.Random(0), Fork) as faults:
        for fault, wanted in todo.faults:
            for _ in range(5):  # a fault that comes too late, or leaves enough disk space, is repeated
                if faults.strike(fault, wanted, Fork) is not None:
                    break
        if faults.run.exists():
            faults.finish(Fork)
        return report(kind, faults)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end, by this process alone.

    `tempfile.TemporaryDirectory` also removes its folder when the interpreter exits, and so at the end of
    each `Fork`, which exits like an interpreter.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def report(kind: str, faults: Faults) -> dict[str, Any]:
    """The findings, for a line of JSON."""
    found = faults.found
    return {
        "kind": kind,
        "kills": found.count(),
        "by fault": {fault: dict(sorted(at.items())) for fault, at in found.kills.items()},
        "disk": faults.disk.kind,
        "runs": found.runs,
        "wrong": found.wrong,
    }


def main() -> int:
    """Measures every kind and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="of all kinds together")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then it ends with fewer kills")
    parser.add_argument("--kinds", default="sft,ppo", help="which of sft, ppo")
    parser.add_argument(
        "--work", type=Path, help="JSON file: other commands by kind, with the fields of Work"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the faults")
    parser.add_argument("--folder", type=Path, help="where to run; a temporary one if not given")
    options = parser.parse_args()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    import_all()
    wrong = 0
    with temporary_folder() as temporary:
        folder = (options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if options.work:
            todo = {kind: Work(**fields) for kind, fields in json.loads(options.work.read_text()).items()}
        else:
            todo = {kind: work(kind, folder) for kind in options.kinds.split(",")}
        kills, seconds = -(-options.kills // len(todo)), options.minutes * 60 / len(todo)
        for kind, one in todo.items():
            if one.faults:
                found = measure_listed(kind, one, folder)
            else:
                found = measure(kind, one, kills, seconds, folder, random.Random(f"{kind} {options.seed}"))
            print(json.dumps(found), flush=True)
            wrong += len(found["wrong"])
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
