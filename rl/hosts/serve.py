"""Starts the server behind `python -m rl.sandbox serve`."""

import os
import secrets

import uvicorn

from rl.feedback.language import Limits
from rl.feedback.pool import Pool
from rl.hosts.grading_server import ServerRules, grading_app
from rl.hosts.http_servers import TOKEN_VARIABLE


def serve(host: str, port: int, workers: int, most: Limits, packages: tuple[str, ...]) -> None:
    """Grades programs for other machines until interrupted.

    The token is the value of the variable JAXMOE_SANDBOX_TOKEN, or else a new one that is printed.

    Args:
      host, port: where it listens.
      workers: programs at once.
      most: the largest limits that a request may ask for.
      packages: that programs may import.
    Raises: SandboxError if programs cannot be isolated; ValueError for impossible arguments.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must lie in 0..65535; got {port}")
    given = os.environ.get(TOKEN_VARIABLE)
    token = given or secrets.token_urlsafe(24)
    with Pool(workers, packages=packages) as pool:
        app = grading_app(pool, workers, ServerRules(token, most, packages))
        print(f"grading at http://{host}:{port}, {workers} programs at once", flush=True)
        if not given:
            print(f"clients need {TOKEN_VARIABLE}={token}", flush=True)
        uvicorn.run(app, host=host, port=port, log_level="warning")
