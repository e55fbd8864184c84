"""The decoder and its routed LoRA experts: shapes, layers, router, losses."""
