"""Measuring: knowledge, code and human-like behavior."""
