"""IPIP-NEO-120 in 5 templates and 2 option orders by log-probability: with and without shared prefixes.

    python -m benchmarks.behavior [--words] [--items 120]
    python -m benchmarks.behavior --model smollm2-135m-instruct [--personas 16] [--sample 20]

Without --model, the model is that of benchmarks/sft_step.py, with random weights: D 256, L 4, 4 heads, FFN
688, vocabulary 4096, float32. Its tokenizer is trained on the questionnaire, so that a text has about as many
tokens as with a large model's tokenizer. Both sides score the same options of the same 1,200 questions, from
the list of questions to their probabilities, tokenization included, and the probabilities must agree. Alone:
each prompt with each option is a padded row of its own, 32 rows of similar length per call
(LocalModel.logprob). Compilation is excluded: each side runs once before it is timed.

With --model, a pretrained chat model answers as composed persons in its chat form. One side is given all
questions; the other gets one question per call, whose options are looked up in one row. The latter runs on a
sample spread over all questions, because its time per question hardly varies. Seconds per question are
compared. Prints one JSON line per row.
"""

import argparse
import json
import time

import numpy as np

import jaxmoe
from evals.models.local_model import LocalModel
from evals.questionnaires.design import Battery, Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondent import Question
from evals.questionnaires.respondents.local_respondent import ScoringRespondent
from evals.questionnaires.wording import NOBODY, composed_personas, templates
from jaxmoe.base_folder import local_folder
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import load_tokenizer, train_bpe

VOCABULARY = 4096
# for probabilities: float32 sums are taken in a different order
TOLERANCE = 1e-5


def small_model(texts: list[str]) -> LocalModel:
    """A random model with a tokenizer for these texts."""
    tokenizer = train_bpe(texts, VOCABULARY)
    config = ModelConfig(VOCABULARY, 256, 688, 4, 4, 4, 64)
    weights = params.split(params.build(config, seed=0), "none")
    return LocalModel(LanguageModel(config, weights, params.single_device_mesh()), tokenizer, batch_size=32)


def one_by_one(name: str, asked: list[Question], sample: int) -> None:
    """Times a pretrained model on all questions at once, and on a sample of them, one per call."""
    model = LocalModel(jaxmoe.load(name), load_tokenizer(local_folder(name)), "chat")
    side = ScoringRespondent(model)
    chosen = [len(asked) * n // sample for n in range(sample)]
    alone = []
    for _ in range(2):  # the first pass compiles
        seconds = []
        alone = []
        for number in chosen:
            start = time.perf_counter()
            alone += side.probabilities([asked[number]])
            seconds.append(time.perf_counter() - start)
    # one person's questions: compiles the shapes that all questions share
    side.probabilities(asked[: len(asked) // 16])
    start = time.perf_counter()
    together = side.probabilities(asked)
    ours, plain = (time.perf_counter() - start) / len(asked), float(np.median(seconds))
    difference = float(np.abs(np.subtract(alone, [together[number] for number in chosen])).max())
    for row, count, each in (("all questions", len(asked), ours), ("one question a call", sample, plain)):
        print(json.dumps({"row": row, "questions": count, "seconds a question": round(each, 4)}), flush=True)
    found = {"row": "ratio alone / shared", "value": round(plain / ours, 2), "target": 5}
    print(json.dumps({**found, "largest difference of a probability": difference}))


def main() -> None:
    """Times both sides in turn, and reports their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--words", action="store_true", help="score the options' words, not their labels")
    parser.add_argument("--items", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a pretrained chat model, asked question by question too")
    parser.add_argument("--personas", type=int, default=16, help="composed persons of --model")
    parser.add_argument("--sample", type=int, default=20, help="questions asked one by one of --model")
    options = parser.parse_args()
    people = tuple(composed_personas(options.personas)) if options.model else (NOBODY,)
    whole = battery(load_instrument("ipip_neo_120"))
    asked = list(
        questions(
            Battery(whole.name, whole.instruction, whole.entries[: options.items]),
            Design(tuple(templates().values())[:5], ("forward", "reversed"), personas=people),
        )
    )
    if options.model:
        one_by_one(options.model, asked, options.sample)
        return
    model = small_model([question.prompt for question in asked[::3]])
    scored = "words" if options.words else "label"
    sides = {
        "shared beginnings": ScoringRespondent(model, scored=scored),
        "every row alone": ScoringRespondent(model, scored=scored, share_prefixes=False),
    }
    found = {name: np.array(side.probabilities(asked)) for name, side in sides.items()}
    difference = float(np.abs(np.subtract(*found.values())).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the two sides differ by {difference:g}; at most {TOLERANCE:g} is rounding")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            side.probabilities(asked)
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        row = {
            "row": name,
            "questions": len(asked),
            "scored": scored,
            "seconds": round(float(np.median(times)), 3),
        }
        print(json.dumps(row), flush=True)
    ours, plain = (float(np.median(times)) for times in seconds.values())
    print(
        json.dumps(
            {
                "row": "ratio alone / shared",
                "value": round(plain / ours, 2),
                "target": 5,
                "largest difference of a probability": difference,
            }
        )
    )


if __name__ == "__main__":
    main()
