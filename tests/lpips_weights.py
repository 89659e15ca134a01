"""Random weights of LPIPS with few channels, in the public layout."""

import numpy as np

from jaxkd.models.lpips import BACKBONES

WIDTHS = {"alex": (4, 6, 5, 4, 3), "vgg": (3, 3, 4, 4, *(5,) * 3, *(6,) * 6)}


def state(backbone, seed=0, names="features"):
    """Returns name -> array: ``features.<i>.`` or ``net.slice<k>.<i>.``, and heads."""
    rng = np.random.default_rng(seed)
    found, channels, heads = {}, 3, 0
    for layer, width in zip(BACKBONES[backbone], WIDTHS[backbone], strict=True):
        name = f"features.{layer.number}"
        if names != "features":
            name = f"net.slice{heads + 1}.{layer.number}"
        shape = (width, channels, layer.size, layer.size)
        scale = np.sqrt(2 / np.prod(shape[1:]))
        found[f"{name}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.1, width).astype(np.float32)
        channels = width
        if layer.tap:
            weight = rng.uniform(0, 1, (1, width, 1, 1)).astype(np.float32)
            found[f"lin{heads}.model.1.weight"] = weight
            heads += 1
    return found
