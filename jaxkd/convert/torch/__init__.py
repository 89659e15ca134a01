"""PyTorch checkpoints in and out, without PyTorch and without executing a pickle."""
