"""Embedded corpora are what they claim, splits never leak, files are read or refused with their line."""

import collections
import csv
import json
import random
import re
from importlib.resources import files
from itertools import islice

import grain
import pytest
import tensorflow_datasets as tfds

from jaxmoe.datasets import builders, corpora, downstream, downstream_questions, instruction_files
from jaxmoe.datasets import world_knowledge as wk
from jaxmoe.datasets.downstream_families import _ADJECTIVES, _BAD, _BECAUSE, _GOOD, _TOPICS, FAMILIES
from jaxmoe.datasets.relations import RELATIONS

FACTS = wk.load_facts()
BY_RELATION = collections.defaultdict(list)
for fact_ in FACTS:
    BY_RELATION[fact_.relation].append(fact_)
every_family = pytest.mark.parametrize("family", FAMILIES)


# world knowledge


def test_a_few_thousand_facts_each_asked_once_a_relation():
    assert len(FACTS) > 4_000
    assert len({(f.relation, f.subject) for f in FACTS}) == len(FACTS)
    assert all(a == a.strip() and a for f in FACTS for a in (f.subject, *f.answers))


@pytest.mark.parametrize("file", sorted({r.file for r in RELATIONS}))
def test_files_are_rectangular_and_every_row_is_used(file):
    text = files("jaxmoe.datasets").joinpath(f"{file}.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    assert all(len(row) == len(header) for row in rows)
    if "kind" in header:
        assert {row[0] for row in rows} == {r.kind for r in RELATIONS if r.file == file}


def test_known_totals():
    numbers = [int(f.answer) for f in BY_RELATION["element_number"]]
    assert numbers == list(range(1, 119))
    symbols = [f.answer for f in BY_RELATION["element_symbol"]]
    assert len(set(symbols)) == 118
    assert all(re.fullmatch("[A-Z][a-z]?", symbol) for symbol in symbols)
    assert len({f.answer for f in BY_RELATION["state_abbreviation"]}) == 50
    capitals = [f.answer for f in BY_RELATION["country_capital"]]
    assert len(set(capitals)) == len(capitals)
    assert {f.answer for f in BY_RELATION["country_continent"]} == {
        "Africa",
        "Asia",
        "Europe",
        "North America",
        "South America",
        "Oceania",
    }
    domains = [f.answer for f in BY_RELATION["country_domain"]]
    assert len(set(domains)) == len(domains)
    assert all(re.fullmatch(r"\.[a-z]{2}", domain) for domain in domains)
    codes = {f.subject: f.answer for f in BY_RELATION["country_calling_code"]}
    shared_codes = [c for c, n in collections.Counter(codes.values()).items() if n > 1]
    assert sorted(shared_codes) == ["1", "7"]  # North America, and Russia with Kazakhstan
    years = [int(f.answer) for r in ("event_year", "person_birth_year") for f in BY_RELATION[r]]
    assert min(years) >= 1048
    assert max(years) <= 2020


def test_files_agree_where_they_overlap():
    """Countries named as answers elsewhere are countries of the table, nationalities its adjectives."""
    countries = {
        f.subject.removeprefix("the ")
        for f in BY_RELATION["country_currency"] + BY_RELATION["country_continent"]
    }
    for relation in ("city_country", "island_country", "mountain_country"):
        for fact in BY_RELATION[relation]:
            assert any(a.removeprefix("the ") in countries for a in fact.answers), fact
    adjectives = {a for f in BY_RELATION["country_demonym"] for a in f.answers}
    older = {"English", "Scottish", "Flemish", "Persian", "Czech"}
    for fact in BY_RELATION["person_nationality"]:
        assert set(fact.answers) & (adjectives | older), fact
    symbols = {f.answer for f in BY_RELATION["element_symbol"]}
    for fact in BY_RELATION["chemical_formula"]:
        assert set(re.findall("[A-Z][a-z]?", fact.answer)) <= symbols, fact


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda r: r.name)
def test_wordings_hold_subject_and_answer(relation):
    assert len(relation.statements) >= 2
    assert len(set(relation.statements)) == len(relation.statements)
    assert all("{s}" in q and "{o}" not in q for q in relation.questions)
    for fact in BY_RELATION[relation.name]:
        for statement in wk.statements(fact):
            assert fact.answer in statement
            assert fact.subject[1:] in statement
            assert "{" not in statement
        assert wk.statements(fact)[0] == f"{wk.completion(fact)} {fact.answer}."
        for text in (wk.completion(fact), *(wk.question(fact, i) for i in range(len(relation.questions)))):
            # "solid, liquid or gas?" names every answer there is
            told = re.search(rf"(?<!\w){re.escape(fact.answer)}(?!\w)", text)
            assert not told or relation.name == "element_state", text


