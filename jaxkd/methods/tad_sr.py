"""TAD-SR: a diffusion model of super-resolution in one step.

He et al., "One Step Diffusion-based Super-Resolution with Time-Aware Distillation"
(arXiv:2408.07476). The student begins as its teacher and learns, from the last step's
noise alone, what the teacher samples in all its steps; a score that the teacher gives
to both (HSD) and a discriminator on the teacher's features add high frequencies.

The public code draws the noise of both terms from [0, 1) and scales noised images
twice; ``official=True`` does so, too.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Spec,
    Update,
    UpdateInputs,
)
from jaxkd.diffusion import resshift
from jaxkd.evaluators import perceptual
from jaxkd.methods import resshift as teachers
from jaxkd.methods.common import distillation, super_resolution, warm_start
from jaxkd.methods.common.terms import check_weights
from jaxkd.models.latent_discriminator import Discriminator
from jaxkd.models.swin_unet import pack

PREDICTOR = "super_resolution"
NAME = "discriminator"


def make(
    spec: Spec,
    *,
    schedule: Mapping[str, Any] | None = None,
    hsd_weight: float = 1.0,
    adversarial_weight: float = 0.02,
    taps: Sequence[str] = (),
    width: int = 64,
    groups: int = 8,
    hsd_steps: int = 3,
    zero_start: bool = False,
    official: bool = False,
    lpips: str = "",
) -> Method:
    """Makes a one-step student, ``MSE + hsd_weight * HSD + adversarial_weight * G``.

    Each step the discriminator moves first (hinge loss, ``config.optimizers.
    discriminator``), then the student.

    Args:
      spec: of the run; it must need a teacher of the method ``resshift``.
      schedule: options of ``resshift.schedule``, as of the teacher.
      hsd_weight: of ``losses.score_distillation``; 0 leaves it out.
      adversarial_weight: of the student's part against the discriminator; 0 leaves
        both out.
      taps: the teacher's features that the discriminator sees; empty for all, which are
        every level of the encoder and the middle.
      width: of the discriminator's heads, divisible by 4.
      groups: of its normalisations, which divide the features' channels.
      hsd_steps: the score's step is uniform on the first ``hsd_steps``.
      zero_start: whether the heads start blind, as in the public code.
      official: see above.
      lpips: file of weights for LPIPS after training, see
        ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if the teacher is missing, networks differ, LPIPS' file does not fit,
        or an option is out of its range.
    """
    check_weights({"hsd": hsd_weight, "adversarial": adversarial_weight}, "tad_sr")
    teachers.check(spec)
    frozen = distillation.require(spec, "teacher", "tad_sr")
    own = teachers.process(spec.network, schedule)
    teacher = teachers.process(frozen.network, schedule)
    taps = _taps(spec, taps)
    most = own.schedule().num_steps
    if not 1 <= hsd_steps <= most or most < 3:
        raise UserError(
            f"tad_sr: hsd_steps is {hsd_steps} of {most} steps, expected 1 to as many "
            "as there are, and at least 3 steps."
        )
    judge = Discriminator(
        width,
        spec.network.width,
        groups,
        float(most - 1),
        zero_start,
    )
    system = _System(own, teacher, judge, taps, hsd_steps, official)
    functions = _functions(system, spec.image_shape, spec.input_key)
    weights = {"hsd": hsd_weight, "adversarial": adversarial_weight}

    def loss(inputs: LossInputs) -> Loss:
        return system.generator_loss(inputs, weights)

    method = teachers.finish(spec, functions, loss, _targets(teacher, spec.input_key))
    return method._replace(
        evaluator=perceptual.by_file(spec, lpips),
        trainable=_labels,
        update=_update(system, functions.forward, loss, bool(adversarial_weight)),
        warm_start=_begin,
    )


def _taps(spec: Spec, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the chosen features of the network, or the names of all."""
    (_, features), _ = jax.eval_shape(
        spec.network.init_with_output,
        jax.random.key(0),
        spec.batch_shapes(1)[spec.input_key],
    )
    for name in names:
        lookup.choose(name, features, what="taps of method 'tad_sr'")
    return tuple(names) or tuple(sorted(features))


def _labels(params: Params) -> Any:
    return {**dict.fromkeys(params, MAIN), NAME: NAME}


_begin = warm_start.from_needed_run("teacher")


