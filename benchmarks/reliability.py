"""All reliability statistics for 10,000 x 120 answers with 1,000 bootstrap samples, against pingouin's alpha.

    python benchmarks/reliability.py [--peer PYTHON] [--threads 0] [--repeats 3]

Ours, once: every row of evals.psychometrics.reliability.reliability_table (α by Feldt, by bootstrap and
standardized, average r, λ1-λ6, β, ω total and hierarchical), of which all but two have percentile intervals
over 1,000 bootstrap samples of the persons; item statistics; all six ICCs with their intervals. This runs
from the matrix of answers to the tables, with nothing prepared. The peer: pingouin.cronbach_alpha alone, in
the usual loop: 1,000 times, a frame of 10,000 persons is drawn with replacement and its alpha computed; timed
over 100 of them and scaled up.

PYTHON is an interpreter that has pingouin, in its own environment; without one, the peer's row says so. Each
side runs in its own process, in turns. Times are wall-clock and processor seconds: on a machine that does
other work, only the latter are meaningful. --threads sets the number of linear algebra threads for both
sides; 0 leaves it unchanged. Prints one JSON line per row.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEER_SAMPLES = 100
OURS, PEER = "ours, all statistics", "pingouin, alpha alone"


def answers(n_persons: int, n_items: int, seed: int = 0) -> np.ndarray:
    """Five-point answers with one general and three group factors."""
    rng = np.random.default_rng(seed)
    general = rng.normal(size=(n_persons, 1))
    groups = rng.normal(size=(n_persons, 3))[:, np.arange(n_items) % 3]
    latent = 0.5 * general + 0.4 * groups + rng.normal(size=(n_persons, n_items))
    return np.clip(np.round(3 + latent), 1, 5)


def ours(responses: np.ndarray, n_samples: int) -> tuple[float, float, float]:
    """Wall-clock and processor seconds for all statistics, and alpha."""
    from evals.psychometrics.agreement import icc_table
    from evals.psychometrics.reliability import item_statistics, reliability_table

    start, processor = time.perf_counter(), time.process_time()
    table = reliability_table(responses, n_bootstrap=n_samples)
    item_statistics(responses)
    icc_table(responses)
    spent = time.perf_counter() - start, time.process_time() - processor
    return *spent, float(table.loc["alpha", "value"])


def peer(responses: np.ndarray, n_samples: int) -> tuple[float, float, float]:
    """The same for pingouin's alpha on n_samples bootstrap samples, scaled up from 100."""
    import pandas as pd
    import pingouin  # type: ignore[import-not-found]

    frame, rng = pd.DataFrame(responses), np.random.default_rng(0)
    value = pingouin.cronbach_alpha(frame)[0]
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(PEER_SAMPLES):
        pingouin.cronbach_alpha(frame.iloc[rng.integers(0, len(frame), len(frame))])
    scale = n_samples / PEER_SAMPLES
    return (time.perf_counter() - start) * scale, (time.process_time() - processor) * scale, float(value)


def measured(python: str, side: str, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """Runs one side in its own process."""
    command = [python, __file__, "--side", side, "--data", str(data), "--samples", str(options.samples)]
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if options.threads else ()
    setting = dict.fromkeys(names, str(options.threads))
    found = subprocess.run(command, env=os.environ | setting, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{side} failed: {found.stderr.strip().splitlines()[-1]}")
    return json.loads(found.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> None:
    """Times both sides in turn and reports the medians and their ratio."""
    sides = {OURS: sys.executable}
    if options.peer:
        sides[PEER] = options.peer
    else:
        print(json.dumps({"row": PEER, "skipped": "--peer names no interpreter with pingouin"}))
    size = {"persons": options.persons, "items": options.items, "samples": options.samples}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "answers.npy"
        np.save(data, answers(options.persons, options.items))
        for _ in range(options.repeats):
            for name, python in sides.items():
                rows[name].append(measured(python, "ours" if name == OURS else "peer", data, options))
                print(json.dumps({"row": name, **size, **rows[name][-1]}), flush=True)
    if len(rows) == 2:
        for clock in ("seconds", "processor_seconds"):
            mine, theirs = (float(np.median([row[clock] for row in r])) for r in rows.values())
            print(json.dumps({"row": f"ratio of {clock}", "value": round(theirs / mine, 2), "target": 5}))


def main() -> None:
    """Compares both sides, or runs one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--persons", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=120)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--peer", help="an interpreter with pingouin")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is None:
        compare(options)
        return
    side = ours if options.side == "ours" else peer
    seconds, processor, alpha = side(np.load(options.data), options.samples)
    row = {"seconds": round(seconds, 3), "processor_seconds": round(processor, 3), "alpha": round(alpha, 6)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
