"""What an evaluation asks of a model, and a local model that answers."""
