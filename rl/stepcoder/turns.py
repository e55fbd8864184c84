"""Several turns: a program that fails is returned with what went wrong, and the policy writes another.

An episode is one response: the policy's first answer, what it is told, its next answer, and so on. Every
later token reads what the policy is told, but none learns from it: it is not part of the response mask.
Values and advantages skip it (rl.policy.advantages.gae). A turn is sampled when all programs of the turn
before are graded; programs that passed get no further turn.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmoe.generation.decode import bucket
from jaxmoe.model.shapes import PyTree
from jaxmoe.tokenizer import chat_template
from rl.feedback.grader import Grader
from rl.feedback.judging import in_one_line, shown
from rl.feedback.language import CompilerFeedback
from rl.feedback.problems import Problem
from rl.feedback.rewards import VERDICTS
from rl.policy.trajectory import Outcomes, Rollout
from rl.stepcoder.dynamic_sampling import GradedBatch
from rl.stepcoder.grading import Graded, Grading, MaskKind
from rl.stepcoder.prompts import Prompt
from rl.stepcoder.rollouts import OnRow, RolloutConfig, RolloutTask, Sampled, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The tasks of a turn (from 0), with one answer or `samples` answers to each, drawn for a round or an exam.
# Answers may be handed on as they end, and are all in the result.
DrawTurn = Callable[[list[RolloutTask], int, int, OnRow], Sampled]
_AGAIN = "Correct it and write the whole program again."
_MARK = "\x02answer\x02"  # marks the place of an answer in a rendered conversation


def told_of_failure(problem: Problem, feedback: CompilerFeedback, *, expected: bool = False) -> str:
    """What the policy is told about a failed program: the compiler's message, or the first test that failed.

    Args:
      problem: the one that the program was to solve.
      feedback: of its program.
      expected: whether to tell the right answer to that test, which trains a policy on its tests.
    Returns: the text of a user message.

    >>> from rl.feedback.language import TestResult
    >>> problem = Problem("double", "", fn_name="f", inputs=[[3]], outputs=[6])
    >>> wrong = CompilerFeedback("fail", -0.3, (TestResult("fail", "returned 9, expected 6"),))
    >>> told_of_failure(problem, wrong)
    'The program is wrong: f(3) has another answer. Correct it and write the whole program again.'
    """
    if feedback.verdict == "compile_error":
        return f"The program does not compile:\n{feedback.message.strip()[:1000]}\n{_AGAIN}"
    failed = next((i for i, test in enumerate(feedback.tests) if test.verdict != "pass"), None)
    if failed is None:
        return f"The program is wrong. {_AGAIN}"
    test, case = feedback.tests[failed], _case(problem, failed, expected=expected)
    if test.verdict != "fail":
        return f"The program fails{case and f' with {case}'}: {in_one_line(test.message)}. {_AGAIN}"
    if not case:
        return f"The program is wrong: a test fails. {_AGAIN}"
    if problem.kind == "assert":
        return f"The program is wrong: this fails: {case}. {_AGAIN}"
    right = f": {shown(problem.outputs[failed])}" if expected else ""
    return f"The program is wrong: {case} has another answer{right}. {_AGAIN}"


def _case(problem: Problem, number: int, *, expected: bool) -> str:
    """What a test asks of a program; an assertion contains its answer, and is told with it or not at all."""
    if problem.kind == "assert":
        return in_one_line(problem.asserts[number]) if expected else ""
    given = problem.inputs[number]
    if problem.kind == "stdin":
        return f"the input {shown(given)}"
    arguments = ", ".join(shown(argument) for argument in given)
    return f"{problem.fn_name}({arguments})"


class NextTurn:
    """Renders what the policy is told as the tokenizer's chat template does.

    Args:
      tokenizer: with a chat template that only appends to a conversation.
    Raises: ValueError for a template that changes earlier messages.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer, self._template = tokenizer, chat_template(tokenizer)
        before, after = self._around(_MARK)
        if not before or not after:
            raise ValueError(
                "rollout.turns needs a chat template that appends a turn to those before; "
                "this one changes them"
            )

    def _around(self, told: str) -> tuple[str, str]:
        """How an answer ends, and what follows up to the next; two empty texts if it is not appended."""
        asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        whole = self._template.render(asked)
        longer = self._template.render([*asked, {"role": "user", "content": told}], answering=True)
        if not longer.startswith(whole) or whole.count(_MARK) != 1:
            return "", ""
        return whole.partition(_MARK)[2], longer[len(whole) :]

    def ids(self, answer: Sequence[int], told: str, most: int) -> list[int]:
        """The tokens between an answer and the next one.

        Args:
          answer: ids of the answer; if it ends in the token with which the template ends it, that is not
            repeated.
          told: what the policy is told.
          most: maximum number of ids; the text is cut in its middle to fit.
        Returns: ids.
        Raises: ValueError if not even a few words fit.
        """
        keep, said = len(told) // 2, told
        while True:
            closing, opening = self._around(said)
            ids = list(self._tokenizer(closing + opening, add_special_tokens=False)["input_ids"])
            if answer and ids and ids[0] == answer[-1]:
                ids = ids[1:]
            if len(ids) <= most:
                return ids
            if keep < 10:
                raise ValueError(
                    f"rollout.told_tokens={most} leaves no room beside the {len(ids)} tokens of a turn "
                    "of this chat template"
                )
            keep = keep * 3 // 4
            said = f"{told[:keep]} ... {told[-keep:]}"


