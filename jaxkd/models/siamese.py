"""Siamese networks: one encoder reads both pictures of a pair, a head compares them."""

from collections.abc import Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import models
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items
from jaxkd.models import layers
from jaxkd.models.projection import Head, Layer


class Siamese(nn.Module):
    """Decides whether two pictures are of one kind.

    Attributes:
      num_classes: handed on to the encoder, whose logits are not used.
      encoder: name of a network with a feature ``pooled``.
      encoder_widths: of the encoder, if not its own.
      encoder_stem: likewise.
      encoder_pool: likewise.
      freeze: whether the encoder stays as it is, in evaluation mode.
      embedding: width of the dense layer behind it.
      hidden: widths of the head's hidden layers.
      head: ``"symmetric"`` reads ``|a - b|`` and ``a b``, the same in either order;
        ``"official"`` is that of arXiv:2405.18320: the signed difference, and a
        softmax whose probabilities go into the cross entropy as logits.
      dtype: of the encoder's computation.
    """

    num_classes: int
    encoder: str = "small_conv_flat"
    encoder_widths: Sequence[int] = ()
    encoder_stem: int = 0
    encoder_pool: str = ""
    freeze: bool = False
    embedding: int = 64
    hidden: Annotated[Sequence[int], Items(least=0)] = (64, 32)
    head: str = "symmetric"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pairs: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          pairs: ``[batch, 2, height, width, channels]``.
          train: whether batch norm uses the statistics of all pictures of the batch.

        Returns:
          Logits ``[batch, 2]`` of two kinds and of one, and the features ``pooled``
          ``[batch, 2, features]``, the encoder's, and ``embedding``
          ``[batch, 2, embedding]``.

        Raises:
          ValueError: if ``head`` is unknown.
          UserError: if the encoder has no feature ``pooled``.
        """
        if self.head not in ("symmetric", "official"):
            raise ValueError(
                f"head is {self.head!r}, expected 'symmetric' or 'official'."
            )
        flat = pairs.reshape(-1, *pairs.shape[2:])
        _, features = self._encoder()(flat, train and not self.freeze)
        pooled = features.get("pooled")
        if pooled is None or pooled.ndim != 2:
            raise UserError(
                f"Encoder {self.encoder!r} has the features "
                f"{', '.join(features) or 'none'}, expected 'pooled' among them, "
                "[batch, features]."
            )
        if self.freeze:
            pooled = jax.lax.stop_gradient(pooled)
        # Features of all encoders come at one scale; dead ones stay near zero.
        scaled = nn.BatchNorm(
            use_running_average=not train,
            momentum=layers.MOMENTUM,
            epsilon=1e-3,
            use_scale=False,
            use_bias=False,
            use_fast_variance=False,
            name="scale",
        )(pooled)
        embedded = layers.Linear(self.embedding, name="embed")(scaled)
        both = embedded.reshape(len(pairs), 2, -1)
        first, second = both[:, 0], both[:, 1]
        if self.head == "symmetric":
            compared = jnp.concatenate([abs(first - second), first * second], axis=-1)
        else:
            compared = nn.relu(first - second)
        hidden = [Layer(width, relu=True) for width in self.hidden]
        logits = Head((*hidden, Layer(2)), name="head")(compared, train)
        if self.head == "official":
            logits = nn.softmax(logits)
        return logits, {
            "pooled": pooled.reshape(len(pairs), 2, -1),
            "embedding": both,
        }

    def _encoder(self) -> nn.Module:
        options: dict[str, Any] = {
            "widths": tuple(self.encoder_widths),
            "stem": self.encoder_stem,
            "pool": self.encoder_pool,
        }
        given = {name: value for name, value in options.items() if value}
        network = models.build(
            self.encoder, self.num_classes, dtype=self.dtype, **given
        )
        return network.clone(name="encoder", parent=self)


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "siamese": (Siamese, {}),
}
