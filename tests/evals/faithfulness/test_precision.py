"""What a design can tell, before anything is asked."""

import pytest
from typer.testing import CliRunner

from evals.administer import app
from evals.faithfulness.precision import expected_precision, told
from evals.psychometrics import alpha_width, correlation_width
from evals.questionnaires import load_instrument


def test_widths_are_those_of_the_closed_forms_at_the_thresholds():
    table = expected_precision([load_instrument("ipip_neo_120")], 16).set_index("statistic")
    assert table.loc["α", "width"] == pytest.approx(alpha_width(0.7, 24, 16))
    assert table.loc["convergent r", "width"] == pytest.approx(correlation_width(0.5, 16))
    assert table.loc["ω and λ6 defined", "needed"] == 25


def test_sixteen_persons_are_told_what_they_lack_and_two_hundred_are_not():
    neo = [load_instrument("ipip_neo_120")]
    few = told(expected_precision(neo, 16), 16)
    assert "  ω and λ6 of 24 items: undefined; they need at least 25 persons" in few
    many = told(expected_precision(neo, 200), 200)
    assert not any("undefined" in line for line in many)
    assert told(expected_precision(neo, 1), 1)[0].startswith("1 person: nothing varies")


def test_administer_tells_before_it_asks(tmp_path):
    folder = tmp_path / "answers"
    command = [str(folder), "--instrument", "mini_ipip", "--personas", "graded-64", "--plan"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert not folder.exists()
    # 20 items x 64 persons x all templates x 2 option orders
    assert "questions" in result.stderr
    assert "a width of 0.2 needs" in result.stderr


def test_verdicts_and_report_have_one_alpha():
    from evals.faithfulness import FaithfulnessStudy
    from evals.questionnaires import Design, administer, battery, graded_personas, simulated_respondent

    mini = load_instrument("mini_ipip")
    people = tuple(graded_personas(40))
    design = Design(option_orders=("forward", "reversed"), personas=people)
    study = FaithfulnessStudy([mini], [battery(mini)], design, nulls=())
    table = administer(simulated_respondent("faithful"), mini, design)
    # with gaps too
    table.loc[table.index % 17 == 0, ["response", "refusal"]] = [float("nan"), "refused"]
    report = study.report({"one": table}, {})
    checks = report.assessments["one"].checks
    checks = checks[checks["statistic"] == "alpha"].set_index("scale")
    shown = report.reliability[report.reliability["statistic"] == "alpha"].set_index("scale")
    for scale in ("E", "A", "C", "N", "I"):
        assert shown.loc[scale, "value"] == pytest.approx(checks.loc[scale, "estimate"], abs=1e-12)
        assert shown.loc[scale, "low"] == pytest.approx(checks.loc[scale, "low"], abs=1e-12)
