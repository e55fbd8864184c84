"""Files of weights: checkpoints read slice by slice, torch pickles, export folders."""
