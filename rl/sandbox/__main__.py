"""python -m rl.sandbox --check: which layers of isolation this machine has."""

import argparse
import sys

from rl.sandbox.isolation import REQUIRED
from rl.sandbox.worker import SandboxError, Worker


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


def main(arguments: list[str]) -> int:
    """Reads the command line and prints the layers; 0 if untrusted programs can be run, else 1."""
    parser = argparse.ArgumentParser(prog="python -m rl.sandbox", description=__doc__)
    parser.add_argument("--check", action="store_true", required=True, help="list the isolation layers")
    parser.parse_args(arguments)
    return _check()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