class _System:
    """Student, teacher and discriminator, and what they make of images."""

    def __init__(self, own, teacher, judge, taps, hsd_steps: int, official: bool):
        self.own, self.teacher, self.judge = own, teacher, judge
        self.taps, self.hsd_steps, self.official = taps, hsd_steps, official
        self.key = (own, teacher, judge, taps, hsd_steps, official)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _System) and self.key == other.key

    def noised(self, key: jax.Array, z: jax.Array, y: jax.Array, t: jax.Array):
        """Noises images at the steps ``t``; alike for all that share the key."""
        if self.official:
            noise = jax.random.uniform(key, z.shape)
        else:
            noise = jax.random.normal(key, z.shape)
        return resshift.add_noise(self.teacher.schedule(), z, y, t, noise)

    def see(self, variables, x: jax.Array, y: jax.Array, t: jax.Array):
        """Returns the teacher's prediction and features of noised images."""
        s = self.teacher.schedule()
        scaled = resshift.scale_input(s, x, t)
        if self.official:
            scaled = resshift.scale_input(s, scaled, t)
        packed = pack(scaled, y, t / (s.num_steps - 1))
        return self.teacher.network.apply(variables, packed, train=False)

    def score(self, variables, x: jax.Array, y: jax.Array, t: jax.Array) -> jax.Array:
        """Returns the noise that the teacher finds in noised images."""
        x0, _ = self.see(variables, x, y, t)
        return resshift.implied_noise(self.teacher.schedule(), x, x0, y, t)

    def features(self, key, inputs: LossInputs, z: jax.Array):
        """Returns the teacher's features of noised images, and the relative step."""
        _, y = teachers.unpack(inputs.batch["packed"], self.own.schedule())
        steps = self.own.schedule().num_steps
        step_key, noise_key = jax.random.split(key)
        t = jax.random.randint(step_key, z.shape[:1], 0, steps - 1)
        x = self.noised(noise_key, z, y, t)
        _, found = self.see(inputs.targets["teacher"]["variables"], x, y, t)
        return {tap: found[tap] for tap in self.taps}, t / (steps - 1)

    def hsd(self, key: jax.Array, inputs: LossInputs) -> jax.Array:
        """Computes the score distillation of each image."""
        taught, z = inputs.targets["teacher"], inputs.outputs["image"]
        _, y = teachers.unpack(inputs.batch["packed"], self.own.schedule())
        step_key, noise_key = jax.random.split(key)
        t = jax.random.randint(step_key, z.shape[:1], 0, self.hsd_steps)
        scores = [
            self.score(
                taught["variables"],
                jax.lax.stop_gradient(self.noised(noise_key, image, y, t)),
                y,
                t,
            )
            for image in (z, taught["image"])
        ]
        return losses.score_distillation(z, *scores)

    def generator_loss(self, inputs: LossInputs, weights: Mapping[str, float]) -> Loss:
        """Computes the student's loss."""
        taught, z = inputs.targets["teacher"], inputs.outputs["image"]
        metrics = {"mse": jnp.mean((z - taught["image"]) ** 2)}
        total = metrics["mse"]
        hsd_key, judge_key = jax.random.split(inputs.key)
        if weights["hsd"]:
            metrics["hsd"] = jnp.mean(self.hsd(hsd_key, inputs))
            total += weights["hsd"] * metrics["hsd"]
        if weights["adversarial"]:
            features, step = self.features(judge_key, inputs, z)
            variables = {
                "params": jax.lax.stop_gradient(inputs.params[NAME]),
                **inputs.model_state[NAME],
            }
            fake = self.judge.apply(variables, features, step)
            metrics["generator"] = jnp.mean(losses.hinge_generator(fake))
            total += weights["adversarial"] * metrics["generator"]
        return Loss(total, inputs.model_state, metrics)

    def judge_loss(self, inputs: LossInputs) -> Loss:
        """Computes the discriminator's loss; real images are the data's."""
        _, judge_key = jax.random.split(inputs.key)
        state, seen = inputs.model_state[NAME], []
        fake = jax.lax.stop_gradient(inputs.outputs["image"])
        for image in (inputs.batch[super_resolution.TRUTH], fake):
            features, step = self.features(judge_key, inputs, image)
            variables = {"params": inputs.params[NAME], **state}
            logits, state = self.judge.apply(
                variables, features, step, train=True, mutable=list(state)
            )
            seen.append(logits)
        value = jnp.mean(losses.hinge_discriminator(*seen)) / 2
        model_state = {**inputs.model_state, NAME: state}
        return Loss(value, model_state, {NAME: value})


@functools.cache
def _targets(process: teachers.Process, input_key: str) -> Mapping[str, Callable]:
    def teacher(variables: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        del key
        image = teachers.sampled(process, variables["teacher"], batch[input_key])
        found = {"image": image, "variables": variables["teacher"]}
        return jax.lax.stop_gradient(found)

    return {"teacher": teacher}


@functools.cache
def _functions(
    system: _System, shape: tuple[int, ...], input_key: str
) -> teachers.Functions:
    network, judge = system.own.network, system.judge

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        own_key, judge_key = jax.random.split(key)
        packed = jnp.zeros((1, *shape))
        (_, features), variables = network.init_with_output(own_key, packed)
        seen = {tap: features[tap] for tap in system.taps}
        judged = dict(judge.init(judge_key, seen, jnp.zeros(1)))
        variables = dict(variables)
        params = {"student": variables.pop("params"), NAME: judged.pop("params")}
        return params, {"student": variables, NAME: judged}

    def run(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        return {"image": network.apply(variables, batch[input_key], train=False)[0]}

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        return run(params, model_state, batch), model_state

    return teachers.Functions(init, forward, run)


def _update(
    system: _System,
    forward: Callable,
    loss: Callable[[LossInputs], Loss],
    adversarial: bool,
) -> Callable[[UpdateInputs], Update]:
    def seen(params: Params, inputs: LossInputs) -> LossInputs:
        outputs, _ = forward(params, inputs.model_state, inputs.batch, inputs.key)
        return inputs._replace(params=params, outputs=outputs)

    def update(step: UpdateInputs) -> Update:
        params, model_state, opt_state = step.params, step.model_state, step.opt_state
        metrics = {}
        if adversarial:
            gradients, found = step.gradients(
                lambda params, inputs: system.judge_loss(seen(params, inputs)),
                params,
                model_state,
                label=NAME,
            )
            params, opt_state = step.apply(params, gradients, opt_state, label=NAME)
            model_state, metrics = found.model_state, found.metrics
        # The same key: the student is judged at the same steps and noise.
        gradients, found = step.gradients(
            lambda params, inputs: loss(seen(params, inputs)),
            params,
            model_state,
            label=MAIN,
        )
        params, opt_state = step.apply(params, gradients, opt_state, label=MAIN)
        return Update(
            params,
            found.model_state,
            opt_state,
            found.value,
            {**metrics, **found.metrics},
        )

    return update
