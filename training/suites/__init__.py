"""The suites of python -m training eval."""
