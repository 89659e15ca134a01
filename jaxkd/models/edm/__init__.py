"""The U-Nets of EDM: DDPM++, NCSN++ and ADM, by the names of the published models.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv:2206.00364), table 7 and appendix F.2. A denoiser is made of one by

    denoisers.edm(edm.bind(network, variables, class_labels))

and the published weights are read by ``jaxkd.convert.edm``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxkd.core import lookup
from jaxkd.models.edm import layers as parts
from jaxkd.models.edm.unet import UNet

_TYPES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "residual", "skip"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(UNet):
    """DDPM++ by default, and NCSN++ (Song et al., arXiv:2011.13456).

    Attributes:
      embedding_type: of the noise: "positional", or "fourier" for NCSN++.
      channel_mult_noise: width of that; 2 for NCSN++.
      encoder_type: how the images themselves come in at the coarser levels: "standard"
        (not), "residual" (NCSN++) or "skip".
      decoder_type: "standard", or "skip" for a result that is the sum of the levels'.
      resample_filter: separable; (1, 3, 3, 1) for NCSN++.
    """

    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[float, ...] = (1, 1)

    def _check(self, images, noise_labels, class_labels, augment_labels) -> None:
        super()._check(images, noise_labels, class_labels, augment_labels)
        for name, known in _TYPES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}."
                )
        if len(self.resample_filter) % 2:
            raise ValueError(
                f"resample_filter is {self.resample_filter}; expected an even number."
            )

    def _style(self) -> parts.Style:
        return parts.Style(
            starts=parts.SONG,
            adaptive=False,
            skip_scale=0.5**0.5,
            epsilon=1e-6,
            project=True,
            taps=self.resample_filter,
            dropout=self.dropout,
            dtype=self.dtype,
        )

    def _heads(self, width: int) -> int:
        return 1

    def _attends_up(self, index: int) -> bool:
        return index == self.num_blocks

    def _embed(self, noise, class_labels, augment_labels) -> jax.Array:
        start, width = parts.SONG.main, self.model_channels * self.channel_mult_noise
        if self.embedding_type == "fourier":
            emb = parts.Fourier(width, name="map_noise")(noise)
        else:
            emb = parts.positional(noise, width, endpoint=True)
        emb = jnp.roll(emb, width // 2, axis=-1)  # Sines before cosines.
        if class_labels is not None:
            scaled = class_labels * self.label_dim**0.5
            emb = emb + parts.dense(scaled, width, start, name="map_label")
        emb = emb + self._augmentation(augment_labels, len(noise), width, start)
        wide = self.model_channels * self.channel_mult_emb
        emb = nn.silu(parts.dense(emb, wide, start, name="map_layer0"))
        return nn.silu(parts.dense(emb, wide, start, name="map_layer1"))

    def _join(self, x: jax.Array, aux: jax.Array, name: str):
        taps = self.resample_filter
        if self.encoder_type == "residual":
            # The convolution leaves a margin, which the filter then takes.
            margin, name = (len(taps) - 1) // 2, f"{name}_aux_residual"
            aux = self._conv(aux, x.shape[-1], name, margin=margin)
            x = aux = (x + parts.downsample(aux, taps, padding=0)) / 2**0.5
        elif self.encoder_type == "skip":
            aux = parts.downsample(aux, taps)
            x = x + self._conv(aux, x.shape[-1], f"{name}_aux_skip", size=1)
        return x, aux

    def _head(self, x: jax.Array, result: jax.Array | None, level: int):
        if level and self.decoder_type == "standard":
            return None
        name = f"dec_{self._sides()[level]}x{self._sides()[level]}"
        now = self._output(x, f"{name}_aux_norm", f"{name}_aux_conv")
        if result is None:
            return now
        return now + parts.upsample(result, self.resample_filter)


class DhariwalUNet(UNet):
    """ADM (Dhariwal and Nichol, arXiv:2105.05233), by default that of ImageNet-64.

    Its attention has heads of 64 channels, and none in a level of fewer channels.
    """

    img_resolution: int = 64
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)

    def _style(self) -> parts.Style:
        return parts.Style(
            starts=parts.DHARIWAL,
            adaptive=True,
            skip_scale=1.0,
            epsilon=1e-5,
            project=False,
            taps=(1, 1),
            dropout=self.dropout,
            dtype=self.dtype,
        )

    def _heads(self, width: int) -> int:
        return width // 64

    def _stem_width(self) -> int:
        return self.model_channels * self.channel_mult[0]

    def _embed(self, noise, class_labels, augment_labels) -> jax.Array:
        starts, width = parts.DHARIWAL, self.model_channels
        emb = parts.positional(noise, width, endpoint=False)
        emb = emb + self._augmentation(augment_labels, len(noise), width, starts.last)
        wide = width * self.channel_mult_emb
        emb = nn.silu(parts.dense(emb, wide, starts.main, name="map_layer0"))
        emb = parts.dense(emb, wide, starts.main, name="map_layer1")
        if class_labels is not None:
            start = parts.Start(nn.initializers.normal(1.0))
            emb = emb + parts.dense(
                class_labels, wide, start, name="map_label", use_bias=False
            )
        return nn.silu(emb)

    def _head(self, x: jax.Array, result: jax.Array | None, level: int):
        return None if level else self._output(x, "out_norm", "out_conv")


_DDPMPP = {"augment_dim": 9}
_NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": (1, 3, 3, 1),
    "augment_dim": 9,
}
_64 = {"img_resolution": 64}
_FFHQ, _AFHQ = {"dropout": 0.05}, {"dropout": 0.25}
_CIFAR = {"channel_mult": (2, 2, 2), "dropout": 0.13}
_TEN = {"label_dim": 10}

# Name of a published model, without "edm-" -> (module class, attributes); vp is DDPM++
# and ve is NCSN++, whose preconditioning is EDM's all the same.
PUBLISHED: Mapping[str, tuple[type[UNet], dict[str, Any]]] = {
    "cifar10-32x32-uncond-vp": (SongUNet, _DDPMPP | _CIFAR),
    "cifar10-32x32-uncond-ve": (SongUNet, _NCSNPP | _CIFAR),
    "cifar10-32x32-cond-vp": (SongUNet, _DDPMPP | _CIFAR | _TEN),
    "cifar10-32x32-cond-ve": (SongUNet, _NCSNPP | _CIFAR | _TEN),
    "ffhq-64x64-uncond-vp": (SongUNet, _DDPMPP | _64 | _FFHQ),
    "ffhq-64x64-uncond-ve": (SongUNet, _NCSNPP | _64 | _FFHQ),
    "afhqv2-64x64-uncond-vp": (SongUNet, _DDPMPP | _64 | _AFHQ),
    "afhqv2-64x64-uncond-ve": (SongUNet, _NCSNPP | _64 | _AFHQ),
    "imagenet-64x64-cond-adm": (DhariwalUNet, {"label_dim": 1000}),
}


def build(name: str, **options: Any) -> UNet:
    """Builds the network of a published model.

    Args:
      name: one of ``PUBLISHED``, such as ``"cifar10-32x32-cond-vp"``.
      **options: attributes of the network to override, such as
        ``dtype=jnp.bfloat16`` or ``model_channels=32``.

    Raises:
      ValueError: if there is no such model, or it has no such option.
    """
    if name not in PUBLISHED:
        close = lookup.closest(name, PUBLISHED)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(
            f"Unknown EDM model {name!r}.{hint} Models: {', '.join(PUBLISHED)}."
        )
    module, attributes = PUBLISHED[name]
    return make(module, **{**attributes, **options})


def make(module: type[UNet], **options: Any) -> UNet:
    """Builds a network of a kind, ``SongUNet`` or ``DhariwalUNet``.

    Raises:
      ValueError: if it has no such option.
    """
    known = set(module.__dataclass_fields__) - {"parent", "name"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"{module.__name__} has no option {', '.join(unknown)}. "
            f"Options: {', '.join(sorted(known))}."
        )
    return module(**options)


class _Apply(NamedTuple):
    """Runs a network; equal ones share what is compiled for them."""

    network: UNet

    def __call__(self, variables, class_labels, augment_labels, x, c_noise):
        return self.network.apply(variables, x, c_noise, class_labels, augment_labels)


def bind(
    network: UNet,
    variables: Any,
    class_labels: jax.Array | None = None,
    augment_labels: jax.Array | None = None,
) -> Partial:
    """Binds a network to its variables and labels, for ``diffusion.denoisers``.

    Args:
      network: such as ``build`` makes.
      variables: of it.
      class_labels: ``[batch, label_dim]``, one-hot; None for no class.
      augment_labels: ``[batch, augment_dim]``; None for no augmentation.

    Returns:
      ``network(x, c_noise) -> F`` on ``[batch, side, side, channels]`` and ``[batch]``.
      Its arrays are arguments of compiled functions, not constants in them.
    """
    return Partial(_Apply(network), variables, class_labels, augment_labels)
