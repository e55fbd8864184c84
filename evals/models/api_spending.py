"""What a server costs: tokens are counted, priced and recorded, and requests stop before a ceiling."""

import json
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evals.models.api_numbers import as_number

# one lock for all accounts, since several may share a ledger
_LOCK = threading.Lock()


class CostCeilingError(ValueError):
    """The next request might pass the ceiling on cost."""


@dataclass
class Usage:
    """What was spent: answered requests, tokens, and their price in the currency of the given prices."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass
class _SetAside:
    """The most that requests still on their way may cost."""

    cost: float = 0.0


def read_usage(path: Path) -> Usage:
    """What was spent according to a saved account.

    Args:
      path: of the file.
    Returns: what is written there; nothing spent if there is no file.
    Raises: ValueError if the file is not such an account.
    """
    if not path.exists():
        return Usage()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        usage = Usage(**told)
        # with NaN no sum would be above a ceiling
        if odd := [name for name, value in told.items() if not 0 <= as_number(value) < math.inf]:
            raise ValueError(f"{odd[0]} must be a finite number, at least 0")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no record of what was spent ({error}); mend or delete it") from None
    return usage


def total(parts: Iterable[Usage]) -> Usage:
    """What several accounts spent together.

    Args:
      parts: one per account.
    Returns: the sums.
    """
    of = Usage()
    for one in parts:
        of.requests += one.requests
        of.prompt_tokens += one.prompt_tokens
        of.completion_tokens += one.completion_tokens
        of.cost += one.cost
    return of


# by file: whoever keeps it may have requests on their way
_SET_ASIDE: dict[Path, _SetAside] = {}


class Spending:
    """The account of one server; several threads may spend from it.

    Accounts that keep the same file share what is spent and set aside, each with its own prices.

    Args:
      ceiling: the most that may be spent; None for no limit.
      prompt_price, completion_price: per million tokens.

    Attributes:
      usage: what was spent so far.

    Raises: ValueError for a ceiling without prices, or an amount that is negative or not finite.
    """

    def __init__(self, ceiling: float | None, prompt_price: float, completion_price: float):
        told = {"cost_ceiling": ceiling, "prompt_price": prompt_price, "completion_price": completion_price}
        for name, amount in told.items():
            if amount is not None and not 0 <= amount < math.inf:  # NaN would never be reached
                raise ValueError(f"{name} must be a finite amount, 0 or more; got {amount}")
        if ceiling is not None and not (prompt_price > 0 or completion_price > 0):
            raise ValueError(
                f"a cost ceiling of {ceiling} needs prompt_price and completion_price (for a million tokens)"
            )
        self.usage = Usage()
        self._ceiling, self._prices = ceiling, (prompt_price, completion_price)
        self._aside = _SetAside()
        self._ledger: Path | None = None
        self._beside: tuple[Path, ...] = ()

    def keep(self, path: Path, beside: Sequence[Path] = ()) -> None:
        """Counts what earlier sessions and other servers spent toward the ceiling; keeps the file up to date.

        Args:
          path: of the file; nothing changes if it is kept already.
          beside: files of other accounts, such as those of a run's other models: what they spent counts
            toward the ceiling too, but is recorded only there.
        Raises: ValueError if a file is not such an account.
        """
        with _LOCK:
            if path == self._ledger:
                return
            if self._ledger is not None:
                self.usage = Usage()
            self._read(path)
            self._ledger, self._beside = path, tuple(beside)
            self._aside = _SET_ASIDE.setdefault(path.absolute(), _SetAside())

    def _read(self, path: Path | None) -> None:
        """Reads what is spent from the ledger, if there is one: another account may have added to it."""
        if path is not None and path.exists():
            self.usage = read_usage(path)

    @contextmanager
    def promised(self, prompt_tokens: int, completion_tokens: int) -> Iterator[None]:
        """Sets aside the most that a request may cost, while it runs.

        Args:
          prompt_tokens, completion_tokens: the most that may be charged.
        Returns: a context in which that amount is set aside.
        Raises: CostCeilingError if that might pass the ceiling.
        """
        most = self._price(prompt_tokens, completion_tokens)
        aside = self._promise(most)
        try:
            yield
        finally:
            with _LOCK:
                aside.cost -= most

    def _promise(self, cost: float) -> _SetAside:
        with _LOCK:
            self._read(self._ledger)
            spent = total([self.usage, *map(read_usage, self._beside)])
            expected = spent.cost + self._aside.cost + cost
            if cost > 0 and self._ceiling is not None and expected > self._ceiling:
                raise CostCeilingError(
                    f"the next request might pass the cost ceiling of {self._ceiling:g} (spent "
                    f"{spent.cost:.4g} in {spent.requests} requests); raise cost_ceiling to resume"
                )
            self._aside.cost += cost
            return self._aside

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / 1e6

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Adds what a request was charged.

        Args:
          prompt_tokens, completion_tokens: of the request.
        """
        with _LOCK:
            self._read(self._ledger)
            self.usage.requests += 1
            self.usage.prompt_tokens += prompt_tokens
            self.usage.completion_tokens += completion_tokens
            self.usage.cost += self._price(prompt_tokens, completion_tokens)
            if self._ledger is not None:
                part = self._ledger.with_name(f"{self._ledger.name}.part")
                part.write_text(json.dumps(asdict(self.usage)) + "\n", encoding="utf-8")
                part.replace(self._ledger)
