"""From data sources to batches."""
