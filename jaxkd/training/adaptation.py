"""Fits a frozen network to the run that needs it: its own normalisation and classes.

All networks of a run see one view of a batch, normalised for the network that is
trained. Where a frozen one was trained with another mean and standard deviation, the
affine map between the two is found by showing both views the same images.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd import views
from jaxkd.core import class_names
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.training.preprocessing import normalised_as
from jaxkd.views.ops import View

Affine = tuple[tuple[float, ...], tuple[float, ...]]
SAME: Affine = (), ()
# Largest difference, relative to the largest value, of maps that count as exact.
_TOLERANCE = 1e-4
_SAME = 1e-5
_PROBES = 2  # images


def normalisation(
    view: View,
    options: ConfigDict,
    own_options: ConfigDict,
    info: Info,
    trained: Info | None,
    example: Mapping[str, jax.ShapeDtypeStruct],
    key: str,
    whose: str,
) -> Affine:
    """Returns the scale and the shift from a run's inputs to those of a network.

    Args:
      view: of the run.
      options: ``config.view`` of the run.
      own_options: ``config.view`` of the run that trained the network.
      info: of the run's data.
      trained: of the data that the network was trained on; None if not known.
      example: shapes and dtypes of an example.
      key: the field that the network reads.
      whose: the network's name, for the error message.

    Raises:
      UserError: if no affine map leads from one to the other.
    """
    if trained is None or not trained.mean:
        return SAME
    other = normalised_as(info, trained)
    alike = other.mean == info.mean and other.std == info.std
    if alike and configs.resolved(options) == configs.resolved(own_options):
        return SAME
    batch = _probe(example)
    seen = _see(view, batch, key)
    if seen is None:
        return SAME  # The evaluation view makes no such field; training alone does.
    own = _seen_with(own_options, other, batch, key)
    found = _map(seen, own)
    # A view of its own kind that makes other values of the same pixels normalises
    # otherwise; one of another kind, or size, may do so as well as change the images.
    comparable = own is not None and own.shape == seen.shape
    if found is None and not (comparable and own_options.name == options.name):
        found = _map(seen, _seen_with(options, other, batch, key))
    if found is not None:
        return found
    raise UserError(
        f"{whose} was trained on images normalised by mean {other.mean} and standard "
        f"deviation {other.std}; this run's are {info.mean} and {info.std}, and its "
        f"view {options.name!r} cannot be mapped from one to the other. Give both runs "
        "the same mean and std, or a view that normalises last."
    )


def _probe(example: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)

    def draw(field: jax.ShapeDtypeStruct) -> np.ndarray:
        shape = (_PROBES, *field.shape)
        if field.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if np.issubdtype(field.dtype, np.floating):
            return rng.uniform(size=shape).astype(field.dtype)
        if field.dtype == np.int16:  # Hounsfield units, beyond all windows
            return rng.integers(-2000, 2000, shape, np.int16)
        return np.ones(shape, field.dtype)

    return {name: jnp.asarray(draw(field)) for name, field in example.items()}


def _see(view: View, batch: Mapping[str, jax.Array], key: str) -> np.ndarray | None:
    seen = jax.jit(view.evaluate)(dict(batch)).get(key)
    return None if seen is None else np.asarray(seen, np.float64)


def _seen_with(
    options: ConfigDict, info: Info, batch: Mapping[str, jax.Array], key: str
) -> np.ndarray | None:
    given = configs.resolved(options)
    try:
        return _see(views.build(given.pop("name"), info, **given), batch, key)
    except (UserError, KeyError, TypeError, ValueError):
        # A view of other data may need fields or sizes that these have not.
        return None


def differ_in_scale_alone(
    one: View, other: View, example: Mapping[str, jax.ShapeDtypeStruct]
) -> bool:
    """Tells whether two views evaluate to the same fields but for affine maps.

    Args:
      one: a view.
      other: another.
      example: shapes and dtypes of an example that both can see.
    """
    batch = _probe(example)
    try:
        seen = [jax.jit(view.evaluate)(dict(batch)) for view in (one, other)]
    except (KeyError, TypeError, ValueError):
        return False  # One of them needs other fields or sizes.
    if seen[0].keys() != seen[1].keys():
        return False
    return all(
        _map(np.asarray(value, np.float64), np.asarray(seen[1][name], np.float64))
        is not None
        for name, value in seen[0].items()
    )


def _map(seen: np.ndarray, own: np.ndarray | None) -> Affine | None:
    """Fits ``own = scale * seen + shift`` per channel; None where that is not so."""
    if own is None or own.shape != seen.shape:
        return None
    if np.array_equal(seen, own):
        return SAME
    if seen.ndim < 2 or not np.ptp(seen, tuple(range(seen.ndim - 1))).all():
        return None  # Through equal values goes any line.
    pairs = list(_fits(seen, own))
    scale, shift = (tuple(pair[i] for pair in pairs) for i in (0, 1))
    difference = np.abs(seen * np.array(scale) + np.array(shift) - own)
    if np.max(difference) > _TOLERANCE * max(np.max(np.abs(own)), 1.0):
        return None
    if np.allclose(scale, 1, atol=_SAME) and np.allclose(shift, 0, atol=_SAME):
        return SAME  # Two views that compute the same, rounded otherwise.
    return scale, shift


def _fits(seen: np.ndarray, own: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yields the slope and the intercept of each channel's least squares line."""
    for channel in range(seen.shape[-1]):
        x, y = seen[..., channel].ravel(), own[..., channel].ravel()
        centred = x - x.mean()
        spread = centred @ centred
        slope = float(centred @ (y - y.mean()) / spread)
        yield slope, float(y.mean() - slope * x.mean())


def classes(
    info: Info, trained: Info | None, outputs: Any, whose: str
) -> tuple[tuple[int, ...], str]:
    """Finds a run's classes among a network's outputs.

    Args:
      info: of the run's data.
      trained: of the data that the network was trained on; None if not known.
      outputs: of the network, as shapes.
      whose: the network's name, for the error message.

    Returns:
      Their positions, empty for alike; and, where the network does not know a class or
      its outputs cannot be sorted, an error message.
    """
    if trained is None or not (info.num_classes and trained.num_classes):
        return (), ""
    array = isinstance(outputs, jax.ShapeDtypeStruct)
    if array and outputs.shape[-1:] != (trained.num_classes,):
        return (), ""  # It does not answer in classes.
    try:
        found = class_names.join(info, trained, whose)
    except UserError as error:
        return (), str(error)
    if found and not array:
        return (), (
            f"{whose} numbers its classes otherwise ({', '.join(trained.class_names)}) "
            f"than the data ({', '.join(info.class_names)}), and its outputs are not "
            "plain logits that could be sorted. Give both the same order."
        )
    return found, ""
