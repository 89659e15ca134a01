"""DeFI-Net: marks, pixel by pixel, which part of a photograph was inpainted.

Yao et al., "DeFI-Net: A Dense Feature Interaction Network for Image Inpainting
Localization" (arXiv:2408.02191, IEEE TIFS). A backbone at full resolution (``hrnet``),
a pyramid that links its levels densely (``defi_dfpl``), a head for the boundary and an
adaptive fusion of fine and coarse evidence (``defi_ream``).

- ``defi_net``: the official configuration, 2,822,958 parameters.
- ``defi_net_small`` and ``defi_net_tiny``: narrower, for few or small images and for
  CPU; their norms follow faster and their weights start as is usual with ReLU, without
  which a run of some hundred steps cannot be evaluated.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.models import layers
from jaxkd.models.conv import conv2d
from jaxkd.models.defi_net.edge_attention import (
    ReverseEdgeAttention,
    SpatialAdaptiveFusion,
)
from jaxkd.models.defi_net.feature_pyramid import (
    DenseFeaturePyramid,
    PlainFeaturePyramid,
    resize_to,
)
from jaxkd.models.hrnet import NARROW, HRNet

NOISE = ("none", "residual", "srm")

# Three high-pass filters of steganalysis, as Zhou et al. use them to find forgeries
# ("Learning Rich Features for Image Manipulation Detection", arXiv:1805.04953).
_SRM = (
    np.pad(np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4, 1),
    np.array(
        [
            [-1, 2, -2, 2, -1],
            [2, -6, 8, -6, 2],
            [-2, 8, -12, 8, -2],
            [2, -6, 8, -6, 2],
            [-1, 2, -2, 2, -1],
        ]
    )
    / 12,
    np.pad(np.array([[0, 0, 0], [1, -2, 1], [0, 0, 0]]) / 2, 1),
)


def high_pass(images: jax.Array, kind: str) -> jax.Array:
    """Filters each channel of ``[b, h, w, c]``; beyond the border pixels are repeated.

    Args:
      images: of any scale.
      kind: "residual", the image minus the mean of 3x3 pixels, ``[b, h, w, c]``; or
        "srm", three filters of steganalysis, ``[b, h, w, 3c]``.

    Raises:
      ValueError: for another kind.
    """
    blur = np.pad(np.full((3, 3), -1 / 9), 1)
    blur[2, 2] += 1
    kinds = {"residual": (blur,), "srm": _SRM}
    if kind not in kinds:
        raise ValueError(f"noise is {kind!r}, expected one of {', '.join(NOISE)}.")
    filters, channels = np.stack(kinds[kind], axis=-1), images.shape[-1]
    # A convolution, since sums of many shifted images take compilers long.
    kernel = filters[:, :, None, :, None] * np.eye(channels)[:, None]
    kernel = kernel.reshape(5, 5, channels, -1)
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    return conv2d(padded, jnp.asarray(kernel, images.dtype), (1, 1), ((0, 0), (0, 0)))


class DefiNet(nn.Module):
    """The network, with switches for the parts it is made of.

    Attributes:
      num_classes: unused: there is one logit per pixel.
      stem_width: see ``HRNet``, as all up to ``blocks``.
      stem_stride: of each convolution of the stem; logits are enlarged to the image.
      stage1_planes: inner width of stage 1.
      stage1_blocks: number of its blocks.
      widths: channels of the four branches.
      modules: of stages 2, 3 and 4.
      blocks: basic blocks of each branch in each module.
      pyramid_width: channels of the pyramid and of what follows.
      backbone_momentum: of the backbone's norms.
      backbone_init: "narrow", normal of deviation 0.001 as in the official code, or
        "he".
      pyramid: "dense", or "plain" for an ordinary pyramid.
      reverse: whether the edge head is turned away from what is already known.
      fusion: "adaptive", or "sum".
      noise: "none", or the ``high_pass`` that is shown to the network beside the image.
      dtype: of the computation; parameters and logits stay float32.
    """

    num_classes: int = 2
    stem_width: int = 64
    stem_stride: int = 1
    stage1_planes: int = 64
    stage1_blocks: int = 2
    widths: tuple[int, int, int, int] = (18, 36, 72, 144)
    modules: tuple[int, int, int] = (1, 1, 1)
    blocks: int = 2
    pyramid_width: int = 64
    backbone_momentum: float = 0.99
    backbone_init: str = "narrow"
    pyramid: str = "dense"
    reverse: bool = True
    fusion: str = "adaptive"
    noise: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits of every pixel.

        Args:
          images: ``[batch, height, width, channels]`` of any size; inside it is
            reflected up to a multiple of ``8 * stem_stride ** 2``.
          train: whether batch normalisation uses, and updates, batch statistics.

        Returns:
          Logits ``[batch, height, width, 1]`` of the pixel being inpainted, and the
          features ``edge``, logits of the inner boundary of the inpainted region, of
          the same shape, and ``level1`` ... ``level4`` of the pyramid.

        Raises:
          ValueError: for an option that does not exist.
        """
        self._check()
        size = images.shape[1:3]
        x = _reflect(images, 8 * self.stem_stride**2)
        if self.noise != "none":
            x = jnp.concatenate([x, high_pass(x, self.noise)], axis=-1)
        maps = self._backbone()(x, train)
        # Torch's own initial weights, as the official code leaves them.
        conv = partial(
            layers.conv, use_bias=True, init=layers.TORCH_UNIFORM, dtype=self.dtype
        )
        norm = partial(
            layers.BatchNorm, train=train, unbiased_variance=True, dtype=self.dtype
        )
        dense = self.pyramid == "dense"
        pyramid = DenseFeaturePyramid if dense else PlainFeaturePyramid
        levels = pyramid(self.pyramid_width, conv, norm, name="dfpl")(maps)
        low_mid, edge = ReverseEdgeAttention(
            self.pyramid_width, conv, norm, self.reverse, name="ream"
        )(*levels[:3])
        adaptive = self.fusion == "adaptive"
        logits = SpatialAdaptiveFusion(conv, norm, adaptive, self.dtype, name="saff")(
            low_mid, levels[3]
        )
        features = {f"level{i}": x for i, x in enumerate(levels, start=1)}
        return _cut(logits, x, size), {"edge": _cut(edge, x, size), **features}

    def _backbone(self) -> HRNet:
        return HRNet(
            stem_width=self.stem_width,
            stem_stride=self.stem_stride,
            stage1_planes=self.stage1_planes,
            stage1_blocks=self.stage1_blocks,
            widths=self.widths,
            modules=self.modules,
            blocks=self.blocks,
            momentum=self.backbone_momentum,
            kernel_init=NARROW if self.backbone_init == "narrow" else layers.HE_FAN_OUT,
            dtype=self.dtype,
            name="hrnet",
        )

    def _check(self) -> None:
        choices = {
            "backbone_init": ("narrow", "he"),
            "pyramid": ("dense", "plain"),
            "fusion": ("adaptive", "sum"),
            "noise": NOISE,
        }
        for name, expected in choices.items():
            if getattr(self, name) not in expected:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of "
                    f"{', '.join(expected)}."
                )


def _reflect(images: jax.Array, multiple: int) -> jax.Array:
    """Extends images below and to the right to a multiple of some pixels."""
    down, across = (-size % multiple for size in images.shape[1:3])
    if not down and not across:
        return images
    return jnp.pad(images, ((0, 0), (0, down), (0, across), (0, 0)), mode="reflect")


def _cut(logits: jax.Array, padded: jax.Array, size: Sequence[int]) -> jax.Array:
    """Enlarges logits to the padded images where they are smaller, and undoes that."""
    return resize_to(logits, padded.shape[1:3])[:, : size[0], : size[1]]


_FAST: dict[str, Any] = {"backbone_momentum": 0.9, "backbone_init": "he"}

VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "defi_net": (DefiNet, {}),
    "defi_net_small": (
        DefiNet,
        {
            "stem_width": 32,
            "stage1_planes": 16,
            "widths": (16, 24, 32, 48),
            "pyramid_width": 32,
            **_FAST,
        },
    ),
    "defi_net_tiny": (
        DefiNet,
        {
            "stem_width": 16,
            "stage1_planes": 8,
            "widths": (8, 12, 16, 24),
            "pyramid_width": 16,
            **_FAST,
        },
    ),
}
