"""Which slot a text takes, and from which it takes over what was read."""

import numpy as np
import pytest

from jaxmoe.generation.prefix_cache import LEAST_SHARED, Placement, PrefixCache

TEXT = np.arange(40, dtype=np.int32)


def holding(*texts: np.ndarray) -> PrefixCache:
    """A cache whose slots hold these, the first for longest."""
    cache = PrefixCache(len(texts))
    for slot, text in enumerate(texts):
        cache.hold(slot, text, True)
    return cache


def test_without_a_common_beginning_the_oldest_free_slot_is_taken():
    cache = holding(TEXT + 100, TEXT + 200, TEXT + 300)
    assert cache.place(TEXT, True, [1, 2]) == Placement(1, None, 0)
    cache.hold(1, TEXT + 200, True)
    assert cache.place(TEXT, True, [1, 2]) == Placement(2, None, 0)


def test_a_slot_that_holds_the_beginning_and_nothing_else_is_taken_as_it_is():
    assert holding(TEXT + 100, TEXT[:30]).place(TEXT, True, [0, 1]) == Placement(1, 1, 30)


def test_what_another_text_goes_on_with_is_left_to_it():
    other = np.concatenate([TEXT[:30], TEXT[:5] + 500])
    assert holding(TEXT + 100, other).place(TEXT, True, [0, 1]) == Placement(0, 1, 30)


def test_a_text_in_progress_is_copied_from():
    assert holding(TEXT[:30], TEXT + 100).place(TEXT, True, [1]) == Placement(1, 0, 30)


@pytest.mark.parametrize(("length", "source"), [(LEAST_SHARED - 1, None), (LEAST_SHARED, 0)])
def test_short_beginnings_are_read_again(length, source):
    assert holding(TEXT[:length]).place(TEXT, True, [0]).source == source


def test_other_experts_read_other_keys_and_values():
    cache = holding(TEXT)
    assert cache.place(TEXT, False, [0]).shared == 0
    assert cache.place(TEXT, "adapter", [0]).shared == 0
    assert cache.place(TEXT, True, [0]).shared == 40


def test_a_shorter_slot_holds_less():
    cache = holding(TEXT)
    cache.cut(20)
    assert cache.place(TEXT, True, [0]) == Placement(0, 0, 20)
    cache.forget()
    assert cache.place(TEXT, True, [0]) == Placement(0, None, 0)
