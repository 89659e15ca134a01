"""KRNet: turns features of two networks into comparable knowledge (MKD).

Built after the abstract of "Meta Knowledge Distillation for single image
super-resolution" (arXiv:2207.08356), whose code and equations are not public: learnable
networks, conditioned on the student's features and on the correlation with the
teacher's, apply texture-aware dynamic kernels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

_TAPS = 9


class KRNet(nn.Module):
    """Filters two maps by the same dynamic kernels, one per kind of texture.

    The teacher's map is adapted to the student's channels by a 1x1 convolution. Both,
    and their cosine at each pixel, decide on the kernels (3x3 and depthwise, softmax
    over their cells) and on the gates, which share each pixel among the kinds.

    Attributes:
      kinds: of texture.
      hidden: width of the layer between the pooled features and the kernels.
    """

    kinds: int = 4
    hidden: int = 16

    @nn.compact
    def __call__(
        self, student: jax.Array, teacher: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes knowledge maps.

        Args:
          student: ``[batch, h, w, c]``.
          teacher: ``[batch, h, w, c']``.

        Returns:
          The student's and the teacher's maps ``[batch, h, w, kinds, c]``, and gates
          ``[batch, h, w, kinds]``.

        Raises:
          ValueError: if the maps have different sizes.
        """
        if student.shape[:3] != teacher.shape[:3]:
            raise ValueError(
                f"student has shape {student.shape} and teacher {teacher.shape}, "
                "expected the same batch, height and width."
            )
        channels = student.shape[-1]
        adapted = layers.conv(channels, 1, use_bias=True, name="adapt")(teacher)
        cosine = _cosine(student, adapted)[..., None]
        seen = jnp.concatenate([student, adapted, cosine], axis=-1)
        hidden = nn.relu(layers.Linear(self.hidden, name="squeeze")(seen.mean((1, 2))))
        size = _TAPS * self.kinds * channels
        kernels = layers.Linear(size, name="kernels")(hidden)
        kernels = nn.softmax(kernels.reshape(-1, _TAPS, self.kinds, channels), axis=1)
        gates = nn.softmax(layers.conv(self.kinds, 1, use_bias=True, name="gate")(seen))
        return _filtered(student, kernels), _filtered(adapted, kernels), gates


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the cosine of two maps at each pixel, smooth where one is zero."""
    norms = jnp.sum(a**2, axis=-1) * jnp.sum(b**2, axis=-1)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(norms + 1e-12)


def _filtered(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Filters ``[batch, h, w, c]`` by ``[batch, 9, kinds, c]``; zeros lie outside."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    cells = [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    return jnp.einsum("tbhwc,btgc->bhwgc", jnp.stack(cells), kernels)
