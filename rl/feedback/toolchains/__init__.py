"""One file per language: how its programs are compiled, run and traced."""
