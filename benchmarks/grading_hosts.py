"""Programs graded per second on one machine: by a pool, a server, and Ray clusters of 1, 2 and 4 nodes.

    python -m benchmarks.grading_hosts

Target: the round trip to a host costs less than 10 ms per program. The nodes of a local cluster share this
machine's cores, so this shows only the cost of the round trip, not the gain from more machines.
"""

import os
import secrets
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from rl.feedback.grader import Grader
from rl.feedback.language import Limits, Settings
from rl.feedback.problems import Problem
from rl.hosts.http_servers import TOKEN_VARIABLE
from rl.hosts.open_grader import open_grader

ROUNDS, PROGRAMS, TARGET_MS = 5, 64, 10.0
SETTINGS = Settings(Limits(time_s=10.0))
PROBLEM = Problem("double", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"])
PROGRAM = "print(2 * int(input()))"


@contextmanager
def server(workers: int) -> Iterator[str]:
    """The address of a server on a free port."""
    os.environ[TOKEN_VARIABLE] = secrets.token_urlsafe(8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "rl.sandbox", "serve", f"--port={port}", f"--workers={workers}"]
    process = subprocess.Popen([*command, "--packages="], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=1.0)
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def ray_cluster(nodes: int) -> Iterator[None]:
    """A local cluster of nodes with one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(grader: Grader) -> float:
    """Programs per second: the median of the rounds."""
    grader.grade_many([(PROBLEM, PROGRAM)] * 8)
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        feedbacks = grader.grade_many([(PROBLEM, PROGRAM)] * PROGRAMS)
        rates.append(PROGRAMS / (time.perf_counter() - began))
        assert all(feedback.verdict == "pass" for feedback in feedbacks)
    return statistics.median(rates)


def main() -> None:
    """Prints the rates, and the milliseconds that a round trip adds for each program of a worker."""
    rates: dict[str, tuple[int, float]] = {}
    with open_grader([], 1, SETTINGS, packages=()) as grader:
        rates["pool, 1 worker"] = 1, measure(grader)
    with server(1) as address, open_grader([address], 1, SETTINGS, packages=()) as grader:
        rates["server, 1 worker"] = 1, measure(grader)
    if find_spec("ray") is None:
        print("Ray is not installed: pip install 'jaxmoe[ray]'")
    else:
        for nodes in (1, 2, 4):
            with ray_cluster(nodes), open_grader(["ray"], 1, SETTINGS, packages=()) as grader:
                rates[f"Ray, {nodes} nodes of 1 worker"] = nodes, measure(grader)
    base = rates["pool, 1 worker"][1]
    print(f"{'':26} programs/s   added ms a program (target below {TARGET_MS:.0f} with 1 worker)")
    for name, (workers, rate) in rates.items():
        added = f"{1000 * (workers / rate - 1 / base):.1f}" if workers == 1 else "—"
        print(f"{name:26} {rate:10.1f}   {added}")


if __name__ == "__main__":
    main()