def test_articles_before_vowels():
    (eagle,) = [f for f in BY_RELATION["animal_young"] if f.subject == "eagle"]
    assert "An eaglet is a young eagle." in wk.statements(eagle)
    assert wk.completion(eagle) == "The young of an eagle is called"


def test_splits_are_fixed_and_of_the_right_size():
    counts = collections.Counter(f.split for f in FACTS)
    for split, share in {"train": 0.25, "dev": 0.15, "test": 0.60}.items():
        # four standard deviations of a binomial of 4,130 draws
        assert counts[split] / len(FACTS) == pytest.approx(share, abs=4 * (share * (1 - share) / 4130) ** 0.5)
    # a golden: facts that changed sides would make old and new results incomparable
    golden = [wk.Fact("country_capital", c, ("x",)).split for c in ("France", "Spain", "Peru", "Brazil")]
    assert golden == ["dev", "test", "test", "train"]


def test_no_question_in_pretraining_and_no_test_fact_in_instructions():
    corpus = corpora.demo_corpus(exposures=3, skill_texts=300)
    asked = {wk.question(f, i) for f in corpus.selected() for i in range(3)}
    assert not [t for t in corpora.pretraining_texts(corpus) if any(q in t for q in islice(asked, 50))]
    assert not asked & set(corpora.pretraining_texts(corpus))
    instructions = {r["instruction"] for r in corpora.instruction_rows(corpus, 8_000) if r["task_type"] == 1}
    for split in ("dev", "test"):
        held_out = {wk.question(f, i) for f in corpus.selected(split) for i in range(3)}
        assert not held_out & instructions
    trained = {wk.question(f, i) for f in corpus.selected("train") for i in range(3)}
    assert instructions <= trained


def test_every_fact_is_stated_as_often_as_asked_for():
    facts = wk.select_facts(relations=("state_capital",))
    texts = list(wk.knowledge_texts(facts, 5, seed=1))
    assert len(texts) == 5 * 50
    for fact in facts:
        stated = [t for t in texts if t.split(": ")[-1] in wk.statements(fact)]
        assert len(stated) == 5
    assert len({t.split(": ")[-1].replace(f.subject, "") for f in facts for t in texts if f.subject in t}) > 5


def test_multiple_choice():
    for fact in random.Random(0).sample([f for f in FACTS if f.relation != "birthstone"], 300):
        if fact.relation == "element_state":
            with pytest.raises(ValueError, match="options must be between 2 and 3"):
                wk.multiple_choice(fact)
            continue
        choice = wk.multiple_choice(fact)
        assert choice.options[choice.correct] == fact.answer
        assert len(set(choice.options)) == 4
        assert len(set(choice.options) & set(fact.answers)) == 1
    places = collections.Counter(wk.multiple_choice(f).correct for f in FACTS[:1000])
    assert min(places.values()) > 190


def test_selection():
    assert len(wk.select_facts(relations=("plural",), limit=7)) == 7
    assert wk.select_facts(limit=10) == wk.select_facts(limit=10)
    with pytest.raises(ValueError, match="train, dev, test; got 'valid'"):
        wk.select_facts("valid")
    with pytest.raises(ValueError, match="unknown relations"):
        wk.select_facts(relations=("capital",))