class _Open(NamedTuple):
    """An episode in progress: its row, what the policy has read and written, and what it is told now."""

    row: int
    ids: list[int]
    told: str
    told_ids: list[int]


def play(
    draw: DrawTurn,
    tasks: list[RolloutTask],
    samples: int,
    grader: Grader,
    tokenizer: "PreTrainedTokenizerBase",
    config: RolloutConfig,
    kind: MaskKind,
    *,
    spare_slot: bool = False,
) -> GradedBatch:
    """Episodes of up to `config.turns` turns; with one turn, answers as they are drawn.

    Args:
      draw: answers the tasks of a turn.
      tasks: of the first turn.
      samples: of each task; later turns have one answer to each failed program.
      grader: of programs.
      tokenizer: of the policy.
      config: of the rollout.
      kind: which tokens of an answer the policy learns from.
      spare_slot: leave a slot after the longest episode, for the value there.
    Returns: one row for each episode: rewards and verdicts are those of its last program.
    """
    first, graded = _graded(draw, grader, kind, tasks, samples, 0)
    parts = [(first, graded, list(range(len(first.rows))), [_START] * len(first.rows))]
    if config.turns == 1:
        return GradedBatch(first, graded)
    writer = NextTurn(tokenizer)
    for turn in range(1, config.turns):
        sampled, graded, rows, _ = parts[-1]
        texts = _shared(
            {
                i: told_of_failure(sampled.rows[i].task.problem, feedback, expected=config.show_expected)
                for i, feedback in graded.feedback.items()
                if feedback.verdict != "pass"
            }
        )
        going: list[_Open] = []
        again: list[RolloutTask] = []
        for i, told in sorted(texts.items()):
            task, answer = sampled.rows[i].task, _answer(sampled, i)
            told_ids = writer.ids(answer, told, config.told_tokens)
            ids = [*task.prompt.ids, *answer, *told_ids]
            going.append(_Open(rows[i], ids, told, told_ids))
            again.append(RolloutTask(task.problem, Prompt(ids, ""), config.response_tokens, task.stage))
        if not going:
            break
        drawn, verdicts = _graded(draw, grader, kind, again, 1, turn)
        parts.append((drawn, verdicts, [one.row for one in going], going))
    return _join(parts, config, spare_slot=spare_slot)


def _graded(
    draw: DrawTurn, grader: Grader, kind: MaskKind, tasks: list[RolloutTask], samples: int, turn: int
) -> tuple[Sampled, Graded]:
    grading = Grading(grader)
    sampled = draw(tasks, samples, turn, grading.add)
    grading.complete(sampled)
    return sampled, grading.result(kind)


_START = _Open(-1, [], "", [])
_Part = tuple[Sampled, Graded, list[int], list[_Open]]


def _answer(sampled: Sampled, row: int) -> list[int]:
    taken = int(np.asarray(sampled.rollout.response_mask_BW[row]).sum())
    return np.asarray(sampled.rollout.responses_BW[row])[:taken].tolist()


def _shared(texts: dict[int, str]) -> dict[int, str]:
    """The texts of all processes: each grades some of the rows, but all of them draw the same tokens."""
    if jax.process_count() == 1:
        return texts
    mine = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(mine)))))
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: len(mine)] = mine
    everyone = np.asarray(multihost_utils.process_allgather(padded))
    found = [json.loads(bytes(one)) for one in everyone.reshape(-1, longest)]
    return {int(row): text for part in found for row, text in part.items()}


