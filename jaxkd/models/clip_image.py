"""CLIP's image tower with a head: SO-ViT-B, and the joint embedding of SJEDD.

Radford et al. (arXiv:2103.00020); as detectors of forged faces in arXiv:2405.08487
(a linear head) and arXiv:2408.16305 (cosines with label embeddings). The tower is that
of ``models.stable_diffusion.clip``; ``python -m jaxkd.convert.clip`` reads its weights.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.label_table import LabelTable
from jaxkd.models.stable_diffusion.clip import IMAGE_VARIANTS, ClipImageEncoder

HEADS = ("linear", "labels")


class ClipImageClassifier(nn.Module):
    """The image tower, its projection into the space of texts, and a head on that.

    Attributes:
      num_classes: number of logits.
      head: ``"linear"``, or ``"labels"``: a ``LabelTable``.
      bias: of the label table; see ``LabelTable``.
      learn_scale: likewise.
      image_size: of the square images, in pixels.
      patch_size: of the square patches, in pixels.
      width: of the hidden states.
      layers: of the transformer.
      heads: of its attention.
      mlp_width: of its perceptrons.
      activation: of these, ``"quick_gelu"`` or ``"gelu"``.
      projection_width: of the embedding.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    head: str = "linear"
    bias: bool = True
    learn_scale: bool = True
    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    activation: str = "quick_gelu"
    projection_width: int = 768
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, image_size, image_size, 3]``, normalised by ``clip.MEAN``
            and ``clip.STD``.
          train: changes nothing; CLIP has neither dropout nor batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the tower's features with
          ``embedding`` ``[batch, projection_width]``, not normalised.

        Raises:
          ValueError: if ``head`` is unknown, or the images are of another size.
        """
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}, expected one of {HEADS}.")
        embedding, features = ClipImageEncoder(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            activation=self.activation,
            projection_width=self.projection_width,
            dtype=self.dtype,
            name="image",
        )(images, train)
        if self.head == "labels":
            table = LabelTable(self.num_classes, self.bias, self.learn_scale, name="fc")
            logits = table(embedding)
        else:
            logits = layers.Linear(self.num_classes, name="fc")(embedding)
        return logits, {**features, "embedding": embedding}


# As published, labels are compared without a bias and by the scale of CLIP.
_JOINT: dict[str, Any] = {"head": "labels", "bias": False, "learn_scale": False}
_TINY: dict[str, Any] = {
    **{"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "heads": 2},
    **{"mlp_width": 32, "projection_width": 8},
}
_SIZES: dict[str, dict[str, Any]] = {
    "clip_vit_b32": IMAGE_VARIANTS["ViT-B/32"],
    "clip_vit_l14": IMAGE_VARIANTS["ViT-L/14"],
    "clip_vit_tiny": _TINY,  # for tests and small images
}
VARIANTS = {
    **{name: (ClipImageClassifier, sizes) for name, sizes in _SIZES.items()},
    **{
        f"{name}_joint": (ClipImageClassifier, {**sizes, **_JOINT})
        for name, sizes in _SIZES.items()
    },
}