# downstream families


@every_family
def test_same_seed_same_tasks_and_splits_share_no_content(family):
    def draw(split, seed, n):
        return list(islice(downstream.tasks(family, split, seed=seed), n))

    assert draw("train", 3, 20) == draw("train", 3, 20) != draw("train", 4, 20)
    keys = {s: {t.key for seed in (0, 1) for t in draw(s, seed, 400)} for s in downstream.SPLITS}
    assert not keys["train"] & keys["dev"] | keys["train"] & keys["test"] | keys["dev"] & keys["test"]
    # nor do pretraining texts hold a test content
    texts = "\n".join(downstream.downstream_texts(2_000, seed=0, families=(family,)))
    tests = [t for t in draw("test", 0, 100) if family != "translation"]
    assert not [t for t in tests if t.input in texts]


def independent_answer(family, row):
    """The answer worked out anew from the input alone."""
    text = row["input"]
    if family == "reading_comprehension":
        passage, question = text.split("\n")
        name = next(w for w in question.rstrip("?").split() if w in passage.split())
        sentence = next(s for s in passage.split(". ") if s.startswith(name)).rstrip(".")
        return re.sub(rf"^{name} (has a|lives near|likes|comes)( |$)", "", sentence)
    if family == "coreference":
        first, verb, second, _, _, *reason = text.rstrip(".").split()
        return (first, second)[{(v, r): w for v, r, w in _BECAUSE}[verb, " ".join(reason)]]
    if family == "summarisation":
        name, verb, thing = re.search(r"the \w+ (\w+) (\w+) a \w+ (\w+) near", text).groups()
        return f"{name} {verb} {'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    if family == "sentiment":
        scores = [
            (word in _GOOD) - (word in _BAD) if before != "not" else (word in _BAD) - (word in _GOOD)
            for before, word in zip(text.rstrip(".").split(), text.rstrip(".").split()[1:], strict=False)
        ]
        return {2: "positive", -2: "negative"}[sum(scores)]
    if family == "topic":
        words = set(re.findall(r"\w+", text))
        return next(label for label, vocabulary in _TOPICS.items() if len(words & set(vocabulary)) == 3)
    return None


@pytest.mark.parametrize(
    "family", ["reading_comprehension", "coreference", "summarisation", "sentiment", "topic"]
)
def test_answers_follow_from_the_input(family):
    for row in downstream.downstream_rows("test", 200, seed=0, families=(family,)):
        assert row["output"] == independent_answer(family, row)
        assert (row["task_type"], row["answers"], row["family"]) == (0, [row["output"]], family)


def test_inference_labels_are_balanced_and_consistent():
    rows = list(downstream.downstream_rows("test", 600, seed=0, families=("natural_language_inference",)))
    labels = collections.Counter(r["output"] for r in rows)
    assert set(labels) == {"yes", "no", "maybe"}
    assert min(labels.values()) > 150
    for row in rows:
        premise, hypothesis = row["input"].split("\n")
        if found := re.search(r"was in the (\w+), not the (\w+)\.", hypothesis):
            assert row["output"] == ("yes" if f"in the {found[1]}." in premise else "no")
            assert any(f"in the {place}." in premise for place in found.groups())


def test_spanish_agrees_in_gender():
    feminine = {"chica", "maestra", "vaca", "reina", "tía", "casa", "mesa", "puerta", "ventana", "manzana"}
    feminine |= {"flor", "carta"}
    masculine = {"gato", "perro", "chico", "doctor", "rey", "amigo", "caballo", "libro", "pan", "coche"}
    masculine |= {"sombrero", "zapato"}
    forms = {form: gender for pair in _ADJECTIVES.values() for gender, form in enumerate(pair)}
    for row in downstream.downstream_rows("test", 300, seed=0, families=("translation",)):
        phrases = re.findall(r"(el|la) (\w+)(?: (\w+))?", row["output"])
        assert len(phrases) == 2
        for the, noun, following in phrases:
            assert noun in (feminine if the == "la" else masculine)
            if following in forms:
                assert forms[following] == (the == "la")


