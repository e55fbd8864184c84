"""Factor models: exploratory, confirmatory, higher-order; how many factors; rotation."""
