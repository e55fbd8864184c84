"""Makes values.json (and, with --model, the tiny model): what lm-evaluation-harness says of the rows here.

    python -m venv /tmp/lm-eval && /tmp/lm-eval/bin/pip install lm-eval==0.4.13 torch transformers
    PYTHONPATH=. /tmp/lm-eval/bin/python tests/goldens/lm_eval/make.py

The tasks are the harness's own (arc_easy, mmlu_anatomy, hellaswag, gsm8k) with these rows in place of the
hub's; examples are the first ones of the training part, as mmlu has it. The model is random, its numbers
those of the backend `hf` in float32 on the CPU.
"""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROWS, MODEL = HERE / "rows", HERE / "model"
TASKS = {
    "arc": ("arc/arc_easy.yaml", {"train": "arc_train", "test": "arc_test"}, "train"),
    "mmlu": ("mmlu/default/mmlu_anatomy.yaml", {"dev": "mmlu_dev", "test": "mmlu_test"}, "dev"),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        {"train": "hellaswag_train", "validation": "hellaswag_val"},
        "train",
    ),
    "gsm8k": ("gsm8k/gsm8k.yaml", {"train": "gsm8k_train", "test": "gsm8k_test"}, "train"),
}
# what the filters are tried on: the model here writes no numbers
RESPONSES = [
    ("She has 3 boxes of 4, so 12.\n#### 12", "... #### 12"),
    ("3*4 = 12\n#### 12.", "... #### 12"),
    ("#### 11\nNo, I mean\n#### 12", "... #### 12"),
    ("That is $1,234.", "... #### 1,234"),
    ("####1234", "... #### 1,234"),
    ("#### -7 degrees", "... #### -7"),
    ("It is 12 pens, each of $2.", "... #### 12"),
    ("The answer is twelve.", "... #### 12"),
    ("", "... #### 12"),
    ("So 5 . . 6", "... #### 6"),
    ("#### 12.0", "... #### 12"),
    ("The result:  0.5", "... #### 0.5"),
    ("costs $ 18", "... #### 18"),
    ("#### $18", "... #### 18"),
    ("... and then ...", "... #### 3"),
]


def make_model() -> None:
    """Two layers of random weights, and a tokenizer trained on the rows."""
    from jaxmoe.tokenizer import train_bpe
    from tests.tiny_checkpoints import write_checkpoint

    texts = [path.read_text(encoding="utf-8") for path in sorted(ROWS.glob("*.jsonl"))]
    tokenizer = train_bpe(["Question: Answer: A. B. C. D.", *texts], 512)
    end = tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>"])
    write_checkpoint(
        MODEL,
        model_type="llama",
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        max_position_embeddings=1024,
        bos_token_id=end[0],
        eos_token_id=end[1],
        pad_token_id=end[2],
    )
    tokenizer.save_pretrained(MODEL)


def tasks(folder: Path) -> None:
    """The harness's task files with our rows."""
    import lm_eval
    import yaml

    theirs = Path(lm_eval.__file__).parent / "tasks"
    for name, (file, parts, shots) in TASKS.items():
        task = {
            "include": str(theirs / file),
            "task": f"rows_{name}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {k: str(ROWS / f"{v}.jsonl") for k, v in parts.items()}},
            "fewshot_split": shots,
            "fewshot_config": {"sampler": "first_n"},
        }
        if name == "gsm8k":
            task["generation_kwargs"] = {
                "until": ["Question:", "</s>", "<|im_end|>"],
                "do_sample": False,
                "temperature": 0.0,
                "max_gen_toks": 24,
            }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def measured(base: str, folder: Path) -> dict[str, dict[str, list[dict[str, object]]]]:
    """What the harness finds for each task with 0 and 2 examples."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder))
    found: dict[str, dict[str, list[dict[str, object]]]] = {name: {} for name in TASKS}
    for shots in (0, 2):
        results = simple_evaluate(
            model="hf",
            model_args={"pretrained": base, "dtype": "float32"},
            tasks=[f"rows_{name}" for name in TASKS],
            num_fewshot=shots,
            batch_size=1,
            device="cpu",
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=True,
        )
        for name in TASKS:
            found[name][str(shots)] = _items(results["samples"][f"rows_{name}"])
    return found


def _items(samples: list) -> list[dict[str, object]]:
    """By item the choices with their log-probabilities, or what was written and its score by each filter."""
    items: dict[int, dict[str, object]] = {}
    for sample in samples:
        item = items.setdefault(sample["doc_id"], {"prompt": _arguments(sample)[0][0]})
        if "acc" in sample:
            item["choices"] = [pair[1] for pair in _arguments(sample)]
            item["logprobs"] = [float(one[0]) for one in sample["filtered_resps"]]
            item |= {name: sample[name] for name in ("acc", "acc_norm") if name in sample}
        else:
            item["response"] = sample["resps"][0][0]
            item[sample["filter"]] = sample["exact_match"]
    return [items[number] for number in sorted(items)]


def _arguments(sample: dict) -> list:
    given = sample["arguments"]
    return [list(one.values()) if isinstance(one, dict) else one for one in given]


def filtered() -> list[dict[str, object]]:
    """What the filters and the metric of gsm8k make of written responses."""
    import lm_eval
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    file = Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml"
    task = yaml.safe_load(file.read_text())
    options = {
        name: task["metric_list"][0][name]
        for name in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
    }
    items = []
    for response, answer in RESPONSES:
        item: dict[str, object] = {"response": response, "answer": answer}
        for chain in task["filter_list"]:
            settings = {k: v for k, v in chain["filter"][0].items() if k != "function"}
            [[number]] = RegexFilter(**settings).apply([[response]], [{}])
            score = exact_match_hf_evaluate([number], [answer], **options)["exact_match"]
            item[chain["name"]] = [number, float(score)]
        items.append(item)
    return items


if __name__ == "__main__":
    if "--model" in sys.argv:
        make_model()
    base = next((one for one in sys.argv[1:] if not one.startswith("--")), str(MODEL))
    out = HERE / "values.json" if base == str(MODEL) else Path("values.json")
    with tempfile.TemporaryDirectory() as name:
        tasks(Path(name))
        values = {"filters": filtered(), **measured(base, Path(name))}
    out.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