def test_rows_take_turns_and_evaluation_rows_are_distinct():
    rows = list(downstream.downstream_rows("dev", 700, seed=0))
    assert set(collections.Counter(r["family"] for r in rows).values()) == {100}
    assert len({(r["family"], r["input"]) for r in rows}) == 700
    assert rows == corpora.task_test_rows("dev", 700)


def test_an_exhausted_family_ends_instead_of_repeating():
    rows = list(downstream.downstream_rows("test", 10_000, seed=0, families=("coreference",)))
    assert len(rows) == len({r["input"] for r in rows}) < 10_000


def test_a_third_of_the_texts_is_copying():
    texts = list(downstream.downstream_texts(300, seed=0))
    copying = [t for t in texts if "Again" in t]
    assert len(copying) == 100
    for text in copying:
        first, again = re.split(r"\. Again[,:] ", text.rstrip("."))
        assert all(item in first.split(", ") for item in again.split(", "))


@every_family
def test_tasks_are_asked_in_pretraining_in_other_words_and_of_training_contents(family):
    texts = list(downstream_questions.question_texts(600, seed=0, families=(family,)))
    assert texts == list(downstream_questions.question_texts(600, seed=0, families=(family,)))
    tests = [t for t in islice(downstream.tasks(family, "test", seed=0), 100) if family != "translation"]
    together = "|".join(texts).replace("\n", " ")
    assert not [t for t in tests if t.input.replace("\n", " ") in together]
    instructions = {t.instruction for t in islice(downstream.tasks(family, "train", seed=0), 100)}
    assert not [text for text in texts if any(instruction in text for instruction in instructions)]
    # a third of the answers stands behind the end token, where instruction rows have theirs
    assert 0.25 < sum("</s> " in text for text in texts) / len(texts) < 0.42


def test_lists_are_said_twice():
    for text in downstream_questions.repeated_texts(
        50, ["a", "b", "c", "d", "e", "f", "g", "h", "i"], seed=0
    ):
        first, again = text.rstrip(".").split(". ")
        assert sorted(first.split(", ")) == sorted(again.split(", "))


def test_unknown_family_or_split():
    with pytest.raises(ValueError, match="one of reading_comprehension"):
        downstream.tasks("riddles", "train", seed=0)
    with pytest.raises(ValueError, match="train, dev, test; got 'valid'"):
        downstream.tasks("topic", "valid", seed=0)


def test_mixture_holds_its_share_of_questions():
    corpus = corpora.demo_corpus(seed=2)
    rows = corpora.instruction_rows(corpus, 1_000)
    assert len(rows) == 1_000
    assert collections.Counter(r["task_type"] for r in rows) == {0: 875, 1: 125}
    assert rows == corpora.instruction_rows(corpus, 1_000)
    assert all(len(f"{r['instruction']} {r['input']}".split()) < 60 for r in rows)
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        corpora.CorpusConfig(knowledge_share=1.5)


def test_knowledge_tests_come_in_both_forms():
    corpus = corpora.demo_corpus()
    rows = corpora.knowledge_test_rows(corpus, "test", 50)
    assert len(rows) == 50
    assert all(row["answers"][0] == row["output"] for row in rows)
    assert all(row["completion"] not in row["instruction"] for row in rows)
    assert len(corpora.knowledge_test_rows(corpus, "test")) == len(corpus.selected("test"))


# files and TFDS


