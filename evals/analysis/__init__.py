"""Analyses of a table of answers, from people or models: what `python -m evals.psychometrics` does."""
