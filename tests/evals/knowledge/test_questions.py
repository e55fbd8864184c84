"""Readers: each published format in a tiny file of its own, and what is said of broken ones."""

import gzip
import json

import numpy as np
import pytest

from evals.knowledge.questions import ClosedBookQuestion, load_questions
from tests.fuzz import INPUTS, check, damaged, scratched

TRIVIA = {
    "Data": [
        {
            "Answer": {
                "Aliases": ["Mt. Aconcagua", "Aconcagua"],
                "NormalizedAliases": ["aconcagua", "mt aconcagua"],
                "NormalizedValue": "aconcagua",
                "Type": "WikipediaEntity",
                "Value": "Aconcagua",
            },
            "EntityPages": [],
            "Question": "Which is the highest mountain of the Andes?",
            "QuestionId": "tc_1",
            "SearchResults": [],
        },
        {"Answer": {"Aliases": [], "Value": ""}, "Question": "Unanswered?", "QuestionId": "tc_2"},
    ],
    "Domain": "Web",
    "Version": 1.0,
}


def natural_annotation(*spans):
    return {
        "short_answers": [{"start_token": s, "end_token": e} for s, e in spans],
        "long_answer": {"start_token": 0, "end_token": 9},
        "yes_no_answer": "NONE",
    }


NATURAL_TOKENS = ["<P>", "Water", "boils", "at", "one", "hundred", "degrees", "at", "sea", "level", "</P>"]
NATURAL = {
    "example_id": 77,
    "question_text": "when does water boil",
    "annotations": [
        natural_annotation((4, 7)),
        natural_annotation((5, 6), (0, 3)),
        natural_annotation((1, 9)),
    ],
}
SIMPLIFIED = NATURAL | {"document_text": " ".join(NATURAL_TOKENS)}
ORIGINAL = NATURAL | {
    "document_tokens": [{"token": t, "html_token": t.startswith("<")} for t in NATURAL_TOKENS]
}


def write(path, text):
    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


@pytest.mark.parametrize("indent", [None, 2])
def test_triviaqa_takes_value_first_then_aliases_and_skips_rows_without_answers(tmp_path, indent):
    found = load_questions(write(tmp_path / "unfiltered-web-dev.json", json.dumps(TRIVIA, indent=indent)))
    assert found.questions == [
        ClosedBookQuestion(
            "tc_1",
            "Which is the highest mountain of the Andes?",
            ("Aconcagua", "Mt. Aconcagua", "aconcagua", "mt aconcagua"),
        )
    ]
    assert found.skipped == 1


def test_original_natural_questions_take_short_spans_without_html(tmp_path):
    [question] = load_questions(write(tmp_path / "nq-dev-00.jsonl.gz", lines(ORIGINAL))).questions
    # the third annotator's 8 tokens are over the limit of 5; the second's <P> is HTML
    assert question.answers == ("one hundred degrees", "hundred", "Water boils")
    assert question.id == "77"
    assert load_questions(tmp_path / "nq-dev-00.jsonl.gz", max_answer_tokens=8).questions[0].answers[-1] == (
        "Water boils at one hundred degrees at sea"
    )


def test_simplified_natural_questions_count_tokens_by_single_blanks(tmp_path):
    row = SIMPLIFIED | {"document_text": "a b\u3000c d e", "annotations": [natural_annotation((1, 3))]}
    [question] = load_questions(write(tmp_path / "v1.0-simplified.jsonl", lines(row))).questions
    # U+3000 does not end a token, but is a blank in the answer
    assert question.answers == ("b c d",)


def test_natural_questions_without_short_answers_are_skipped(tmp_path):
    empty = SIMPLIFIED | {"annotations": [natural_annotation()]}
    found = load_questions(write(tmp_path / "nq.jsonl", lines(empty, SIMPLIFIED)))
    assert (len(found.questions), found.skipped) == (1, 1)


def test_open_natural_questions(tmp_path):
    row = {"question": "who sang the waltz", "answer": ["Ann  Lee", "Lee", "Lee"]}
    [question] = load_questions(write(tmp_path / "NQ-open.dev.jsonl", lines(row))).questions
    assert question.answers == ("Ann Lee", "Lee")


