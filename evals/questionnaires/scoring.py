"""From answers to scores: checked, keyed, averaged over a scale, compared with norms.

A responses table is long (columns respondent, item, response; one row per answer) or wide (one row per
respondent, one column per item). Not covered: reading answers from a model's text (administer).
"""

import difflib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from evals.questionnaires.instrument import Instrument, Norm

RESPONDENT, ITEM, RESPONSE = "respondent", "item", "response"


class Answers(NamedTuple):
    """Checked answers as given (not yet reversed): [respondents x items of the instrument], NaN missing."""

    table: pd.DataFrame
    absent: tuple[str, ...]


def tabulate(
    responses: pd.DataFrame, instrument: Instrument, *, respondent: str | Sequence[str] = RESPONDENT
) -> Answers:
    """Checks a long or wide table of responses and lays it out as respondents x items.

    Args:
      responses: numbers or option labels; empty cells are missing. Open answers are texts (or True and False
        if already marked) and score 1 if right, 0 if wrong.
      respondent: the column or columns that tell respondents apart. A wide table may lack them (its index
        serves instead).
    Returns: Answers; absent names the items of the instrument that the table does not have.
    Raises: ValueError for unknown items, an item answered twice, answers out of range or unreadable, and
      cells that hold lists or objects.
    """
    frame = pd.DataFrame(responses)
    keys = [respondent] if isinstance(respondent, str) else list(respondent)
    refuse_nested(frame, keys)
    if "instrument" in frame.columns:
        frame = pd.DataFrame(frame[frame["instrument"] == instrument.name])
    wide = not {ITEM, RESPONSE} <= set(frame.columns)
    if wide:
        present = [key for key in keys if key in frame.columns]
        frame = frame.set_index(present) if present else frame.rename_axis(index=RESPONDENT)
    elif missing := [key for key in keys if key not in frame.columns]:
        raise ValueError(
            f"the responses have no column {missing[0]!r} to tell respondents apart; "
            f"columns are {', '.join(map(str, frame.columns))}; give another: --respondent COLUMN"
        )
    known = [item.id for item in instrument.items]
    named = pd.Index(frame.columns if wide else frame[ITEM].unique())
    if unknown := [name for name in named if name not in set(known)]:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its items are {known[0]} .. {known[-1]}"
        raise ValueError(f"unknown item {unknown[0]!r} for {instrument.name}; {hint}")
    if wide:
        if repeated := named[named.duplicated()].tolist():
            raise ValueError(f"item {repeated[0]!r} has two columns; every item needs one")
        table = frame
    else:
        rows = frame.set_index([*keys, ITEM])[RESPONSE]
        _refuse_duplicates(rows.index)
        table = pd.DataFrame(rows.unstack(ITEM))
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"respondent {twice!r} has two rows; every respondent needs one")
    absent = tuple(item for item in known if item not in table.columns)
    # an absent item is a column without answers
    columns = {item: pd.Series(table.get(item, np.nan), index=table.index) for item in known}
    numbers = {item: _numbers(column, instrument, item) for item, column in columns.items()}
    return Answers(pd.DataFrame(numbers, index=table.index), absent)


def refuse_nested(frame: pd.DataFrame, keys: Sequence[str] = (RESPONDENT,)) -> None:
    """Checks that every cell that is read is a single value.

    Args:
      frame: a table of responses. A long one may have more columns, whose cells may be anything: a model's
        answers come with the probabilities of the options.
      keys: the columns that tell respondents apart.
    Raises: ValueError for a cell that is a list, an array or an object, which JSON and Parquet may hold.
    """
    long = {ITEM, RESPONSE} <= set(frame.columns)
    for name, column in frame.items():
        if column.dtype != object or (long and name not in {*keys, ITEM, RESPONSE, "instrument"}):
            continue
        for value in column.tolist():
            if not pd.api.types.is_hashable(value):
                got = repr(value)
                got = " ".join((got if len(got) <= 80 else f"{got[:80]} ..").split())
                raise ValueError(f"every cell must be a text or a number; column {name!r} holds {got}")


