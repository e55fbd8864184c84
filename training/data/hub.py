"""Data sets from the Hugging Face hub, read by the package `datasets`, which is imported only here."""

from collections.abc import Sequence
from importlib import import_module
from typing import overload

from jaxmoe.datasets.formats import read_row
from jaxmoe.datasets.json_rows import without_nulls
from jaxmoe.json_values import JsonObject


class HubRows(Sequence[JsonObject]):
    """The rows of a table, each read and checked when it is asked for.

    Args:
      table: rows by number, such as a `datasets.Dataset`.
      label: what to call the data set in messages.
    """

    def __init__(self, table: Sequence[object], label: str):
        self._table, self._label = table, label

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> JsonObject: ...
    @overload
    def __getitem__(self, index: slice) -> list[JsonObject]: ...
    def __getitem__(self, index: int | slice) -> JsonObject | list[JsonObject]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        try:
            return read_row(without_nulls(self._table[index]))
        except ValueError as error:
            raise ValueError(f"{self.place(index)}: {error}") from None

    def place(self, index: int) -> str:
        """Where a row stands, for messages; from 1."""
        return f"{self._label}, row {index + 1}"


def load_hub(repository: str, subset: str | None, split: str, label: str) -> HubRows:
    """The rows of a split of a data set on the hub, or in its cache.

    Args:
      repository: such as owner/name; also a folder that `datasets` reads.
      subset: the configuration, where the data set has several.
      split: such as train, or a slice as in train[:1000].
      label: what to call it in messages.
    Returns: rows of any format of `jaxmoe.datasets.formats`, read when they are asked for.
    Raises: ValueError, in one line, if the package is missing, or it cannot load the data set.
    """
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise ValueError(
            f"{label}: data sets of the hub need the package datasets (pip install datasets)"
        ) from None
    try:
        table = datasets.load_dataset(repository, subset, split=split, trust_remote_code=False)
    except Exception as error:  # it raises many kinds, including the hub's and the network's
        raise ValueError(f"{label}: {' '.join(str(error).split())[:300]}") from None
    return HubRows(table, label)
