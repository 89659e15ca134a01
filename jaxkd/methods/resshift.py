"""ResShift: super-resolution by diffusion, the teacher of TAD-SR (arXiv:2307.12348).

Networks read the field ``packed`` of the view ``noised``, with the same schedule as the
method. Images are those of the data: no auto-encoder comes first, as in the paper.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Spec,
)
from jaxkd.diffusion import resshift
from jaxkd.evaluators import perceptual
from jaxkd.methods.common import super_resolution, warm_start
from jaxkd.methods.common.untrained import untrained
from jaxkd.models.swin_unet import pack

PREDICTOR = "super_resolution"


class Process(NamedTuple):
    """A network with its schedule, hashable, so that functions of it are cached.

    Attributes:
      network: a Linen module that reads ``swin_unet.pack``.
      options: of ``resshift.schedule``.
    """

    network: nn.Module
    options: tuple[tuple[str, Any], ...] = ()

    def schedule(self) -> resshift.Schedule:
        """Makes the schedule."""
        return resshift.schedule(**dict(self.options))

    def denoiser(self, variables: Any, y: jax.Array) -> resshift.Denoiser:
        """Makes ``(x_t, t) -> x_0`` for the enlarged small images ``y``."""
        s = self.schedule()

        def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
            packed = pack(resshift.scale_input(s, x, t), y, t / (s.num_steps - 1))
            return self.network.apply(variables, packed, train=False)[0]  # type: ignore[index,return-value]

        return denoise


def process(network: nn.Module, schedule: Mapping[str, Any] | None) -> Process:
    """Makes a ``Process`` of options as a configuration gives them.

    Raises:
      UserError: if the schedule has no such option, or one is out of its range.
    """
    options = dict(schedule or {})
    try:
        lookup.call(resshift.schedule, options, what="config.loss.schedule")
    except ValueError as error:
        raise UserError(f"config.loss.schedule: {error}") from error
    return Process(network, tuple(sorted(options.items())))


def unpack(packed: jax.Array, s: resshift.Schedule) -> tuple[jax.Array, jax.Array]:
    """Returns the sampler's start and the enlarged image of the field ``packed``."""
    channels = (packed.shape[-1] - 1) // 2
    scale = jnp.sqrt(s.kappa**2 * s.sqrt_eta[-1] ** 2 + 1)
    return scale * packed[..., :channels], packed[..., channels : 2 * channels]


def sampled(process: Process, variables: Any, packed: jax.Array) -> jax.Array:
    """Samples in all steps, deterministically, from the start that ``packed`` holds."""
    s = process.schedule()
    x, y = unpack(packed, s)
    noise = (x - y) / (s.kappa * s.sqrt_eta[-1])
    return resshift.sample(process.denoiser(variables, y), s, y, noise)


def make(
    spec: Spec,
    *,
    schedule: Mapping[str, Any] | None = None,
    one_step: bool = False,
    start_from: str = "",
    frozen: bool = False,
    lpips: str = "",
) -> Method:
    """Makes a denoiser that predicts the large image, ``mean (x - x_0)^2``.

    Args:
      spec: of the run; the network reads the field ``packed``.
      schedule: options of ``resshift.schedule``, as of the view.
      one_step: whether it is evaluated by one step instead of all.
      start_from: name of a needed run that it begins as.
      frozen: whether it stays so: measures the needed run's network.
      lpips: file of weights for LPIPS after training, see
        ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if the network, the fields or LPIPS' file do not fit.
    """
    check(spec)
    own = process(spec.network, schedule)
    functions = _functions(own, spec.image_shape, spec.input_key, one_step)

    def loss(inputs: LossInputs) -> Loss:
        apart = inputs.outputs["image"] - inputs.batch[super_resolution.TRUTH]
        return Loss(jnp.mean(apart**2), inputs.model_state, {})

    method = finish(spec, functions, loss)
    method = method._replace(evaluator=perceptual.by_file(spec, lpips))
    if start_from:
        method = method._replace(warm_start=warm_start.from_needed_run(start_from))
    if frozen:
        method = untrained(method)
    return method


def check(spec: Spec) -> None:
    """Checks that the network reads ``packed``, of the truth's size.

    Raises:
      UserError: if not.
    """
    truth = spec.fields[super_resolution.TRUTH].shape
    expected = (*truth[:2], 2 * truth[2] + 1)
    if spec.image_shape != expected or "low" not in spec.fields:
        raise UserError(
            f"The network reads {spec.input_key!r} of shape {spec.image_shape}, "
            f"expected 'packed' of {expected}, and 'low' beside it: set config.view to "
            "'noised' over 'low', and config.model.input to 'packed'."
        )


class Functions(NamedTuple):
    """The functions of a network."""

    init: Callable
    forward: Callable
    predict: Callable


def finish(
    spec: Spec,
    functions: Functions,
    loss: Callable[[LossInputs], Loss],
    targets: Mapping[str, Callable] | None = None,
) -> Method:
    """Makes a method that is evaluated as super-resolution."""
    border = spec.fields[super_resolution.TRUTH].shape[0] // spec.fields["low"].shape[0]
    return Method(
        targets=dict(targets or {}),
        loss=loss,
        evaluate=super_resolution.evaluate(border),
        score=super_resolution.SCORE,
        **functions._asdict(),
    )


@functools.cache
def _functions(
    own: Process, shape: tuple[int, ...], input_key: str, one_step: bool
) -> Functions:
    def init(key: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(own.network.init(key, jnp.zeros((1, *shape))))
        return {"student": variables.pop("params")}, {"student": variables}

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        s, truth = own.schedule(), batch[super_resolution.TRUTH]
        _, y = unpack(batch[input_key], s)
        step_key, noise_key = jax.random.split(key)
        t = jax.random.randint(step_key, truth.shape[:1], 0, s.num_steps)
        noise = jax.random.normal(noise_key, truth.shape)
        x = resshift.add_noise(s, truth, y, t, noise)
        variables = {"params": params["student"], **model_state["student"]}
        return {"image": own.denoiser(variables, y)(x, t)}, model_state

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        packed = batch[input_key]
        if one_step:
            return {"image": own.network.apply(variables, packed, train=False)[0]}
        return {"image": sampled(own, variables, packed)}

    return Functions(init, forward, predict)