def test_hotpotqa(tmp_path):
    row = {
        "_id": "5a8b",
        "question": "Were both towns founded by monks?",
        "answer": "yes",
        "type": "comparison",
        "level": "hard",
        "supporting_facts": [["A", 0]],
        "context": [["A", ["One sentence."]]],
    }
    [question] = load_questions(
        write(tmp_path / "hotpot_dev_distractor_v1.json", json.dumps([row]))
    ).questions
    assert question == ClosedBookQuestion("5a8b", row["question"], ("yes",), category="comparison")


def test_web_questions_in_their_plain_form(tmp_path):
    path = tmp_path / "webquestions_test.json"
    path.write_text('[{"qId": "wqs7", "answers": ["Lima", "Callao"], "qText": "which city?"}]')
    (question,) = load_questions(path).questions
    assert (question.id, question.question, question.answers) == ("wqs7", "which city?", ("Lima", "Callao"))


def test_webquestions_descriptions_bare_quoted_and_escaped(tmp_path):
    target = '(list (description "Jay \\"J\\" (the elder)") (description Fracture) (description "Half A"))'
    row = {"url": "x", "targetValue": target, "utterance": "what did he play?"}
    [question] = load_questions(
        write(tmp_path / "webquestions.examples.test.json", json.dumps([row]))
    ).questions
    assert question.answers == ('Jay "J" (the elder)', "Fracture", "Half A")


def test_plain_rows_keep_stem_cluster_and_category(tmp_path):
    row = {"id": 3, "question": "Q?", "answers": ["A"], "stem": "It is", "cluster": "f", "category": "c"}
    assert load_questions(write(tmp_path / "q.jsonl", lines(row))).questions == [
        ClosedBookQuestion("3", "Q?", ("A",), "It is", "f", "c")
    ]


def test_instruction_rows(tmp_path):
    row = {"instruction": "Answer.", "input": "Capital of Peru?", "output": "Lima", "task_type": 1}
    assert load_questions(write(tmp_path / "q.json", json.dumps([row]))).questions == [
        ClosedBookQuestion("0", "Answer.\nCapital of Peru?", ("Lima",), category="1")
    ]


@pytest.mark.parametrize(
    ("given", "answer"), [(1, 1), ("B", 1), ("b", 1), ("Lima", 1), ("A", 0)], ids=lambda value: repr(value)
)
def test_right_choice_by_index_letter_or_text(tmp_path, given, answer):
    row = {"question": "Capital of Peru?", "choices": ["Quito", "Lima"], "answer": given}
    [question] = load_questions(write(tmp_path / "q.jsonl", lines(row))).choice_questions
    assert question.answer == answer


