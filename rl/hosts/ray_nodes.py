"""The nodes of a Ray cluster as hosts that grade programs: an actor on each, with a pool of isolated workers.

jaxmoe must be installed on the nodes; programs run in the sandbox there as they do here.
"""

import contextlib
import importlib
import logging
from types import ModuleType
from typing import NamedTuple

from rl.feedback.pool import Pool
from rl.hosts.remote import HostLostError, reply_of
from rl.hosts.wire import Refusal, read_request, write_reply
from rl.sandbox.worker import SandboxError

_STARTED_S = 120.0  # an actor imports this package and starts its workers


class NodePool:
    """The pool of one node, as an actor."""

    def __init__(self, workers: int, packages: tuple[str, ...]):
        self._pool = Pool(workers, packages=packages)

    def grade(self, form: bytes) -> bytes:
        """A reply to a request, both of `rl.hosts.wire`."""
        try:
            request = read_request(form)
        except ValueError as error:
            return write_reply(Refusal("request", str(error)))
        graded = self._pool.submit(
            request.problem, request.program, settings=request.settings, reward=request.reward
        )
        return write_reply(reply_of(graded))


class _Node(NamedTuple):
    """A node as Ray describes it."""

    identity: str
    address: str
    processors: int


class RayNode:
    """A node of the cluster (`rl.hosts.remote.Host`)."""

    def __init__(self, ray: ModuleType, node: _Node, workers: int, packages: tuple[str, ...]):
        self.name = f"Ray node {node.address} ({node.identity[:8]})"
        self._ray, self._node, self._packages = ray, node.identity, packages
        self._workers = min(workers, node.processors)
        self._actor = None

    def open(self) -> int:
        """Starts the actor; returns how many programs it takes at once. Raises: HostLostError."""
        self.close()
        scheduling = importlib.import_module("ray.util.scheduling_strategies")
        here = scheduling.NodeAffinitySchedulingStrategy(self._node, soft=False)
        actor = self._ray.remote(NodePool).options(
            num_cpus=self._workers, max_concurrency=self._workers + 1, scheduling_strategy=here
        )
        self._actor = actor.remote(self._workers, self._packages)
        self._asked(self._actor.grade.remote(b""), _STARTED_S)
        return self._workers

    def grade(self, request: bytes, time_s: float) -> bytes:
        """See `rl.hosts.remote.Host`.

        Args:
          request: of `rl.hosts.wire`.
          time_s: time after which the node counts as lost.
        Returns: a reply of `rl.hosts.wire`.
        Raises: HostLostError.
        """
        actor = self._actor
        if actor is None:
            raise HostLostError(f"{self.name} is lost")
        return self._asked(actor.grade.remote(request), time_s)

    def _asked(self, reference: object, time_s: float) -> bytes:
        try:
            return self._ray.get(reference, timeout=time_s)
        except self._ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise HostLostError(f"{self.name} is lost ({why[:200]})") from error

    def close(self) -> None:
        """Ends the actor and its workers."""
        if self._actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.kill(self._actor)
        self._actor = None


def ray_nodes(workers: int, packages: tuple[str, ...]) -> list[RayNode]:
    """The nodes that are alive and have processors.

    Args:
      workers: programs at once on each, at most its processors.
      packages: that programs may import.
    Returns: hosts, not yet opened.
    Raises: SandboxError if Ray is not installed or no cluster answers.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise SandboxError("sandbox.hosts=ray needs Ray: pip install 'jaxmoe[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", logging_level=logging.WARNING, log_to_driver=False)
        except ConnectionError as error:
            raise SandboxError(
                "sandbox.hosts=ray finds no Ray cluster: start one (ray start --head) or set RAY_ADDRESS"
            ) from error
    nodes = [
        _Node(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return [RayNode(ray, node, workers, packages) for node in nodes if node.processors > 0]