def _join(parts: Sequence[_Part], config: RolloutConfig, *, spare_slot: bool) -> GradedBatch:
    """One row for each episode, its turns one after another."""
    first = parts[0][0]
    count = len(first.rows)
    turns: list[list[Turn]] = [[] for _ in range(count)]
    pieces: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # (part, row of the part)
    lengths = np.zeros(count, np.int64)
    for number, (sampled, graded, rows, opened) in enumerate(parts):
        for i, row in enumerate(rows):
            start = int(lengths[row]) + len(opened[i].told_ids)
            reward = float(np.asarray(graded.outcomes.rewards_B)[i])
            verdict = int(graded.verdict_B[i])
            turns[row].append(Turn(sampled.rows[i], start, opened[i].told, verdict, reward))
            pieces[row].append((number, i))
            lengths[row] = start + len(_answer(sampled, i))
    width = bucket(int(lengths.max()) + spare_slot, config.smallest_bucket)
    scored = first.rollout.sampler_logprobs_BW is not None
    tokens = np.zeros((count, width), np.int32)
    mask = np.zeros((count, width), np.float32)
    policy_mask = np.zeros((count, width), np.float32)
    logprobs = np.zeros((count, width), np.float32)
    earlier = np.zeros((count, width), np.float32)
    for row in range(count):
        for turn, (number, i) in zip(turns[row], pieces[row], strict=True):
            sampled, graded, _, opened = parts[number]
            answer, start = _answer(sampled, i), turn.start
            here = slice(start, start + len(answer))
            tokens[row, start - len(opened[i].told_ids) : start] = opened[i].told_ids
            tokens[row, here], mask[row, here] = answer, 1.0
            policy_mask[row, here] = np.asarray(graded.outcomes.policy_mask_BW[i])[: len(answer)]
            if scored:
                logprobs[row, here] = np.asarray(sampled.rollout.sampler_logprobs_BW)[i, : len(answer)]
            if config.turn_reward == "each" and turn is not turns[row][-1]:
                earlier[row, start + len(answer) - 1] = turn.reward
    last = [pieces[row][-1] for row in range(count)]
    prompts = (first.rollout.prompts_PS, first.rollout.prompt_mask_PS)
    # numpy arrays on the host, although the records of a round declare jax.Array
    responses: PyTree = (tokens, mask, logprobs if scored else None)
    sampled = Sampled(
        Rollout(*prompts, *responses),
        np.asarray([parts[number][0].truncated_B[i] for number, i in last]),
        [turns[row][-1].row for row in range(count)],
        sum(part[0].tail_tokens for part in parts),
        sum(part[0].seconds for part in parts),
        turns,
        float(np.mean([part[0].wasted for part in parts])),
    )
    limits = np.asarray([sum(turn.row.task.limit for turn in ones) for ones in turns], np.float32)
    rewards = np.asarray([ones[-1].reward for ones in turns], np.float32)
    truncated = sampled.truncated_B.astype(np.float32)
    said: PyTree = (
        rewards,
        policy_mask,
        truncated,
        limits,
        earlier if config.turn_reward == "each" else None,
    )
    feedback = {
        row: parts[number][1].feedback[i]
        for row, (number, i) in enumerate(last)
        if i in parts[number][1].feedback
    }
    graded = Graded(
        Outcomes(*said),
        np.asarray([ones[-1].verdict for ones in turns], np.int32),
        feedback,
        (
            float(np.mean([part[1].latency_s[0] for part in parts])),
            max(part[1].latency_s[1] for part in parts),
        ),
        sum(part[1].seconds for part in parts),
        sum(part[1].waited_s for part in parts),
    )
    return GradedBatch(sampled, graded)


def passed_by_turn(sampled: Sampled, turns: int) -> np.ndarray:
    """Which episodes have a program that passes within 1, 2, .. turns.

    Args:
      sampled: of `play`.
      turns: T, the most turns of an episode.
    Returns: bool [T, B].
    """
    assert sampled.turns is not None
    passed = np.zeros((turns, len(sampled.rows)), bool)
    for row, ones in enumerate(sampled.turns):
        for number, turn in enumerate(ones):
            if VERDICTS[turn.verdict] == "pass":
                passed[number:, row] = True
    return passed
