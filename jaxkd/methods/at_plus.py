"""AT+: a student of blurred images looks where the teacher of sharp ones does.

Inter-resolution attention distillation for histology (arXiv:2401.06010). The student's
images are reduced and enlarged again (view ``low`` with ``up_to``), so that the maps of
both networks, alike in shape, lie over each other.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Aux, FrozenNetwork, Method, Spec
from jaxkd.methods.common import classification, distillation


def make(
    spec: Spec,
    *,
    attention: float = 10.0,
    features: float = 0.1,
    kd: float = 0.0,
    regression: float = 0.0,
    temperature: float = 1.0,
    ce_weight: float = 1.0,
) -> Method:
    """Makes a student of CE and up to four terms; the defaults are the published ones.

    Args:
      spec: the run; it must need a teacher. Both networks end in a linear layer ``fc``
        on the mean of their last stage, such as ``resnet8``.
      attention: weight of ``losses.attention_plus`` on the last stage.
      features: weight of ``losses.root_mean_square`` of the last stages.
      kd: weight of cross entropy with the teacher's probabilities at ``temperature``.
      regression: weight of the root mean squared difference between what the teacher's
        last layer makes of the student's pooled features, and the teacher's logits.
      temperature: of the teacher's probabilities; the student's is 1, as published.
      ce_weight: of the cross entropy with the labels.

    Raises:
      UserError: if the run needs no teacher, or a network ends otherwise.
    """
    teacher = distillation.require(spec, "teacher", "at_plus")
    _check_head(spec, "student", spec.network, spec.reads)
    _check_head(spec, "teacher", teacher.network, teacher.reads)

    def loss(params, extra, outputs, batch, targets, key, step):
        del key, step
        taught, own = targets["at_plus"], _last(outputs["features"])
        _check_maps(own, taught["map"])
        kernel = params["student"]["fc"]["kernel"]
        weights = losses.linear_head_weights(kernel, own.shape[1:3])
        looks = losses.class_attention(own, weights)
        measured = {
            "ce": classification.cross_entropy(outputs, batch),
            "top1": classification.accuracy(outputs["logits"], batch),
            "attention": jnp.mean(losses.attention_plus(looks, taught["attention"])),
            "features": losses.root_mean_square(own, taught["map"]),
            "kd": _soft(outputs["logits"], taught["logits"], temperature),
        }
        total = (
            ce_weight * measured["ce"]
            + attention * measured["attention"]
            + features * measured["features"]
            + kd * measured["kd"]
        )
        if regression:
            # One copy per example, all alike: targets are split like the batch.
            told = (
                outputs["features"]["pooled"] @ taught["kernel"][0] + taught["bias"][0]
            )
            total += regression * losses.root_mean_square(told, taught["logits"])
        return total, Aux(extra, measured)

    return classification.classifier(
        *(spec, loss, ("ce", "top1", "attention", "features", "kd")),
        {"at_plus": _teacher(teacher)},
    )


# Cached, so that all students of a run share one evaluation of it.
@functools.cache
def _teacher(frozen: FrozenNetwork):
    def targets(variables, batch, key):
        del key
        logits, features = frozen.network.apply(
            variables["teacher"], batch[frozen.reads], train=False
        )
        head, last = variables["teacher"]["params"]["fc"], _last(features)
        weights = losses.linear_head_weights(head["kernel"], last.shape[1:3])
        taught = {
            "attention": losses.class_attention(last, weights),
            "map": last,
            "logits": logits,
            **{
                name: jnp.broadcast_to(head[name], (len(last), *head[name].shape))
                for name in ("kernel", "bias")
            },
        }
        return jax.lax.stop_gradient(taught)

    return targets


def _last(features):
    return distillation.stages(features)[-1]


def _soft(student, teacher, temperature: float):
    probabilities = jax.nn.softmax(teacher / temperature)
    return jnp.mean(optax.softmax_cross_entropy(student, probabilities))


def _check_head(spec: Spec, name: str, network, reads: str) -> None:
    images = spec.batch_shapes(2)[reads]
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    if "kernel" not in params.get("fc", {}):
        raise UserError(
            f"AT+ needs a {name} that ends in a linear layer 'fc' on pooled features, "
            f"such as 'resnet8'; this one has {', '.join(params)}."
        )


def _check_maps(own, taught) -> None:
    if own.shape != taught.shape:
        raise UserError(
            f"AT+ compares last stages of the shapes {own.shape[1:]} (student) and "
            f"{taught.shape[1:]} (teacher), wanted equal ones: the same network, and "
            "the student's images enlarged to the teacher's size (view 'low' with "
            "up_to)."
        )
