"""Questionnaires as data: items, keys, norms, each with its source and license."""
