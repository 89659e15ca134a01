"""OFD: the teacher's features before their ReLU, cut at margins (arXiv:1904.01866)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation
from jaxkd.models import layers


def make(
    spec: Spec,
    *,
    ofd_weight: float = 1e-3,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + ofd_weight * OFD``; see ``distillation``.

    OFD is the sum of ``losses.ofd`` over the stages of both networks before their ReLU,
    paired from the deepest on; each stage counts half as much as the next. The teacher
    is in evaluation mode, as always; the official code leaves its batch normalisation
    in training mode. The default weight is that for CIFAR; for ImageNet it is 1e-4.

    Raises:
      UserError: if the run needs no teacher, or no batch normalisation comes right
        before the teacher's ReLUs.
    """
    teacher = distillation.require(spec, "teacher", "ofd")
    return distillation.with_adapter(
        spec,
        "ofd",
        Connectors(),
        targets={"ofd_margins": _margins(teacher.network)},
        ce_weight=ce_weight,
        weight=ofd_weight,
        warmup=warmup,
    )


@functools.cache
def _margins(teacher: nn.Module) -> Callable[..., Any]:
    """Returns the target function of the teacher's margins, by name of the stage."""
    norms = getattr(teacher, "preact_norms", None)
    if norms is None:
        raise UserError(
            "Method 'ofd' reads the batch normalisations before the teacher's ReLUs, "
            f"but the teacher, a {type(teacher).__name__}, has no preact_norms. Choose "
            "another teacher or method."
        )

    def targets(frozen: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        del batch, key
        margins = {}
        for stage, path in norms.items():
            norm = functools.reduce(
                lambda x, n: x[n], path, frozen["teacher"]["params"]
            )
            margins[stage] = losses.ofd_margins(norm["scale"], norm["bias"])
        return margins

    return targets


class Connectors(nn.Module):
    """Maps each stage of the student to the teacher's channels, and compares them."""

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns the weighted sum of the losses of each example, ``[batch]``."""
        del batch
        pairs = distillation.paired_stages(
            outputs["features"], targets["teacher"]["features"], "_preact"
        )
        margins = distillation.stages(targets["ofd_margins"])[-len(pairs) :]
        terms = []
        for number, (student, teacher) in enumerate(pairs, start=1):
            x = layers.conv(teacher.shape[-1], 1, name=f"conv{number}")(student)
            x = layers.BatchNorm(train=True, name=f"bn{number}")(x)
            share = 2.0 ** (number - len(pairs))
            terms.append(share * losses.ofd(x, teacher, margins[number - 1]))
        return jnp.sum(jnp.stack(terms), axis=0)
