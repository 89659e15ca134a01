"""A tiny Stable Diffusion with random weights, for tests."""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from jaxkd.convert import stable_diffusion as convert
from jaxkd.models.stable_diffusion import Autoencoder, ClipTextEncoder, UNet
from jaxkd.readers.clip_tokenizer import END, START, ClipTokenizer

WIDTHS, GROUPS, HEADS, CONTEXT = (16, 32), 8, (2, 4), 24
WORDS = ("a", "red", "blue", "fox", "cat", "house", "snow", "in", "the", "on")


def unet(**options):
    usual = {
        "widths": WIDTHS,
        "layers_per_block": 1,
        "attention": (True, False),
        "heads": HEADS,
        "context_width": CONTEXT,
        "groups": GROUPS,
    }
    return UNet(**{**usual, **options})


def vae():
    return Autoencoder(widths=(8, 16), layers_per_block=1, groups=4)


def text(**options):
    usual = {
        "vocab_size": len(vocabulary()[0]),
        "width": CONTEXT,
        "layers": 2,
        "heads": 2,
        "mlp_width": 48,
    }
    return ClipTextEncoder(**{**usual, **options})


@functools.cache
def vocabulary():
    """CLIP's way with few merges: letters, letters that end a word, joined pairs."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,.!-'"]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces = ["".join(pair), *pieces[2:]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), START, END]
    return {token: i for i, token in enumerate(tokens)}, tuple(merges)


def tokenizer():
    return ClipTokenizer(*vocabulary())


def random_params(network, seed=0, dtype=np.float32):
    """Draws every parameter, also those that start at zero or one."""
    rng = np.random.default_rng(seed)
    flat = traverse_util.flatten_dict(convert.param_shapes(network))
    drawn = {}
    for path, leaf in flat.items():
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        noise = rng.normal(size=leaf.shape)
        scaled = noise / np.sqrt(fan_in) if path[-1] == "kernel" else 0.2 * noise
        drawn[path] = (scaled + (path[-1] == "scale")).astype(dtype)
    return traverse_util.unflatten_dict(drawn)


@functools.cache
def pipeline():
    parts = {"unet": unet(), "vae": vae(), "text_encoder": text()}
    params = {
        name: random_params(network, i)
        for i, (name, network) in enumerate(parts.items())
    }
    return convert.StableDiffusion(**parts, tokenizer=tokenizer(), params=params)


def write(folder: Path) -> Path:
    convert.save_stable_diffusion(folder, pipeline())
    return folder


def normal(seed, *shape):
    return np.asarray(jax.random.normal(jax.random.key(seed), shape))
