"""Prompts and programs fit together; offsets are the characters of each token."""

from jaxmoe.datasets.programs import pretraining_texts, problems
from jaxmoe.tokenizer import train_bpe
from rl.feedback.problems import Problem
from rl.feedback.prompts import extract
from rl.stepcoder.prompts import ResponseDecoder, make_prompt

ROWS = problems(12)
TOKENIZER = train_bpe([text for text, _ in zip(pretraining_texts(200), range(200), strict=True)], 512)


def a_problem(number=0):
    row = ROWS[number]
    return Problem(
        **{k: row[k] for k in ("id", "prompt", "starter_code", "canonical_solution", "fn_name")},
        inputs=row["inputs"],
        outputs=row["outputs"],
    )


def test_prompt_and_completion_make_the_canonical_program():
    """The prompt's tokens and the completion's are those of the whole text, as it stands in pretraining."""
    for number in range(len(ROWS)):
        problem = a_problem(number)
        prompt = make_prompt(TOKENIZER, problem)
        text = f'"""\n{problem.prompt}\n"""\n{problem.canonical_solution}'
        whole = TOKENIZER(text)["input_ids"]
        assert whole[: len(prompt.ids)] == prompt.ids
        response = ResponseDecoder(TOKENIZER)(prompt.ids, whole[len(prompt.ids) :])
        extracted = extract(problem, response.text, "completion", given=prompt.given)
        assert extracted.program == problem.canonical_solution


def test_a_curriculum_prefix_is_what_the_program_begins_with():
    from rl.stepcoder.conditionals import prefixes

    problem = a_problem(2)
    for prefix in prefixes(problem.canonical_solution)[1:]:
        prompt = make_prompt(TOKENIZER, problem, prefix)
        assert prompt.given == prefix.rstrip()
        whole = TOKENIZER(f'"""\n{problem.prompt}\n"""\n{problem.canonical_solution}')["input_ids"]
        assert whole[: len(prompt.ids)] == prompt.ids


def test_chat_prompts_open_a_code_block_for_the_beginning_of_a_solution_alone():
    whole = make_prompt(TOKENIZER, a_problem(), form="chat")
    assert whole.given == ""
    assert "Answer with the whole program in one code block." in TOKENIZER.decode(whole.ids)
    begun = make_prompt(TOKENIZER, a_problem(), "def f(n):\n    ", form="chat")
    assert begun.ids[: len(whole.ids)] == whole.ids
    assert TOKENIZER.decode(begun.ids).endswith("```python\ndef f(n):")
    assert begun.given == "def f(n):"


def test_a_statement_that_the_code_holds_is_not_told_twice():
    problem = Problem(
        id="h", prompt='def f():\n    """Say it."""\n', starter_code='def f():\n    """Say it."""\n'
    )
    assert TOKENIZER.decode(make_prompt(TOKENIZER, problem).ids).count("Say it.") == 1


def test_offsets_are_the_characters_of_each_token():
    ids = TOKENIZER("\n    if n < 5:\n        n = n + 3\n é€", add_special_tokens=False)["input_ids"]
    response = ResponseDecoder(TOKENIZER)([5], [*ids, TOKENIZER.eos_token_id])
    assert response.offsets[0][0] == 0
    assert response.offsets[-1] == (len(response.text), len(response.text))  # the end of sequence has none
    for (_, end), (start, _) in zip(response.offsets, response.offsets[1:], strict=False):
        assert end == start
    pieces = [TOKENIZER.decode([i]) for i in ids[:6]]
    assert [response.text[a:b] for a, b in response.offsets[:6]] == pieces