def _refuse_duplicates(index: pd.Index) -> None:
    if index.has_duplicates:
        *who, item = index[index.duplicated()][0]
        name = ", ".join(map(str, who))
        raise ValueError(f"respondent {name!r} answered item {item!r} twice; keep one answer")


def _numbers(column: pd.Series, instrument: Instrument, item_id: str) -> np.ndarray:
    """One item's answers as numbers within its range, NaN where missing."""
    texts = column.astype(str).str.strip().str.casefold()
    given = np.asarray(pd.notna(column)) & np.asarray(texts != "")
    if not instrument.options:
        right = {_plain(answer) for answer in instrument.item(item_id).correct}
        marks = [
            answer if isinstance(answer, bool) else _plain(answer) in right for answer in column.tolist()
        ]
        return np.where(given, np.array(marks, np.float64), np.nan)
    labels = {option.label.casefold(): float(option.value) for option in instrument.options}
    read = np.asarray(texts.map(labels), np.float64)
    numbers = np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
    numbers = np.where(np.isnan(numbers), read, numbers)
    wrong = given & ~np.isin(numbers, list(labels.values()))
    if wrong.any():
        what = column[wrong].tolist()[0]
        raise ValueError(
            f"response {what!r} to item {item_id!r} of {instrument.name} is none of its answers "
            f"({instrument.low} to {instrument.high}, or their labels; leave refusals empty)"
        )
    return np.where(given, numbers, np.nan)


