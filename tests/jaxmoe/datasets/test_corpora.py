"""The corpora of the demo and the studies."""

import pytest

from jaxmoe.datasets.corpora import demo_corpus


def test_a_split_that_there_is_not_is_refused():
    assert len(demo_corpus().selected("test")) < len(demo_corpus().selected())
    with pytest.raises(ValueError, match="a split is one of train, dev, test; got 'tset'"):
        demo_corpus().selected("tset")
