"""A discriminator on the features of a frozen denoiser (TAD-SR).

He et al., "One Step Diffusion-based Super-Resolution with Time-Aware Distillation"
(arXiv:2408.07476, section 3.4): the teacher's encoder sees noised images, and small
heads decide at every tap whether they are real. Each head is told the step; its
convolutions over the flattened pixels are spectrally normalised, as in StyleGAN-T
(arXiv:2301.09515).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.swin_unet import step_embedding


class Discriminator(nn.Module):
    """Heads on named features.

    Attributes:
      width: channels inside a head, divisible by 4.
      embed: width of the step's sinusoids.
      groups: of the first normalisation of each head.
      step_scale: see ``swin_unet.SwinUNet``.
      zero_start: whether a head's first convolution starts at zero, as in the public
        code. It then sees nothing but the step until that convolution has learnt.
    """

    width: int = 64
    embed: int = 160
    groups: int = 32
    step_scale: float = 14.0
    zero_start: bool = False

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], step: jax.Array, train: bool = False
    ) -> jax.Array:
        """Computes logits, large for real images.

        Args:
          features: name -> ``[batch, h, w, c]``.
          step: ``t / (T - 1)``, ``[batch]``.
          train: whether to update the estimates of the largest singular values.

        Returns:
          ``[batch, logits]``: one for every pixel of every tap.
        """
        emb = nn.silu(step_embedding(self.step_scale * step, self.embed))
        rows = []
        for name, x in sorted(features.items()):
            channels = x.shape[-1]
            told = layers.Linear(2 * channels, name=f"{name}_told")(emb)
            scale, shift = jnp.split(told[:, None, None], 2, axis=-1)
            y = layers.GroupNorm(self.groups, name=f"{name}_norm")(x)
            y = nn.silu(y * (1 + scale) + shift)
            zeros = nn.initializers.zeros
            first = layers.conv(
                channels,
                3,
                use_bias=True,
                init=zeros if self.zero_start else layers.TORCH_UNIFORM,
                name=f"{name}_conv",
            )
            y = first(y).reshape(len(y), -1, channels)
            y = self._line(y, 1, f"{name}_line1", train)
            z = self._line(y, 9, f"{name}_line2", train)
            y = (y + z) / jnp.sqrt(2.0)
            out = SpectralConv(1, 1, name=f"{name}_out")(y, train)
            rows.append(out[..., 0])
        return jnp.concatenate(rows, axis=1)

    def _line(self, x: jax.Array, size: int, name: str, train: bool) -> jax.Array:
        x = SpectralConv(self.width, size, name=name)(x, train)
        x = layers.GroupNorm(4, name=f"{name}_norm")(x)
        return nn.leaky_relu(x, 0.2)


class SpectralConv(nn.Module):
    """A convolution along a line, circular, with its largest singular value set to 1.

    The value is that of the kernel as a matrix ``[size in, out]``, estimated by one
    step of power iteration per training step (Miyato et al., arXiv:1802.05957).

    Attributes:
      width: output channels.
      size: of the kernel, odd.
    """

    width: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[batch, length, c]`` to ``[batch, length, width]``."""
        shape = (self.size * x.shape[-1], self.width)
        kernel = self.param("kernel", layers.TORCH_UNIFORM, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        vector = self.variable(
            "batch_stats",
            "left",
            lambda: jax.random.normal(self.make_rng("params"), (self.width,)),
        )
        u = vector.value
        v = _unit(jax.lax.stop_gradient(kernel) @ u)
        if train:
            u = _unit(v @ jax.lax.stop_gradient(kernel))
            if not self.is_initializing():
                vector.value = u
        else:
            u = _unit(u)
        largest = v @ kernel @ u
        half = self.size // 2
        seen = [jnp.roll(x, half - i, axis=1) for i in range(self.size)]
        return jnp.concatenate(seen, axis=-1) @ (kernel / largest) + bias


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
