"""Grading programs on other machines: nodes of a Ray cluster, or servers."""
