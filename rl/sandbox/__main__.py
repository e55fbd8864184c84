"""python -m rl.sandbox --check: lists the layers of isolation that this machine has.

python -m rl.sandbox serve: grades programs for other machines.
"""

import argparse
import os
import sys

from rl.feedback.language import Limits
from rl.sandbox.isolation import REQUIRED
from rl.sandbox.worker import SandboxError, Worker

_SERVE = """\
Grades programs for other machines over HTTP, in this machine's sandbox.

On the machine that grades:
    JAXMOE_SANDBOX_TOKEN=... python -m rl.sandbox serve --host 0.0.0.0 --workers 16
On the machine that trains:
    JAXMOE_SANDBOX_TOKEN=... python -m training ppo --config ppo/quickstart sandbox.hosts='[http://grader:8010]'

Requests carry the token, unencrypted unless a proxy in front speaks https: use a private network."""


def _check() -> int:
    """Prints the layers of this machine; 0 if untrusted programs can be run."""
    try:
        worker = Worker()
    except SandboxError as error:
        print(error)
        return 1
    with worker:
        for name, present in worker.layers.items():
            need = "required" if name in REQUIRED else "optional"
            why = f": {worker.reasons[name]}" if name in worker.reasons else ""
            print(f"{'yes' if present else 'no ':3}  {name:13} {need}{why}")
    print("untrusted programs can be run")
    return 0


def _serve(options: argparse.Namespace) -> int:
    """Serves until interrupted; 0 unless it cannot start."""
    try:
        from rl.hosts.serve import serve
    except ImportError as error:
        print(f"serving needs {error.name}: pip install 'jaxmoe[serve]'", file=sys.stderr)
        return 2
    packages = tuple(name for name in options.packages.split(",") if name)
    limits = Limits(
        time_s=options.time_s,
        memory_bytes=options.memory_mb << 20,
        output_bytes=64 << 20,
        timeouts=1000,
        compile_s=60.0,
    )
    try:
        serve(options.host, options.port, options.workers, limits, packages)
    except (SandboxError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def main(arguments: list[str]) -> int:
    """Reads the command line and runs what it asks for; 0 if that worked."""
    parser = argparse.ArgumentParser(prog="python -m rl.sandbox", description=__doc__)
    parser.add_argument("--check", action="store_true", help="list the isolation layers")
    commands = parser.add_subparsers(dest="command", metavar="serve")
    serve = commands.add_parser(
        "serve",
        help="grade programs for other machines",
        description=_SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8010, help="(default: %(default)s)")
    serve.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="programs at once (default: one per core)"
    )
    serve.add_argument(
        "--time-s",
        type=float,
        default=30.0,
        help="longest time per test that a request may ask for (default: %(default)s)",
    )
    serve.add_argument(
        "--memory-mb",
        type=int,
        default=4096,
        help="most memory per program that a request may ask for (default: %(default)s)",
    )
    serve.add_argument(
        "--packages",
        default="numpy",
        help="packages that programs may import, separated by commas (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.command == "serve":
        return _serve(options)
    if not options.check:
        parser.error("give --check or serve")
    return _check()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