def test_arc_rows_nested_and_as_columns(tmp_path):
    nested = {
        "id": "M",
        "question": {"stem": "S?", "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]},
        "answerKey": "2",
    }
    columns = {"question": "S?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
    found = load_questions(write(tmp_path / "arc.jsonl", lines(nested, columns))).choice_questions
    assert [(q.question, q.choices, q.answer) for q in found] == [("S?", ("x", "y"), 1)] * 2


def test_folder_prepared_by_tfds(tmp_path):
    import tensorflow_datasets as tfds

    class TinyTrivia(tfds.core.GeneratorBasedBuilder):
        """TriviaQA's features as its TFDS builder has them, without the passages."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            answer = tfds.features.FeaturesDict({"value": text, "aliases": tfds.features.Sequence(text)})
            features = {"question": text, "question_id": text, "answer": answer, "rank": np.int32}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples("é"), "test": self._generate_examples("t")}

        def _generate_examples(self, suffix):
            answer = {"value": f"Lima {suffix}", "aliases": ["La Lima", "Ciudad"]}
            yield 0, {"question": "Capital?", "question_id": "tc", "answer": answer, "rank": 1}

    builder = TinyTrivia(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    folder = tmp_path / "tiny_trivia" / "1.0.0"
    assert load_questions(folder, split="validation").questions == [
        ClosedBookQuestion("tc", "Capital?", ("Lima é", "La Lima", "Ciudad"))
    ]
    with pytest.raises(ValueError, match=r"has the splits \['test', 'validation'\]; got split None"):
        load_questions(folder)


def test_limit_stops_reading(tmp_path):
    path = write(
        tmp_path / "q.jsonl", lines(*({"question": f"{i}", "answer": "a"} for i in range(9))) + "broken"
    )
    assert [q.question for q in load_questions(path, limit=4).questions] == ["0", "1", "2", "3"]


BROKEN = {
    "nothing.jsonl": ("\n \n", "is empty"),
    "list.json": ("[]", "is empty"),
    "line.jsonl": ('{"question": "a", "answer": "b"}\n{"question": ', r"line\.jsonl:2 is not valid JSON"),
    "number.jsonl": ('{"question": "a", "answer": "b"}\n7', r"number\.jsonl:2 must be an object.*got int"),
    "cut.json": ('[\n{"question": "a"', "neither JSON nor JSON lines"),
    "fields.jsonl": ('{"prompt": "a", "label": 1}', r"fields\.jsonl:1: no known question format.*label"),
    "none.jsonl": ('{"question": "a", "answers": []}', r"no question with an answer \(1 rows"),
    "range.jsonl": ('{"question": "a", "choices": ["x", "y"], "answer": 2}', r"from 0 to 1.*got 2"),
    "one.jsonl": ('{"question": "a", "choices": ["x"], "answer": 0}', "at least 2 choices; got 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_row(tmp_path, name):
    text, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / name, text))


def test_truncated_gzip_missing_file_and_other_folder(tmp_path):
    path = write(tmp_path / "q.jsonl.gz", lines(*({"question": f"{i}", "answer": "a"} for i in range(999))))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is no whole gzip file"):
        load_questions(path)
    with pytest.raises(ValueError, match="no question file at"):
        load_questions(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="no folder prepared by TFDS"):
        load_questions(tmp_path)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": 5, "answer": "a"}, "question must be text; got 5"),
        ({"question": "a", "answers": [{"x": 1}]}, "an answer must be text or a number; got"),
        ({"question": "a", "answer": "b", "stem": 3}, "stem must be text"),
        ({"Question": "a", "Answer": "b"}, "a field of the question is missing or of the wrong type"),
        ({"question_text": "a", "annotations": [1], "document_text": "b"}, "missing or of the wrong type"),
        ({"utterance": "a", "targetValue": 7}, "missing or of the wrong type"),
        ({"question": "a", "choices": 3, "answer": 0}, "missing or of the wrong type"),
        ({"question": None, "choices": ["a", "b"], "answer": 0}, "question must be text; got None"),
    ],
)
def test_fields_of_the_wrong_type_are_named_with_their_row(tmp_path, row, complaint):
    good = {"question": "a", "answers": ["b", None, 3]}
    with pytest.raises(ValueError, match=rf"q\.jsonl:2: .*{complaint}") as error:
        load_questions(write(tmp_path / "q.jsonl", lines(good, row)))
    assert "\n" not in str(error.value)


def test_answers_that_are_numbers_are_written_out_and_nulls_are_none(tmp_path):
    path = write(tmp_path / "q.jsonl", lines({"question": "a", "answers": [None, 3, "b\u2028c"]}))
    assert load_questions(path).questions[0].answers == ("3", "b c")


@pytest.mark.parametrize("name", ["q.json", "q.jsonl.gz"])
def test_damaged_question_files(tmp_path, name):
    file = tmp_path / name
    sample = [
        *TRIVIA["Data"],
        SIMPLIFIED,
        ORIGINAL,
        {"utterance": "who?", "targetValue": '(list (description "A b"))'},
        {"instruction": "Who?", "input": "", "output": "A", "task_type": 1},
        {"question": "Who?", "answers": ["A"], "stem": "It is", "cluster": 3, "category": "x"},
        {
            "question": {
                "stem": "Who?",
                "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}],
            },
            "answerKey": "B",
        },
    ]

    def read(data: bytes):
        file.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
        return load_questions(file)

    read_well = check(read, damaged(sample, INPUTS, seed=3, share=0.1), (ValueError,))
    assert INPUTS // 20 < read_well < 0.975 * INPUTS


@pytest.mark.parametrize("head", [b"", b'{"question": "Who?", "answer": "A"}\n'])
def test_a_gzip_bomb_is_refused(tmp_path, head):
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress(head + b" " * (70 << 20)))
    with pytest.raises(ValueError, match=r"q\.jsonl\.gz unpacks to more than 67,108,864 bytes") as error:
        load_questions(path)
    assert "\n" not in str(error.value)


def test_damaged_archives_are_refused(tmp_path):
    whole = gzip.compress(lines(*({"question": f"{i}", "answer": "a"} for i in range(20))).encode())

    def read(data: bytes):
        (tmp_path / "q.jsonl.gz").write_bytes(data)
        return load_questions(tmp_path / "q.jsonl.gz")

    check(read, scratched(whole, INPUTS, seed=4), (ValueError,))
