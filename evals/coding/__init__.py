"""How well a model programs: prompts, programs, pass@k."""
