"""Runs every reader on far more damaged files than the tests have time for: a result or one line, always.

    python -m benchmarks.fuzz_readers --inputs 10000 --seeds 10      1e5 files per reader, about an hour
    python -m benchmarks.fuzz_readers --seeds 3 --first-seed 11      what was not tried yet

Runs the fuzz tests themselves (tests/fuzz.py), which fail on anything else: another exception, an error of
several lines, or an answer that takes seconds. Prints one JSON line per reader and seed, then the sums. With
--file, saves the sums in docs/results/fuzz_readers.json, together with those of earlier calls.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "fuzz_readers.json"
READERS = {
    "problem files": "rl/feedback/readers/test_readers.py::test_any_file_gives_problems_or_one_line",
    "problem files of ten publishers": (
        "rl/feedback/readers/test_more_formats.py::test_damaged_files_of_these_formats"
    ),
    "instruction files": "jaxmoe/datasets/formats/test_formats.py::test_damaged_instruction_files",
    "question lists": "jaxmoe/datasets/formats/test_formats.py::test_damaged_question_files",
    "knowledge questions, JSON": "evals/knowledge/test_questions.py::test_damaged_question_files[q.json]",
    "knowledge questions, JSON lines in gzip": (
        "evals/knowledge/test_questions.py::test_damaged_question_files[q.jsonl.gz]"
    ),
    "damaged gzip": "evals/knowledge/test_questions.py::test_damaged_archives_are_refused",
    "YAML configs": "training/runtime/test_config.py::test_damaged_configs",
    "torch pickles": "jaxmoe/weights/test_fuzz_weights.py::test_torch_pickles",
    "safetensors and their index": "jaxmoe/weights/test_fuzz_weights.py::test_safetensors_and_their_index",
    "adapter folders": "jaxmoe/adapters/test_fuzz_adapters.py::test_adapter_folders",
    "model configs": "jaxmoe/families/test_fuzz_config.py::test_config_files",
}


def fuzz(inputs: int, seed: int, chosen: list[str]) -> dict[str, dict[str, object]]:
    """How each chosen reader handled this many files: seconds, and the failure if there was one."""
    environment = os.environ | {"FUZZ_INPUTS": str(inputs), "FUZZ_SEED": str(seed)}
    tests = [f"tests/{READERS[reader]}" for reader in chosen]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run([*command, *tests], cwd=ROOT, env=environment, check=False, capture_output=True)
        cases = list(ElementTree.parse(report).iter("testcase"))
    if len(cases) != len(chosen):
        raise SystemExit(f"{len(cases)} of {len(chosen)} tests ran; has one been renamed?")
    readers = {test: reader for reader, test in READERS.items()}
    found: dict[str, dict[str, object]] = {}
    for case in cases:
        module = case.get("classname", "").removeprefix("tests.").replace(".", "/")
        failure = next((part for part in case if part.tag in ("failure", "error")), None)
        found[readers[f"{module}.py::{case.get('name')}"]] = {
            "inputs": inputs,
            "seconds": round(float(case.get("time", 0)), 1),
            "failure": None if failure is None else (failure.get("message") or "")[:500],
        }
    return found


def commit() -> str:
    """The commit whose readers are tested."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Entry point; 1 if a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="files a reader and seed")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", choices=READERS, help="this reader alone")
    parser.add_argument("--file", action="store_true", help=f"add to {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    reached: dict[str, int] = dict.fromkeys(READERS, 0)
    failed, chosen = False, [options.only] if options.only else list(READERS)
    if options.file and RESULT.exists():
        reached |= json.loads(RESULT.read_text())["inputs"]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for reader, row in fuzz(options.inputs, seed, chosen).items():
            print(json.dumps({"reader": reader, "seed": seed, **row}), flush=True)
            failed |= row["failure"] is not None
            reached[reader] += options.inputs if row["failure"] is None else 0
        if options.file and not failed:
            content = {
                "outcome": "a result or one line for every file",
                "command": f"python -m benchmarks.fuzz_readers --inputs {options.inputs}",
                "commit": commit(),
                "inputs": reached,
            }
            RESULT.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps({"inputs": reached, "failed": failed}))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
