"""The training loop, the jitted step, optimizer groups, checkpoints and metrics."""