def _plain(answer: object) -> str:
    """An open answer without case, outer blanks and full stop; whole numbers without decimals."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    return str(answer).strip().rstrip(".").casefold()


def keyed_responses(
    responses: pd.DataFrame | Answers,
    instrument: Instrument,
    scale: str | None = None,
    *,
    respondent: str | Sequence[str] = RESPONDENT,
) -> pd.DataFrame:
    """Answers in the direction of their scales, low + high − x where the key is −1.

    Args:
      responses: as `score` takes them, or checked already.
      instrument: whose items they answer.
      scale: only the items of this scale or facet; all items if None.
      respondent: the column or columns that tell respondents apart.
    Returns: respondents x items, NaN where missing: what evals.psychometrics takes.
    Raises: ValueError as `tabulate`, or for an unknown scale.

    Example:
      >>> import pandas as pd
      >>> from evals.questionnaires import keyed_responses, load_instrument
      >>> mini = load_instrument("mini_ipip")
      >>> items = [item.id for item in mini.items_of("E")]
      >>> answers = pd.DataFrame([[5, 5, 5, 5]], columns=items)
      >>> keyed_responses(answers, mini, "E").to_numpy().tolist()
      [[5.0, 1.0, 5.0, 1.0]]
    """
    answers = (
        responses
        if isinstance(responses, Answers)
        else tabulate(responses, instrument, respondent=respondent)
    )
    items = instrument.items if scale is None else instrument.items_of(instrument.scale(scale).name)
    chosen = answers.table[[item.id for item in items]]
    reversed_ = np.array([item.key == -1 for item in items])
    values = np.where(reversed_, instrument.low + instrument.high - chosen.to_numpy(), chosen.to_numpy())
    return pd.DataFrame(values, index=chosen.index, columns=chosen.columns)


def score(
    responses: pd.DataFrame | Answers,
    instrument: Instrument,
    *,
    min_answered: float = 0.5,
    norm_group: str | None = None,
    ipsatize: bool = False,
    respondent: str | Sequence[str] = RESPONDENT,
) -> pd.DataFrame:
    """Scores every respondent on every scale and facet.

    mean: the mean of the keyed items answered; sum: mean times the number of items, so that both represent
    the whole scale; z = (score − norm mean)/norm SD in the norm's metric; t = 50 + 10 z;
    percentile: 100 Φ(z), as if the norm group were normal.

    Args:
      responses: long (respondent, item, response) or wide (one row per respondent, one column per item).
      instrument: whose items they answer; rows of other instruments are left out where a column names them.
      min_answered: the least share of a scale's items that must be answered; below it, the score is NaN.
      norm_group: one of instrument.groups, named in the column norm_group; without it, no z, t, percentile.
      ipsatize: subtracts the respondent's own mean over all keyed items (as is done for values).
      respondent: the column or columns that tell respondents apart.
    Returns: a frame with a row for each respondent and scale: respondent column(s), scale, parent,
      n_items, n_answered, mean, sum, norm_group, z, t, percentile, reason (why NaN; empty otherwise).
    Raises: ValueError as `tabulate`; for an unknown norm group; for min_answered outside (0, 1].

    Example:
      >>> import pandas as pd
      >>> from evals.questionnaires import load_instrument, score
      >>> gad = load_instrument("gad_7")
      >>> answers = pd.DataFrame([[0, 1, 2, 1, 0, 1, 2]], columns=[item.id for item in gad.items])
      >>> score(answers, gad)[["scale", "n_answered", "sum"]]
        scale  n_answered  sum
      0   GAD           7  7.0
    """
    if not 0 < min_answered <= 1:
        raise ValueError(f"min_answered must lie in (0, 1]; got {min_answered} (0.5 asks for half the items)")
    norms = _norms(instrument, norm_group)
    if norms and ipsatize:
        raise ValueError("norms are for scores as they are; leave out either norm_group or ipsatize")
    answers = (
        responses
        if isinstance(responses, Answers)
        else tabulate(responses, instrument, respondent=respondent)
    )
    keyed = keyed_responses(answers, instrument)
    own_mean = _row_means(keyed.to_numpy()) if ipsatize else np.zeros(len(keyed))
    parts = []
    for scale in instrument.scales:
        ids = [item.id for item in instrument.items_of(scale.name)]
        if not ids:
            continue
        values = keyed[ids].to_numpy()
        answered = (~np.isnan(values)).sum(axis=1)
        enough = answered >= max(1, math.ceil(min_answered * len(ids) - 1e-9))
        mean = np.where(enough, _row_means(values) - own_mean, np.nan)
        absent = [item for item in ids if item in answers.absent]
        why = f"answered fewer than {min_answered:.0%} of {len(ids)} items"
        if len(absent) == len(ids):
            why = "none of its items was asked"
        part = keyed.index.to_frame(index=False)
        part = part.assign(
            scale=scale.name,
            parent=scale.parent or "",
            n_items=len(ids),
            n_answered=answered,
            mean=mean,
            sum=mean * len(ids),
            **_against(norms.get(scale.name), mean, len(ids)),
            reason=np.where(enough, "", why),
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _row_means(values: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(values)).sum(axis=1)
    return np.divide(np.nansum(values, axis=1), counts, out=np.full(len(values), math.nan), where=counts > 0)


def _norms(instrument: Instrument, group: str | None) -> dict[str, Norm]:
    if group is None:
        return {}
    found = {norm.scale: norm for norm in instrument.norms if norm.group == group}
    if not found:
        groups = ", ".join(instrument.groups) or "none"
        raise ValueError(f"{instrument.name} has no norms for {group!r}; it has {groups}")
    return found


def _against(norm: Norm | None, mean: np.ndarray, n_items: int) -> dict[str, npt.ArrayLike]:
    blank = np.full(len(mean), math.nan)
    if norm is None:
        return {"norm_group": "", "z": blank, "t": blank, "percentile": blank}
    scale = (norm.n_items or n_items) if norm.metric == "sum" else 1
    z = (mean * scale - norm.mean) / norm.sd
    return {"norm_group": norm.group, "z": z, "t": t_score(z), "percentile": 100 * stats.norm.cdf(z)}


def t_score(z: npt.ArrayLike) -> np.ndarray:
    """T = 50 + 10 z, z in standard deviations of the norm group."""
    return 50 + 10 * np.asarray(z, np.float64)
