"""Networks by name, as Linen modules that return logits and named features.

A file of this package that defines ``VARIANTS`` (name -> (module class, attributes))
adds its networks to ``build``; nothing else has to be edited.
"""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core import lookup
from jaxkd.core.errors import UserError

# What networks list by stage, if they list it; a prefix names a part, as in
# ``audio_widths``.
_PER_STAGE = ("blocks", "halve", "strides", "widths")


def variants() -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    """Collects every named network: name -> (module class, attributes)."""
    found: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {}
    for info in pkgutil.walk_packages(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        found.update(getattr(module, "VARIANTS", {}))
    return found


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Builds the network called ``name``.

    Args:
      name: one of ``variants()``, such as ``"resnet8x4"``, or own code, such as
        ``"network.py:PatchNet"``: a module, or a function that makes one.
      num_classes: number of logits.
      **options: attributes of the network's module to override, such as
        ``dtype=jnp.bfloat16`` or ``widths=(8, 16, 32)``.

    Returns:
      A Linen module: ``apply(variables, images, train=False) -> (logits, features)``.

    Raises:
      ValueError: if there is no such network, or it has no such option.
      UserError: the same of own code.
    """
    if lookup.is_own_code(name):
        return _build_own(name, num_classes, options)
    module = find(name)
    allowed = [
        field
        for field in inspect.signature(module).parameters
        if field not in ("parent", "name", "num_classes")
    ]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"Model {name!r} has no option {', '.join(unknown)}. "
            f"Options: {', '.join(allowed)}."
        )
    fixed = ("parent", "name", "num_classes")
    lookup.check(module, options, what=f"Model {name!r}", fixed=fixed)
    network = module(num_classes=num_classes, **options)
    _check_stages(name, network)
    return network


def find(name: str) -> Callable[..., nn.Module]:
    """Returns what makes a network: its module, with the attributes of its variant.

    Raises:
      ValueError: if there is no such network.
      UserError: the same of own code.
    """
    if lookup.is_own_code(name):
        return lookup.own_code(name, what="config.model.name")
    known = variants()
    if name not in known:
        close = lookup.closest(name, known)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(f"Unknown model {name!r}.{hint} Models: {', '.join(known)}.")
    module, attributes = known[name]
    return functools.partial(module, **attributes)


def _check_stages(name: str, network: nn.Module) -> None:
    """Refuses lists of stages of which some are longer than others."""
    stages: dict[str, dict[str, int]] = {}
    for field in dataclasses.fields(network):
        value = getattr(network, field.name, None)
        part, _, last = field.name.rpartition("_")
        if last in _PER_STAGE and isinstance(value, list | tuple):
            stages.setdefault(part, {})[field.name] = len(value)
    for counts in stages.values():
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{count} {field}" for field, count in counts.items())
            raise UserError(
                f"Model {name!r} has {found}. Expected as many of each: one value for "
                "every stage."
            )


def _build_own(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    maker = find(name)
    known = inspect.signature(maker).parameters
    if "num_classes" not in known:
        raise UserError(
            f"Model {name!r} has no attribute num_classes, the number of its logits: "
            "add 'num_classes: int' to the module."
        )
    if "dtype" in options and "dtype" not in known:
        # Own code that computes in float32 need not name it.
        options = dict(options)
        dtype = jnp.dtype(options.pop("dtype"))
        if dtype != jnp.float32:
            raise UserError(
                f"Model {name!r} has no attribute dtype, so that it cannot compute in "
                f"{dtype.name}. Add 'dtype: Any = jnp.float32' to the module, or leave "
                "config.dtype at float32."
            )
    network = lookup.call(
        maker, options, what=f"model {name!r}", num_classes=num_classes
    )
    if not isinstance(network, nn.Module):
        raise UserError(
            f"config.model.name is {name!r}, which makes a {type(network).__name__}, "
            "expected a Linen module: apply(variables, images, train=False) -> "
            "(logits, features)."
        )
    return network


def feature_shapes(
    network: nn.Module, image_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each feature of one image, without computing anything.

    Args:
      network: such as ``build`` returns.
      image_shape: ``(height, width, channels)``.

    Returns:
      Name -> shape without the batch: ``(height, width, channels)`` of the maps,
      ``(channels,)`` of ``"pooled"``.
    """

    def forward(key):
        images = jnp.zeros((1, *image_shape))
        return network.init_with_output(key, images)[0][1]

    features = jax.eval_shape(forward, jax.random.key(0))
    return {name: feature.shape[1:] for name, feature in features.items()}
