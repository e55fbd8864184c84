"""What is spent and set aside by accounts that keep one file."""

import pytest

from evals.models.api_spending import CostCeilingError, Spending


def test_what_one_account_sets_aside_counts_for_the_others_of_the_file(tmp_path):
    # 1000 tokens are 1
    respondent, judge, other = (Spending(ceiling, 1000.0, 0.0) for ceiling in (5.0, 5.0, 5.0))
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
