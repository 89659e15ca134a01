"""What several test files share: a tiny data set, and one small finished run."""

import os
from pathlib import Path

# Tests compile more than they compute. Set before JAX is imported, and inherited by the
# processes that tests start.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The emitters of present versions compile small programs half as long again.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_cpu_use_fusion_emitters=false", os.environ.get("XLA_FLAGS", "")]
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import config as configs


def pytest_configure(config):
    """Keeps what is compiled, for both workers, their children and the next session.

    ``pytest --cache-clear`` forgets it.
    """
    folder = str(config.cache.mkdir("compiled"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    jax.config.update(
        "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
    )


def write_squares(path: Path, shape=(8, 8, 3), train=64, test=50, seed=0) -> Path:
    """Writes noisy images whose class, of four, is the place of a bright quarter."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 4
        images = rng.integers(0, 150, (count, *shape))
        for image, label in zip(images, labels, strict=True):
            height, width = shape[0] // 2, shape[1] // 2
            row, column = label // 2 * height, label % 2 * width
            image[row : row + height, column : column + width] += 90
        arrays |= {f"{split}_images": images.astype(np.uint8)}
        arrays |= {f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def squares_config(path: Path) -> ConfigDict:
    """Describes the training of one tiny network on such a file."""
    config = configs.default()
    config.name = "squares"
    config.model = ConfigDict(
        {"name": "resnet8", "stem": 3, "widths": (4,), "strides": (2,)}
    )
    config.data = ConfigDict(
        {"name": "npz", "path": str(path), "class_names": ("nw", "ne", "sw", "se")}
    )
    config.view = ConfigDict({"name": "plain"})
    config.batch_size, config.eval_batch_size = 16, 20
    config.unit, config.duration = "steps", 9
    config.eval_every = config.checkpoint_every = 3
    return config


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """The data file."""
    return write_squares(tmp_path_factory.mktemp("squares") / "squares.npz")


@pytest.fixture
def squares_run(squares):
    """The configuration, to be changed at will."""
    return squares_config(squares)


@pytest.fixture(scope="session")
def finished_run(squares, tmp_path_factory):
    """A finished run: its folder and its results.

    Two students of two seeds, in an order that is not the alphabet's, of which the
    second hardly learns, and one of another network that ends early.
    """
    from jaxkd.train import train

    config = squares_config(squares)
    config.seeds = (3, 1)
    config.ema = 0.5
    config.students = configs.students(
        {
            "zebra": {"method": "supervised", "optim": {"lr": 0.3}},
            "ant": {"method": "supervised", "optim": {"lr": 1e-4}, "duration": 6},
            "mole": {"model": dict(config.model) | {"widths": (2,)}},
        }
    )
    workdir = tmp_path_factory.mktemp("finished_run")
    return workdir, train(config, workdir)
