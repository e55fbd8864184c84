"""Where programs are graded: on this machine, on the nodes of a Ray cluster, or by servers."""

from collections.abc import Sequence

from rl.feedback.grader import Grader
from rl.feedback.language import Settings
from rl.feedback.pool import Pool
from rl.feedback.rewards import Scheme
from rl.hosts.http_servers import HttpServer
from rl.hosts.ray_nodes import ray_nodes
from rl.hosts.remote import RemotePool


def open_grader(
    hosts: Sequence[str],
    workers: int,
    settings: Settings,
    *,
    reward: Scheme = "four_way",
    packages: tuple[str, ...] = ("numpy",),
) -> Grader:
    """Starts a grader.

    Args:
      hosts: empty for this machine; "ray" for the nodes of the Ray cluster; otherwise addresses of servers
        (`python -m rl.sandbox serve`), as http://HOST:PORT.
      workers: programs at once, here or on each node; servers report how many they take.
      settings: how tests are run.
      reward: four_way, pass_ratio or binary.
      packages: that programs may import besides the standard library.
    Returns: a pool on this machine, or one of pools on others.
    Raises: SandboxError if no sandbox can be used.
    """
    if not hosts:
        return Pool(
            workers,
            settings.limits,
            reward=reward,
            trace=settings.trace,
            stop_at_first_failure=settings.stop_at_first_failure,
            packages=packages,
            compare=settings.compare,
            tolerance=settings.tolerance,
        )
    if tuple(hosts) == ("ray",):
        return RemotePool(ray_nodes(workers, packages), settings, reward)
    return RemotePool([HttpServer(address, packages) for address in hosts], settings, reward)