def write(path, *rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


INSTRUCTION = {"instruction": "Name it.", "input": "", "output": "Näme\u2028two", "task_type": 1}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def test_list_and_lines_read_the_same(tmp_path):
    lines = write(tmp_path / "a.jsonl", INSTRUCTION, "", CHAT, {"text": "plain"}, "")
    listed = write(tmp_path / "a.json", json.dumps([INSTRUCTION, CHAT, {"text": "plain"}], indent=1))
    rows = instruction_files.read_instructions(lines)
    assert rows == instruction_files.read_instructions(listed)
    assert rows == [INSTRUCTION, CHAT | {"task_type": -1}, {"text": "plain", "task_type": -1}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", r"bad\.jsonl:2: malformed JSON line"),
        ("[1]", r"bad\.jsonl:2: a row must be a JSON object; got list"),
        ({"instruction": "x"}, r"bad\.jsonl:2: output is missing"),
        ({"instruction": 3, "output": "y"}, r"bad\.jsonl:2: instruction must be a string; got 3"),
        ({"instruction": "x", "output": "y", "task_type": 7}, r"bad\.jsonl:2: task_type must be .* got 7"),
        ({"messages": []}, r"bad\.jsonl:2: messages must be a non-empty list"),
        ({"messages": [{"role": "bot", "content": ""}]}, r"bad\.jsonl:2: role must be one of .* got 'bot'"),
        ({"messages": [{"role": "user", "content": "x"}]}, r"bad\.jsonl:2: .* at least one assistant"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        instruction_files.read_instructions(write(tmp_path / "bad.jsonl", INSTRUCTION, line))
    assert "\n" not in str(error.value)


def test_other_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="the data set is empty"):
        instruction_files.read_instructions(write(tmp_path / "none.jsonl", "", ""))
    with pytest.raises(ValueError, match="the data set is empty"):
        instruction_files.read_instructions(write(tmp_path / "none.json", "[]"))
    with pytest.raises(ValueError, match="no such data file"):
        instruction_files.read_instructions(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"list\.json:2: malformed JSON"):
        instruction_files.read_instructions(write(tmp_path / "list.json", "[", "{]"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe4"}\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl:2: not UTF-8"):
        instruction_files.read_instructions(tmp_path / "latin.jsonl")


def test_questions(tmp_path):
    path = write(
        tmp_path / "q.jsonl", {"question": "Who?", "answers": ["A", "B"]}, {"question": "x", "answer": "y"}
    )
    assert instruction_files.read_questions(path) == [
        {"question": "Who?", "answers": ["A", "B"]},
        {"question": "x", "answers": ["y"]},
    ]
    with pytest.raises(ValueError, match=r"q\.jsonl:1: answers must be a non-empty list"):
        instruction_files.read_questions(write(path, {"question": "Who?", "answers": []}))


def in_any_order(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_user_files_through_tfds(tmp_path):
    path = write(tmp_path / "my data.jsonl", INSTRUCTION, CHAT, {"text": "plain"})
    builder = builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path)
    rows = builders.rows(builders.prepare(builder))
    assert list(rows) == instruction_files.read_instructions(path)
    assert rows[-1] == rows[2]
    assert rows[:2] == [rows[0], rows[1]]
    # what is on disk needs no builder class
    again = tfds.builder_from_directory(builder.data_dir).as_data_source(split="train")
    assert list(builders.Rows(again)) == list(rows)
    # an edited file is another data set
    write(path, INSTRUCTION)
    edited = builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path)
    assert list(builders.rows(builders.prepare(edited))) == [INSTRUCTION]


def test_a_data_set_that_another_process_prepared_meanwhile(tmp_path):
    """Two runs that start together find nothing prepared, and one waits for the other."""
    path = write(tmp_path / "a.jsonl", INSTRUCTION)
    first, second = (
        builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path) for _ in range(2)
    )
    builders.prepare(first)
    assert list(builders.rows(builders.prepare(second))) == [INSTRUCTION]


def test_rows_keep_the_order_and_the_places_of_the_file(tmp_path):
    path = write(
        tmp_path / "a.jsonl", *[INSTRUCTION | {"output": str(n)} if n % 3 else "" for n in range(200)]
    )
    builder = builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path)
    rows = builders.rows(builders.prepare(builder))
    assert [row["output"] for row in rows] == [str(n) for n in range(200) if n % 3]
    assert [rows.place(i) for i in range(len(rows))] == [str(n + 1) for n in range(200) if n % 3]


