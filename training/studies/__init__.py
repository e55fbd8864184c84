"""The studies of `python -m training reproduce`: each puts the claims of one paper to the test."""
