"""Analyses of a table of answers, of people or of models: what `python -m evals.psychometrics` does."""
