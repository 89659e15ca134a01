"""SigLIP's vision tower, with the projection to the decoder's width.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343): a
pre-norm ViT with learned positions, no class token and no pooling. Parameters have the
names and the stacked layers of big_vision's checkpoints.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.paligemma import lora
from jaxkd.models.paligemma.config import PaliGemmaConfig

EPSILON = 1e-6


class Siglip(nn.Module):
    """Turns images into tokens of the decoder's width.

    Attributes:
      config: sizes and dtype.
    """

    config: PaliGemmaConfig

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Encodes images.

        Args:
          images: ``[batch, height, width, 3]`` in [-1, 1].
          train: whether adapters drop inputs.

        Returns:
          ``[batch, tokens, text.width]``, row by row of the image.
        """
        sizes = self.config.vision
        if images.shape[1:] != (*sizes.image_shape, 3):
            raise ValueError(
                f"images have shape {images.shape}, expected [batch, "
                f"{sizes.image_shape[0]}, {sizes.image_shape[1]}, 3]. Resize them, or "
                "choose the preset of their size."
            )
        dtype = jnp.dtype(self.config.dtype)
        side = (sizes.patch, sizes.patch)
        x = nn.Conv(
            sizes.width, side, side, padding="VALID", dtype=dtype, name="embedding"
        )(images.astype(dtype))
        x = x.reshape(len(images), sizes.tokens, sizes.width)
        positions = self.param(
            "pos_embedding",
            nn.initializers.normal(sizes.width**-0.5),
            (1, sizes.tokens, sizes.width),
        )
        x = x + positions.astype(dtype)
        x = _Encoder(self.config, name="Transformer")(x, train)
        return nn.Dense(
            self.config.text.width,
            dtype=dtype,
            kernel_init=nn.initializers.zeros_init(),
            name="head",
        )(x)


class _Encoder(nn.Module):
    config: PaliGemmaConfig

    @nn.compact
    def __call__(self, x, train: bool):
        block: Any = _Block
        if self.config.remat:
            block = nn.remat(
                block,
                prevent_cse=False,
                static_argnums=(2,),
                policy=jax.checkpoint_policies.nothing_saveable,
            )
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.config.vision.depth,
        )
        x, _ = blocks(self.config, name="encoderblock")(x, train)
        return _layer_norm(x.dtype, "encoder_norm")(x)


class _Block(nn.Module):
    config: PaliGemmaConfig

    @nn.compact
    def __call__(self, x, train: bool):
        y = _layer_norm(x.dtype, "LayerNorm_0")(x)
        x = x + _Attention(self.config, name="MultiHeadDotProductAttention_0")(y, train)
        y = _layer_norm(x.dtype, "LayerNorm_1")(x)
        return x + _Mlp(self.config.vision.mlp, name="MlpBlock_0")(y), None


class _Attention(nn.Module):
    config: PaliGemmaConfig

    @nn.compact
    def __call__(self, x, train: bool):
        sizes = self.config.vision
        if sizes.width % sizes.heads:
            raise ValueError(
                f"The vision tower has width {sizes.width} and {sizes.heads} heads, "
                "expected heads that divide the width."
            )
        heads = (sizes.heads, sizes.width // sizes.heads)
        init = nn.initializers.xavier_uniform()

        def project(name: str, adapter: str):
            dense = nn.DenseGeneral(heads, dtype=x.dtype, kernel_init=init, name=name)
            return dense(x) + self._adapt(adapter, x, train)

        query = project("query", "vision_q")
        key = project("key", "vision_k")
        value = project("value", "vision_v")
        y = jax.nn.dot_product_attention(query, key, value)
        return nn.DenseGeneral(
            sizes.width, axis=(-2, -1), dtype=x.dtype, kernel_init=init, name="out"
        )(y)

    def _adapt(self, name: str, x, train: bool):
        dropout = self.config.lora_dropout
        if not self.has_variable("params", f"lora_{name}"):
            return 0.0
        return lora.delta(
            self.get_variable("params", f"lora_{name}"),
            x,
            inputs=1,
            alpha=self.config.lora_alpha,
            dropout=dropout,
            key=self.make_rng("dropout") if train and dropout else None,
        )


class _Mlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        init = {
            "kernel_init": nn.initializers.xavier_uniform(),
            "bias_init": nn.initializers.normal(1e-6),
            "dtype": x.dtype,
        }
        y = nn.gelu(nn.Dense(self.hidden, name="Dense_0", **init)(x), approximate=True)
        return nn.Dense(x.shape[-1], name="Dense_1", **init)(y)


def _layer_norm(dtype, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
        epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name
    )
