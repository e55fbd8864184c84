"""One file a language: how its programs are compiled, run and traced."""