def test_lone_surrogates_and_line_separators_survive_storing(tmp_path):
    talk = [
        {"role": "user", "content": "a\u2028b\x85c\x0cd \ud83d"},
        {"role": "assistant", "content": "\udc00 e"},
    ]
    escaped = write(tmp_path / "a.jsonl", {"messages": talk}, {"text": "\ud800"})
    builder = builders.InstructionFile(config=builders.FileConfig.of(escaped), data_dir=tmp_path)
    rows = builders.rows(builders.prepare(builder))
    assert rows[0]["messages"] == talk
    assert rows[1]["text"] == "\ud800"


def test_malformed_file_through_tfds_names_its_line(tmp_path):
    path = write(tmp_path / "bad.jsonl", INSTRUCTION, "{oops")
    builder = builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: malformed JSON line"):
        builders.prepare(builder)


def test_questions_through_tfds(tmp_path):
    path = write(tmp_path / "q.jsonl", {"question": "Who?", "answers": ["A", "B"]})
    builder = builders.QuestionFile(config=builders.FileConfig.of(path), data_dir=tmp_path)
    assert list(builders.rows(builders.prepare(builder), "test")) == [
        {"question": "Who?", "answers": ["A", "B"]}
    ]


def test_embedded_knowledge_through_tfds_and_grain(tmp_path):
    builder = builders.prepare(builders.JaxmoeKnowledge(config="demo", data_dir=tmp_path))
    corpus = corpora.demo_corpus()
    for split in ("train", "dev", "test"):
        rows = builders.rows(builder, split)
        assert {r["completion"] for r in rows} == {wk.completion(f) for f in corpus.selected(split)}
    shuffled = list(grain.MapDataset.source(rows).shuffle(seed=0))
    assert in_any_order(shuffled) == in_any_order(rows)
    assert shuffled != list(rows)
    registered = tfds.data_source("jaxmoe_knowledge/demo", split="dev", data_dir=tmp_path)
    assert len(registered) == len(corpus.selected("dev"))


def test_embedded_text_and_instructions_through_tfds(tmp_path):
    small = builders.CorpusBuilderConfig(
        name="small",
        corpus=corpora.demo_corpus(facts=5, exposures=2, skill_texts=6),
        train_rows=16,
        test_rows=7,
    )
    text = builders.prepare(builders.JaxmoePretraining(config=small, data_dir=tmp_path))
    assert in_any_order(builders.rows(text)) == in_any_order(
        {"text": t} for t in corpora.pretraining_texts(small.corpus)
    )
    instructions = builders.prepare(builders.JaxmoeInstructions(config=small, data_dir=tmp_path))
    assert in_any_order(builders.rows(instructions)) == in_any_order(
        corpora.instruction_rows(small.corpus, 16)
    )
    assert in_any_order(builders.rows(instructions, "dev")) == in_any_order(corpora.task_test_rows("dev", 7))


def test_preparing_prints_nothing(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", INSTRUCTION)
    builders.prepare(builders.InstructionFile(config=builders.FileConfig.of(path), data_dir=tmp_path))
    assert capsys.readouterr().out == ""


@pytest.mark.shared
def test_the_original_instruction_file(shared):
    rows = instruction_files.read_instructions(shared / "data" / "loramoe" / "tiny_train.json")
    assert collections.Counter(r["task_type"] for r in rows) == {0: 1265, 1: 300}


def test_the_version_follows_the_files_that_make_the_data(tmp_path):
    (tmp_path / "a.py").write_text("one = 1\n")
    first = builders.data_version(tmp_path)
    assert builders.data_version(tmp_path) == first
    (tmp_path / "a.py").write_text("one = 2\n")
    second = builders.data_version(tmp_path)
    (tmp_path / "b.csv").write_text("")
    assert len({first, second, builders.data_version(tmp_path)}) == 3
    assert re.fullmatch(r"1\.0\.\d+", first)
