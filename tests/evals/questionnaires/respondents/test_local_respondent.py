"""A tiny real model answers: shared beginnings change nothing, calibrations do what they say."""

import numpy as np
import pytest

from evals.models import shared_prefix
from evals.models.local_model import LocalModel
from evals.models.prefix_groups import fine_bucket
from evals.questionnaires.administration import administer
from evals.questionnaires.design import Design, battery, questions
from evals.questionnaires.instrument import load_instrument
from evals.questionnaires.respondents.local_respondent import ScoringRespondent, WritingRespondent, logits
from evals.questionnaires.respondents.option_scores import softmax
from evals.questionnaires.wording import composed_personas, named_templates
from jaxmoe.language_model import LanguageModel
from jaxmoe.model import params
from jaxmoe.model.config import ModelConfig
from jaxmoe.tokenizer import train_bpe
from tests.tiny_checkpoints import in_double
from tests.tolerances import DOUBLE

pytestmark = pytest.mark.usefixtures("in_double_precision")


@pytest.fixture(scope="module")
def asked():
    design = Design(
        named_templates(["form", "interview"]), ("forward", "reversed"), personas=tuple(composed_personas(2))
    )
    return list(questions(battery(load_instrument("gad_7")), design))


@pytest.fixture(scope="module")
def model(in_double_precision, asked):
    tokenizer = train_bpe([question.prompt for question in asked[::7]] * 2, 500)
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_positions=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    weights = params.split(params.build(config, seed=0, std=0.5), "none")
    lm = in_double(LanguageModel(config, weights, params.single_device_mesh()))
    return LocalModel(lm, tokenizer, batch_size=4)


def test_another_revision_under_the_same_name_does_not_resume(tmp_path):
    class Model:
        def generate(self, prompts, *_, **__):
            return ["A"] * len(prompts)

    gad = battery(load_instrument("gad_7"))
    administer(WritingRespondent(Model(), base="m at commit 1"), [gad], Design(), tmp_path)
    with pytest.raises(ValueError, match="base and revision is 'm at commit 1' there, 'm at commit 2'"):
        administer(WritingRespondent(Model(), base="m at commit 2"), [gad], Design(), tmp_path)
    assert ScoringRespondent(Model(), base="m").settings["base and revision"] == "m"


@pytest.mark.parametrize("scored", ["label", "words"])
def test_shared_beginnings_leave_probabilities_as_they_are(model, asked, scored):
    shared = ScoringRespondent(model, scored=scored, calibrated=True).probabilities(asked)
    alone = ScoringRespondent(model, scored=scored, calibrated=True, share_prefixes=False).probabilities(
        asked
    )
    np.testing.assert_allclose(np.array(shared), np.array(alone), atol=DOUBLE)
    np.testing.assert_allclose(np.array(shared).sum(axis=1), 1, rtol=DOUBLE)
    assert np.ptp(np.array(shared)[:, 0]) > 0.001  # the model does not answer all alike


def test_unlike_texts_share_nothing_and_are_scored_all_the_same(model):
    long = " nothing" + " and things" * 12
    prompts = ["Worry about", "Say nothing", "Worry about", "", "Worry about", "Worry"]
    ends = [" things", " at all", " nothing", "A", long, " about" + long]
    ours = shared_prefix.logprob(model, prompts, ends)
    plain = model.logprob(prompts, ends)
    np.testing.assert_allclose(ours.logprobs, plain.logprobs, atol=DOUBLE)
    assert ours.tokens == plain.tokens


def test_short_texts_fill_blocks():
    """Longest first, each where there is room: 6 and 4, 5 and 5, 3; the empty one lies nowhere."""
    assert shared_prefix._packed([5, 3, 0, 6, 4, 5], 10) == [[3, 4], [0, 5], [1]]
    assert [fine_bucket(n, 8) for n in (1, 9, 15, 17, 33, 205)] == [8, 10, 16, 20, 40, 224]


def test_length_and_context_calibration_by_hand():
    sums, tokens, letters = np.array([[-2.0, -6.0]]), np.array([[1.0, 3.0]]), np.array([[4.0, 12.0]])
    np.testing.assert_allclose(softmax(logits(sums, tokens, letters, "tokens", None)), [[0.5, 0.5]])
    np.testing.assert_allclose(logits(sums, tokens, letters, "characters", None), [[-0.5, -0.5]])
    # an option that is three times as probable with nothing asked has to be three times as probable to tie
    empty = np.log(np.array([[0.75, 0.25], [0.75, 0.25]]))
    tied = logits(np.log(np.array([[0.6, 0.2]])), tokens, letters, "none", empty)
    np.testing.assert_allclose(softmax(tied), [[0.5, 0.5]])


def test_drawn_answers_follow_the_probabilities_and_the_seed(model, asked):
    drawn = ScoringRespondent(model, choose="drawn")
    assert not drawn.repeats_itself
    first, again = dict(drawn.answer(asked)), dict(drawn.answer(asked))
    assert first == again
    sure = dict(ScoringRespondent(model).answer(asked))
    assert all(sure[n].probabilities[sure[n].position] == max(sure[n].probabilities) for n in sure)
    assert any(first[n].position != sure[n].position for n in sure)


def test_a_design_compiles_few_programs(model, asked):
    shared_prefix._packed_scores.clear_cache()
    ScoringRespondent(model).probabilities(asked)
    assert shared_prefix._packed_scores._cache_size() <= 3


def test_written_answers_are_parsed_and_garbage_is_refused(model, asked):
    found = dict(WritingRespondent(model, temperature=1.0, max_new_tokens=6).answer(asked[:6]))
    assert set(found) == set(range(6))
    assert all((answer.refusal == "") == np.isfinite(answer.value) for answer in found.values())


def test_unknown_settings_are_named(model):
    with pytest.raises(ValueError, match="length must be one of none, tokens, characters; got 'words'"):
        ScoringRespondent(model, length="words")


def test_an_administration_of_a_model_makes_a_table(model):
    table = administer(ScoringRespondent(model, "tiny"), [battery(load_instrument("gad_7"))], Design())
    assert table["response"].isin([0, 1, 2, 3]).all()
    assert (table["probabilities"].map(sum) - 1).abs().max() < DOUBLE
    values = table["probabilities"].map(lambda p: float(np.dot(p, [0, 1, 2, 3])))
    np.testing.assert_allclose(table["expected"], values, rtol=DOUBLE)
