"""Sizes of PaliGemma: the published presets, and a tiny one for tests.

Beyer et al., "PaliGemma: A versatile 3B VLM for transfer" (arXiv:2407.07726,
section 3): SigLIP So400m/14 sees, Gemma-2B reads and writes.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """Describes the vision tower, a pre-norm ViT without a class token.

    Attributes:
      image_shape: height and width in pixels.
      patch: side of a patch in pixels; both sides of the image are cut to whole
        patches.
      width: features of a token.
      depth: blocks.
      heads: attention heads; they divide ``width``.
      mlp: hidden features of each block's MLP.
    """

    image_shape: tuple[int, int] = (224, 224)
    patch: int = 14
    width: int = 1152
    depth: int = 27
    heads: int = 16
    mlp: int = 4304

    @property
    def tokens(self) -> int:
        """Number of tokens of one image."""
        height, width = self.image_shape
        return (height // self.patch) * (width // self.patch)


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """Describes the decoder.

    Attributes:
      width: features of a token.
      depth: blocks.
      mlp: hidden features of each block's gated MLP.
      heads: query heads.
      kv_heads: key and value heads; they divide ``heads``.
      head_dim: features of a head; ``heads * head_dim`` need not be ``width``.
      vocabulary: tokens, with the padding of the embedding table.
    """

    width: int = 2048
    depth: int = 18
    mlp: int = 16384
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    vocabulary: int = 257216


@dataclasses.dataclass(frozen=True)
class PaliGemmaConfig:
    """Describes the whole model, and how it computes.

    Attributes:
      vision: the vision tower.
      text: the decoder.
      dtype: of the activations, "float32" or "bfloat16"; parameters are cast to it
        where they are used. Norms, softmax and logits are float32 in any case.
      remat: whether the backward pass computes each block's activations anew.
      lora_alpha: adapters count ``lora_alpha / rank`` times; see ``lora``.
      lora_dropout: share of an adapter's inputs that training drops.
    """

    vision: SiglipConfig = SiglipConfig()
    text: GemmaConfig = GemmaConfig()
    dtype: str = "float32"
    remat: bool = False
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0

    @property
    def image_tokens(self) -> int:
        """Number of tokens that stand for one image, at the start of a sequence."""
        return self.vision.tokens


PRESETS: dict[str, PaliGemmaConfig] = {
    "3b-224": PaliGemmaConfig(),
    "3b-448": PaliGemmaConfig(SiglipConfig(image_shape=(448, 448))),
    "3b-896": PaliGemmaConfig(SiglipConfig(image_shape=(896, 896))),
    # heads * head_dim differs from the width, as it may.
    "tiny": PaliGemmaConfig(
        SiglipConfig((28, 28), patch=7, width=32, depth=2, heads=4, mlp=64),
        GemmaConfig(48, depth=2, mlp=96, heads=4, head_dim=16, vocabulary=1536),
    ),
}


def preset(name: str, **overrides) -> PaliGemmaConfig:
    """Returns a named configuration, with some of its attributes replaced.

    >>> preset("3b-224").image_tokens
    256

    Args:
      name: one of ``PRESETS``.
      **overrides: attributes of ``PaliGemmaConfig``.

    Raises:
      ValueError: if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(
            f"There is no preset {name!r} of PaliGemma. Expected one of "
            f"{', '.join(PRESETS)}."
        )
    return dataclasses.replace(PRESETS[name], **overrides)
