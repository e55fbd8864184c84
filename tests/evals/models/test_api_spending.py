"""What is spent and set aside by accounts that keep one file."""

import json
import math

import pytest

from evals.faithfulness.run_card import cost_told
from evals.models.api_spending import CostCeilingError, Spending


def account(ceiling: float | None = None) -> Spending:
    """1000 tokens are 1."""
    return Spending(ceiling, 1000.0, 0.0)


def test_what_one_account_sets_aside_counts_for_the_others_of_the_file(tmp_path):
    respondent, judge, other = account(5.0), account(5.0), account(5.0)
    respondent.keep(tmp_path / "usage.json")
    judge.keep(tmp_path / "usage.json")
    other.keep(tmp_path / "other.json")
    with respondent.promised(3000, 0):
        with pytest.raises(CostCeilingError), judge.promised(3000, 0):
            pass
        with judge.promised(2000, 0), other.promised(5000, 0):
            pass
    with judge.promised(5000, 0):
        pass


def test_what_is_spent_beside_an_account_counts_and_stays_where_it_is(tmp_path):
    first, second = tmp_path / "usage.json", tmp_path / "second" / "usage.json"
    second.parent.mkdir()
    mine, theirs = account(5.0), account()
    theirs.keep(second, [first])
    theirs.count(3000, 0)
    mine.keep(first, [second])
    # as an administration does that knows nothing of other models
    mine.keep(first)
    with mine.promised(2000, 0):
        mine.count(1000, 0)
    # what others spend meanwhile counts too
    theirs.count(500, 0)
    with pytest.raises(CostCeilingError, match=r"spent 4.5 in 3 requests"), mine.promised(1000, 0):
        pass
    assert json.loads(first.read_text())["cost"] == 1
    assert json.loads(second.read_text())["cost"] == 3.5


def test_the_cost_of_several_folders_is_told_in_one_sum(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    assert cost_told(*folders) == "no server"
    for folder in folders[1:]:
        folder.mkdir()
        own = account()
        own.keep(folder / "usage.json")
        own.count(1500, 20)
    assert (
        cost_told(*folders[:2]) == "1.5 for 1 requests (1500 prompt and 20 completion tokens), all sessions"
    )
    assert cost_told(*folders) == (
        "3 for 2 requests (3000 prompt and 40 completion tokens), all sessions, 2 models"
    )
    (folders[1] / "usage.json").write_text("{}{")
    with pytest.raises(ValueError, match="no record of what was spent"):
        cost_told(*folders)


@pytest.mark.parametrize(
    "amounts", [(math.nan, 1.0, 0.0), (1.0, math.nan, 0.0), (1.0, math.inf, 0.0), (-1.0, 1.0, 0.0)]
)
def test_an_amount_that_is_never_reached_is_refused(amounts):
    with pytest.raises(ValueError, match="must be a finite amount, 0 or more; got"):
        Spending(*amounts)
