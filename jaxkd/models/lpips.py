"""LPIPS: the distance of two images in the features of a classifier.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv:1801.03924), equation 1, with the backbones AlexNet and VGG-16 and the linear
heads of the authors' version 0.1. Weights come from a file of the user
(``jaxkd.readers.lpips_weights``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.conv import conv_general_dilated

# Of images in [-1, 1]: ImageNet's mean and deviation, as the authors round them.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the norm of each pixel's features


class Layer(NamedTuple):
    """A convolution of a backbone, followed by a ReLU.

    Attributes:
      number: among torchvision's ``features``, where ReLUs and pools count.
      size: of its kernel.
      stride: in pixels.
      pad: likewise.
      pool: window of the max-pool of stride 2 before it; 0 for none.
      tap: whether its features are compared.
    """

    number: int
    size: int = 3
    stride: int = 1
    pad: int = 1
    pool: int = 0
    tap: bool = False


BACKBONES: dict[str, tuple[Layer, ...]] = {
    "alex": (
        Layer(0, size=11, stride=4, pad=2, tap=True),
        Layer(3, size=5, pad=2, pool=3, tap=True),
        Layer(6, pool=3, tap=True),
        Layer(8, tap=True),
        Layer(10, tap=True),
    ),
    "vgg": (
        Layer(0),
        Layer(2, tap=True),
        Layer(5, pool=2),
        Layer(7, tap=True),
        Layer(10, pool=2),
        Layer(12),
        Layer(14, tap=True),
        Layer(17, pool=2),
        Layer(19),
        Layer(21, tap=True),
        Layer(24, pool=2),
        Layer(26),
        Layer(28, tap=True),
    ),
}
WIDTHS: dict[str, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 64, 128, 128, *(256,) * 3, *(512,) * 6),
}


class LPIPS(nn.Module):
    """The distance of images: small for those that look alike.

    Attributes:
      backbone: ``"alex"`` or ``"vgg"``.
      widths: channels of its convolutions; empty for the published ones.
    """

    backbone: str = "alex"
    widths: Sequence[int] = ()

    @nn.compact
    def __call__(self, images: jax.Array, references: jax.Array) -> jax.Array:
        """Computes the distances.

        ``sum_l mean_hw sum_c w_lc (a_lhwc - b_lhwc)^2`` of the layers' features ``a``
        and ``b``, which have unit norm at each pixel. The parameters are ``conv0`` ...,
        numbered as ``Layer.number``, and the ``weight`` vectors of ``lin0`` ....

        Args:
          images: ``[batch, height, width, 3]`` in [-1, 1]; one channel counts as grey.
          references: the same shape.

        Returns:
          float32 ``[batch]``.

        Raises:
          ValueError: if the shapes differ, or images are smaller than ``least_side``.
        """
        if images.shape != references.shape or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images have shape {images.shape} and references {references.shape}, "
                "expected equal ones of 1 or 3 channels."
            )
        check_side(self.backbone, images.shape[1:3])
        both = jnp.concatenate([images, references]).astype(jnp.float32)
        both = jnp.broadcast_to(both, (*both.shape[:-1], 3))
        x = (both - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        taps = []
        widths = self.widths or WIDTHS[self.backbone]
        for layer, width in zip(BACKBONES[self.backbone], widths, strict=True):
            if layer.pool:
                x = nn.max_pool(x, (layer.pool, layer.pool), (2, 2))
            x = nn.Conv(
                width,
                (layer.size, layer.size),
                (layer.stride, layer.stride),
                padding=layer.pad,
                conv_general_dilated=conv_general_dilated,
                precision=jax.lax.Precision.HIGHEST,
                name=f"conv{layer.number}",
            )(x)
            x = nn.relu(x)
            if layer.tap:
                taps.append(x)
        total = jnp.zeros(len(images))
        for number, x in enumerate(taps):
            total += Head(name=f"lin{number}")(*jnp.split(_unit(x), 2))
        return total


class Head(nn.Module):
    """A weighted squared difference of features, averaged over pixels."""

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` twice to ``[batch]``."""
        weight = self.param("weight", nn.initializers.ones, a.shape[-1:])
        return jnp.mean(jnp.sum(weight * (a - b) ** 2, axis=-1), axis=(1, 2))


def _unit(x: jax.Array) -> jax.Array:
    norm = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))
    return x / (norm + EPSILON)


def least_side(backbone: str) -> int:
    """Returns the smallest image that leaves a pixel to every layer.

    >>> least_side("alex"), least_side("vgg")
    (31, 16)
    """
    side = 1
    for layer in reversed(BACKBONES[backbone]):
        side = max((side - 1) * layer.stride + layer.size - 2 * layer.pad, 1)
        if layer.pool:
            side = 2 * (side - 1) + layer.pool
    return side


def check_side(backbone: str, sides: Sequence[int]) -> None:
    """Raises ValueError for images that are smaller than ``least_side``."""
    least = least_side(backbone)
    if min(sides) < least:
        raise ValueError(
            f"LPIPS compares images of {' x '.join(map(str, sides))} pixels, expected "
            f"at least {least} for the backbone {backbone!r}. Take larger images, or "
            "leave LPIPS out."
        )
