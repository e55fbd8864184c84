"""What an evaluation requires of a model, and the models that provide it."""
