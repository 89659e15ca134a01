"""Networks that embed: a residual trunk, an embedding, and directions of classes."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import unit
from jaxkd.models.resnet import BasicBlock, BottleneckBlock, ResNet
from jaxkd.models.waveresnet import WaveResNet


class Embedding(nn.Module):
    """Embeds images, and compares embeddings with one direction per class.

    Attributes:
      num_classes: number of logits.
      width: of the embedding.
      scale: of the logits, which are ``scale`` times cosines.
      blocks: of each stage.
      stem: channels of the first convolution.
      widths: of the blocks of each stage.
      strides: of each stage; powers of two where ``wavelets``, whose transform halves.
      bottleneck: whether blocks are ``BottleneckBlock``.
      photographs: see ``resnet.ResNet``.
      wavelets: whether the trunk is a ``waveresnet.WaveResNet``.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters, embeddings and logits stay float32.
    """

    num_classes: int
    width: int = 64
    scale: float = 16.0
    blocks: int | Sequence[int] = 1
    stem: int = 16
    widths: Sequence[int] = (16, 32, 64)
    strides: Sequence[int] = (1, 2, 2)
    bottleneck: bool = False
    photographs: bool = False
    wavelets: bool = False
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]``, and the features of the trunk with
          ``embedding`` ``[batch, width]``, as it is, and ``cosines``
          ``[batch, num_classes]`` between it and the classes' directions.
        """
        # The trunk's own last layer makes the embedding of the pooled features.
        embedding, features = self._trunk()(images, train)
        shape = (embedding.shape[-1], self.num_classes)
        directions = self.param("directions", nn.initializers.normal(1.0), shape)
        cosines = jnp.einsum(
            "bd,dc->bc",
            unit(embedding),
            unit(directions, axis=0),
            precision=jax.lax.Precision.HIGHEST,
        )
        features = {**features, "embedding": embedding, "cosines": cosines}
        return self.scale * cosines, features

    def _trunk(self) -> nn.Module:
        common: dict[str, Any] = {
            "stem": self.stem,
            "widths": self.widths,
            "unbiased_variance": self.unbiased_variance,
            "dtype": self.dtype,
            "name": "trunk",
        }
        if self.wavelets:
            return WaveResNet(
                self.width,
                halve=tuple(_halvings(stride) for stride in self.strides),
                blocks=self._only_blocks(),
                **common,
            )
        return ResNet(
            self.width,
            blocks=self.blocks,
            strides=self.strides,
            block=BottleneckBlock if self.bottleneck else BasicBlock,
            photographs=self.photographs,
            **common,
        )

    def _only_blocks(self) -> int:
        if not isinstance(self.blocks, int) or self.bottleneck or self.photographs:
            raise ValueError(
                "wavelets=True goes with one number of blocks for all stages, and "
                "without bottleneck and photographs."
            )
        return self.blocks


def _halvings(stride: int) -> int:
    """Returns how often a map is halved to shrink by a stride."""
    if stride < 1 or stride & (stride - 1):
        raise ValueError(
            f"A stride is {stride}, expected a power of two: wavelets=True shrinks "
            "maps by halving them."
        )
    return stride.bit_length() - 1


_FACES: dict[str, Any] = {"stem": 64, "widths": (64, 128, 256, 512)}

VARIANTS = {
    "embed8": (Embedding, {}),
    "embed8_wavelets": (Embedding, {"wavelets": True}),
    "embed_resnet18": (
        Embedding,
        {**_FACES, "blocks": 2, "strides": (1, 2, 2, 2), "photographs": True},
    ),
    "embed_resnet50": (
        Embedding,
        {
            **_FACES,
            "blocks": (3, 4, 6, 3),
            "strides": (1, 2, 2, 2),
            "width": 512,
            "bottleneck": True,
            "photographs": True,
        },
    ),
    "embed_face18": (
        Embedding,
        {**_FACES, "blocks": 2, "strides": (2, 2, 2, 2), "width": 512, "scale": 64.0},
    ),
}
