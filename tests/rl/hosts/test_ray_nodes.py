"""Grading on a local Ray cluster of several nodes, one of which is killed."""

import threading
import time

import pytest

from rl.feedback.language import Limits, Settings
from rl.feedback.problems import Problem
from rl.hosts.open_grader import open_grader
from rl.sandbox.worker import SandboxError

DOUBLE = Problem("double", "", inputs=["3\n", "21\n"], outputs=["6\n", "42\n"])
RIGHT, WRONG = "print(2 * int(input()))", "print(6)"
SETTINGS = Settings(Limits(time_s=5.0))


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SandboxError, match=r"needs Ray: pip install 'jaxmoe\[ray\]'"):
        open_grader(["ray"], 1, SETTINGS)


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow  # a cluster starts in half a minute
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_killed_node_costs_no_verdict_and_doubles_none(cluster, caplog):
    whole, nodes = cluster
    expected = ["pass", "fail"] * 150
    with open_grader(["ray"], 2, SETTINGS, packages=()) as grader:
        kill = threading.Timer(1.0, lambda: whole.remove_node(nodes[0], allow_graceful=False))
        kill.start()
        began = time.monotonic()
        futures = [grader.submit(DOUBLE, RIGHT if one == "pass" else WRONG) for one in expected]
        found = [future.result().verdict for future in futures]
        assert time.monotonic() - began > 1.0, "all were graded before the node was killed"
        kill.join()
    assert found == expected
    warnings = [r.getMessage() for r in caplog.records if "its programs go to the others" in r.getMessage()]
    assert len(warnings) == 1
