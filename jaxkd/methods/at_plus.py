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
from jaxkd.core.types import FrozenNetwork, LossInputs, Method, Spec
from jaxkd.methods.common import distillation


def make(
    spec: Spec,
    *,
    attention_weight: float = 10.0,
    features_weight: float = 0.1,
    kd_weight: float = 0.0,
    regression_weight: float = 0.0,
    temperature: float = 1.0,
    ce_weight: float = 1.0,
) -> Method:
    """Makes a student of CE and up to four terms; the defaults are the published ones.

    Args:
      spec: the run; it must need a teacher. Both networks end in a linear layer ``fc``
        on the mean of their last stage, such as ``resnet8``.
      attention_weight: weight of ``losses.attention_plus`` on the last stage.
      features_weight: weight of ``losses.root_mean_square`` of the last stages.
      kd_weight: weight of cross entropy with the teacher's probabilities at
        ``temperature``.
      regression_weight: weight of the root mean squared difference between what the
        teacher's last layer makes of the student's pooled features, and the teacher's
        logits.
      temperature: of the teacher's probabilities; the student's is 1, as published.
      ce_weight: of the cross entropy with the labels.

    Raises:
      UserError: if the run needs no teacher, or a network ends otherwise.
    """
    teacher = distillation.require(spec, "teacher", "at_plus")
    _check_head(spec, "student", spec.network, spec.input_key)
    _check_head(spec, "teacher", teacher.network, teacher.input_key)

    def attention(inputs: LossInputs):
        taught, own = inputs.targets["at_plus"], _last(inputs.outputs["features"])
        _check_maps(own, taught["map"])
        kernel = inputs.params["student"]["fc"]["kernel"]
        weights = losses.linear_head_weights(kernel, own.shape[1:3])
        return losses.attention_plus(
            losses.class_attention(own, weights), taught["attention"]
        )

    def features(inputs: LossInputs):
        own = _last(inputs.outputs["features"])
        return losses.root_mean_square(own, inputs.targets["at_plus"]["map"])

    def soften(inputs: LossInputs):
        teacher = inputs.targets["at_plus"]["logits"]
        return _soft(inputs.outputs["logits"], teacher, temperature)

    def regress(inputs: LossInputs):
        taught = inputs.targets["at_plus"]
        # One copy per example, all alike: targets are split like the batch.
        pooled = inputs.outputs["features"]["pooled"]
        logits = pooled @ taught["kernel"][0] + taught["bias"][0]
        return losses.root_mean_square(logits, taught["logits"])

    terms = {
        "attention": (attention_weight, attention),
        "features": (features_weight, features),
        "kd": (kd_weight, soften),
        "regression": (regression_weight, regress),
    }
    return distillation.student(
        spec,
        "at_plus",
        terms,
        (),
        ce_weight=ce_weight,
        targets={"at_plus": _teacher(teacher)},
    )


# Cached, so that all students of a run share one evaluation of it.
@functools.cache
def _teacher(frozen: FrozenNetwork):
    def targets(variables, batch, key):
        del key
        logits, features = frozen.apply(variables["teacher"], batch[frozen.input_key])
        head, last = variables["teacher"]["params"]["fc"], _last(features)
        head = {name: frozen.select(leaf) for name, leaf in head.items()}
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


def _check_head(spec: Spec, name: str, network, input_key: str) -> None:
    images = spec.batch_shapes(2)[input_key]
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
            f"{taught.shape[1:]} (teacher), expected equal ones: the same network, and "
            "the student's images enlarged to the teacher's size (view 'low' with "
            "up_to)."
        )
