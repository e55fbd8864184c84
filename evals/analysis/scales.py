"""Analyses of single scales: items, reliability, the graded response model, agreement, retest."""

import numpy as np
import pandas as pd

from evals.analysis.answer_table import AnswerTable
from evals.analysis.results import ResultTable
from evals.analysis.settings import AnalysisSettings
from evals.psychometrics.agreement import icc_table, krippendorff_alpha
from evals.psychometrics.estimate import Estimate, as_matrix, complete_cases
from evals.psychometrics.item_analysis import item_statistics
from evals.psychometrics.item_response import GradedResponse, graded_response, item_information
from evals.psychometrics.measurement_error import lengthening, retest, standard_error_of_measurement
from evals.psychometrics.polychoric_correlations import ordinal_alpha
from evals.psychometrics.reliability import cronbach_alpha, reliability_table
from evals.psychometrics.split_halves import split_half

# what a scale for groups should reach (Nunnally 1978)
WANTED_RELIABILITY = 0.8
# rows shown of a table with one row per respondent
FEW_ROWS = 8


def estimate_row(found: Estimate) -> dict[str, object]:
    """An estimate as columns of a table."""
    return found._asdict()


def items(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """How well each item goes with the rest of its scale.

    Args:
      table: the answers.
      settings: confidence is used.
    Returns: one table, one row per scale and item, with its key and share of missing answers.
    """
    parts, notes = [], []
    for name, keys in table.scales.items():
        keyed = table.keyed(name)
        found = item_statistics(keyed, confidence=settings.confidence)
        notes += [f"{name}: {found.reason}."] if found.reason else []
        part = found.table.reset_index(names="item")
        part.insert(0, "scale", name)
        part.insert(2, "key", [keys[item] for item in part["item"]])
        part["missing"] = [float(np.isnan(keyed[item].to_numpy()).mean()) for item in part["item"]]
        part["n"] = found.n
        parts.append(part)
    note = (
        "An item that hardly goes with the rest (r rest below .30) or without which α rises is a candidate "
        "for "
        "another scale, or was not reversed. Means are of reversed answers where the key is −1."
    )
    return [ResultTable("items", "Items", pd.concat(parts, ignore_index=True), " ".join([note, *notes]))]


def reliability(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """α, ordinal α, ω, Guttman's λ1 to λ6, split halves and the error of a score, for each scale.

    Args:
      table: the answers.
      settings: confidence, bootstrap and seed are used.
    Returns: one table, one row per scale and statistic: value, low, high, n, reason.
    """
    rows = []
    for name in table.scales:
        keyed = table.keyed(name)
        found = reliability_table(
            keyed, confidence=settings.confidence, n_bootstrap=settings.bootstrap, seed=settings.seed
        )
        own = {str(key): dict(row) for key, row in found.iterrows()}
        own["alpha_ordinal"] = estimate_row(ordinal_alpha(keyed))
        halves = split_half(
            keyed, confidence=settings.confidence, n_bootstrap=settings.bootstrap, seed=settings.seed
        )
        own["split_half_odd_even"] = estimate_row(halves.spearman_brown)
        alpha = cronbach_alpha(keyed, confidence=settings.confidence)
        sd = (
            float(complete_cases(as_matrix(keyed)).mean(axis=1).std(ddof=1))
            if len(keyed.dropna()) > 1
            else np.nan
        )
        own["sem"] = estimate_row(standard_error_of_measurement(sd, alpha))
        if 0 < alpha.value < 1:
            needed = lengthening(alpha.value, WANTED_RELIABILITY) * keyed.shape[1]
            own["items_for_.80"] = estimate_row(Estimate(float(np.ceil(needed - 1e-9)), n=alpha.n))
        rows += [{"scale": name, "statistic": statistic, **row} for statistic, row in own.items()]
    note = (
        "alpha: Cronbach's, Feldt's interval. alpha_ordinal: of polychoric correlations. omega_total: "
        "McDonald's, one "
        "factor; omega_hierarchical: of the general factor among three. lambda6: Guttman's; lambda4, beta: "
        "best and "
        "worst split. sem: standard error of a scale mean, in answer points. items_for_.80: items of the "
        "same "
        "kind that α of .80 takes (Spearman-Brown)."
    )
    return [ResultTable("reliability", "Reliability", pd.DataFrame(rows), note)]


def grm(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """The graded response model of each scale: slopes, thresholds, fit, and each respondent's trait.

    Args:
      table: the answers; a person without a readable answer does not count.
      settings: unused.
    Returns: items, fit, precision along the trait, and traits (expected a posteriori, standard normal).
    """
    parts, fits, traits, information = [], [], [], []
    for name in table.scales:
        found = graded_response(table.keyed(name))
        information += _information(name, found)
        parts.append(found.items.reset_index(names="item").assign(scale=name))
        fits.append(
            {
                "scale": name,
                "marginal_reliability": found.reliability,
                "log_likelihood": found.log_likelihood,
                "aic": found.aic,
                "bic": found.bic,
                "n": found.n,
                "converged": found.converged,
                "reason": found.reason,
            }
        )
        traits.append(found.traits.reset_index(drop=True).assign(scale=name, respondent=_names(table)))
    joined = pd.concat(parts, ignore_index=True)
    return [
        ResultTable(
            "grm_items",
            "Graded response model: items",
            _first(joined, "scale", "item"),
            "discrimination: how sharply an item tells high from low traits (above 1.35 high). b1, b2, ..: "
            "the "
            "trait, in SDs, at which the next answer becomes as likely as not.",
        ),
        ResultTable("grm_fit", "Graded response model: fit", pd.DataFrame(fits)),
        ResultTable(
            "grm_information",
            "Graded response model: precision along the trait",
            pd.DataFrame(information, columns=pd.Index(["scale", "trait", "information", "se"])),
            "information: of all items together; se: of a trait measured by them, in SDs.",
        ),
        ResultTable(
            "grm_traits",
            "Graded response model: respondents",
            _first(pd.concat(traits, ignore_index=True), "scale", "respondent"),
            "trait: expected a posteriori, in SDs; se: its standard error.",
            FEW_ROWS,
        ),
    ]


def _information(scale: str, found: GradedResponse) -> list[dict[str, object]]:
    """The information of a scale's items at traits from −2 to 2 SDs."""
    if found.reason and not found.converged:
        return []
    traits, total = np.arange(-2.0, 3.0), np.zeros(5)
    for row in found.items.to_dict("records"):
        thresholds = [float(v) for k, v in row.items() if str(k)[0] == "b" and not np.isnan(float(v))]
        if thresholds and np.isfinite(float(row["discrimination"])):
            total += item_information(traits, float(row["discrimination"]), thresholds)
    return [
        {
            "scale": scale,
            "trait": trait,
            "information": value,
            "se": 1 / np.sqrt(value) if value > 0 else np.nan,
        }
        for trait, value in zip(traits.tolist(), total.tolist(), strict=True)
    ]


def _names(table: AnswerTable) -> list[str]:
    return ["/".join(map(str, who)) if isinstance(who, tuple) else str(who) for who in table.raw.index]


def _first(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    rest = [name for name in table.columns if name not in names]
    return pd.DataFrame(table, columns=pd.Index([*names, *rest]))


def agreement(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """How far columns that rate the same thing agree: six intraclass correlations and Krippendorff's α.

    Args:
      table: for each scale, rows are what is rated, columns are raters, runs or occasions.
      settings: level, confidence, bootstrap and seed are used.
    Returns: one table, one row per scale and coefficient.
    """
    rows = []
    for name in table.scales:
        ratings = table.keyed(name)
        for kind, row in icc_table(ratings, confidence=settings.confidence).iterrows():
            found = {"value" if key == "icc" else key: value for key, value in dict(row).items()}
            rows.append({"scale": name, "coefficient": str(kind), **found})
        alpha = krippendorff_alpha(
            ratings,
            settings.level,
            confidence=settings.confidence,
            n_bootstrap=settings.bootstrap,
            seed=settings.seed,
        )
        label = f"Krippendorff's alpha ({settings.level})"
        rows.append({"scale": name, "coefficient": label, **estimate_row(alpha)})
    note = (
        "Each row of the table is something rated, each column a rater, a run or an occasion. ICC2 is "
        "absolute "
        "agreement, ICC3 consistency; k: of the columns' mean. Krippendorff's α stands gaps, and should "
        "reach .80."
    )
    return [ResultTable("agreement", "Agreement", pd.DataFrame(rows), note)]


def retested(table: AnswerTable, settings: AnalysisSettings) -> list[ResultTable]:
    """Test-retest reliability of each scale: the same respondents in a second table.

    Args:
      table: the first answers.
      settings: second holds the later answers, on the same scales; confidence is used.
    Returns: one table, one row per scale and statistic.
    Raises: ValueError where there is no second table, or nobody is in both.
    """
    if settings.second is None:
        raise ValueError("retest needs --second, a table with the same items at another time")
    shared = table.raw.index.intersection(settings.second.raw.index)
    if not len(shared):
        raise ValueError("no respondent of the first table is in the second (--respondent names the column)")
    rows = []
    for name in table.scales:
        first, second = (one.score(name).loc[shared].to_numpy() for one in (table, settings.second))
        found = retest(first, second, confidence=settings.confidence)
        for statistic, value in found._asdict().items():
            if isinstance(value, Estimate):
                rows.append({"scale": name, "statistic": statistic, **estimate_row(value)})
            elif isinstance(value, tuple):
                ends = {"low": value[0], "high": value[1], "n": found.n}
                rows.append({"scale": name, "statistic": "limits_of_agreement", **ends})
            elif statistic != "n":
                rows.append({"scale": name, "statistic": statistic, "value": float(value), "n": found.n})
    note = (
        "r: correlation; agreement and consistency: ICC(A,1), ICC(C,1). smallest_change: the least "
        "difference of "
        "one respondent's scores that is beyond error. bias: first minus second."
    )
    return [ResultTable("retest", "Test and retest", pd.DataFrame(rows), note)]
