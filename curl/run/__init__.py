"""One run: building, training, evaluating, checkpoints, metrics."""
