"""What every command needs: config, devices, checkpoints, run folders, metrics."""
