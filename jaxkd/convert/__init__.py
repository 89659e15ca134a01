"""Other people's weights in, and ours out: see ``python -m jaxkd.convert --help``."""

from jaxkd.convert.torch.weights import load_torch, save_torch

__all__ = ["load_torch", "save_torch"]
