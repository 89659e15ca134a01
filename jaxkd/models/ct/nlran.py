"""NL-RAN: residual 3-D attention with a non-local block, for CT volumes.

Yang et al., "An Explainable Non-local Network for COVID-19 Diagnosis"
(arXiv:2408.04300). Known are the parts: a 3-D residual trunk, stacked attention modules
that go down and up again, a non-local block, and the mask of the first module as heat
map. A table of layers was not found; ``nlran56`` puts the parts together as
Attention-56 of the Residual Attention Network does (arXiv:1704.06904, table 2), with
half of its channels and with bottlenecks of a quarter of them.

- ``nlran56``: for about 64x128x128 voxels; 14.6 M parameters.
- ``nlran_tiny``: for about 24x48x48 voxels on a CPU.
- ``nlran_micro``: the same with less work: a stage less, and as coarse as ``nlran56``.
- ``nlran_local``: one stage of bottlenecks, so that a place of the plain network
  ``resnet3d_local`` sees 15 voxels along each axis; one of ``resnet3d_micro`` sees 87
  (``receptive_field.py``). Only the two additions relate places further apart.

Each part can be left out: ``attention="none"`` takes the masks away
and keeps the trunk, ``non_local=0`` the non-local block; without both it is a plain
residual network. ``attention="cbam3d"`` puts CBAM in the masks' place.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.ranges import Items, Range
from jaxkd.models import layers
from jaxkd.models.ct import attention as attention3d
from jaxkd.models.ct import conv as conv3d
from jaxkd.models.ct.non_local import NonLocalBlock
from jaxkd.models.ct.resnet import BasicUnit, BottleneckUnit


class NLRAN(nn.Module):
    """The network; a plain 3-D residual network without its two additions.

    Attributes:
      num_classes: number of logits.
      stem: channels of the first convolution.
      stem_size: of its kernel.
      stem_stride: its stride along depth, height and width; ``(1, 2, 2)`` for slices
        that are far apart.
      pool: whether max-pooling halves the volume after it.
      widths: channels of the stages.
      strides: of the stages' first units.
      levels: how often each stage's attention module pools; stages beyond the list
        have ``tail`` plain units instead of a module.
      tail: see ``levels``.
      trunk: units in the trunk of a module.
      outer: units before and after its two branches.
      attention: kind of attention, or one for each module; see
        ``attention3d.AttentionModule``.
      extra_skips: likewise.
      non_local: number of the stage that the non-local block follows; 0 for none.
      non_local_kind: see ``nonlocal_block.NonLocalBlock``.
      sub_sample: likewise.
      unit: ``BottleneckUnit`` or ``BasicUnit``.
      hidden: units of a layer between the pooled features and the logits; 0 for none.
      dropout: share of the pooled features dropped in training; above 0, ``apply``
        wants ``rngs={"dropout": key}`` in training.
      dtype: of the computation; parameters and logits stay float32.
    """

    num_classes: int
    stem: int
    widths: Sequence[int]
    strides: Sequence[int]
    levels: Annotated[Sequence[int], Range(), Items(least=0)]
    stem_size: int = 7
    stem_stride: tuple[int, int, int] = (2, 2, 2)
    pool: bool = True
    tail: int = 2
    trunk: int = 2
    outer: int = 1
    attention: str | Sequence[str] = "mixed"
    extra_skips: bool = True
    non_local: int = 3
    non_local_kind: str = "gaussian"
    sub_sample: bool = False
    unit: type[nn.Module] = BottleneckUnit
    hidden: Annotated[int, Range()] = 0
    dropout: float = 0.3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        volumes: jax.Array,
        train: bool = False,
        shifts: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          volumes: ``[batch, depth, height, width, channels]``.
          train: whether batch normalisation uses (and updates) batch statistics, and
            features are dropped.
          shifts: added to the features ``stage1`` ... of that name; zeros, whose
            gradient is that of the feature, explain a prediction.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem``,
          ``attention1`` ... (masks, ``[batch, d, h, w, channels]``), ``stage1`` ...,
          ``last`` (what is pooled, ``[batch, d, h, w, channels]``) and ``pooled``
          ``[batch, channels]``.
        """
        conv, norm = attention3d.factories(train, self.dtype)
        x = conv(self.stem, self.stem_size, tuple(self.stem_stride), name="stem")(
            volumes
        )
        x = nn.relu(norm(name="stem_bn")(x))
        features = {"stem": x}
        x = conv3d.max_pool(x) if self.pool else x
        stages = zip(self.widths, self.strides, strict=True)
        for stage, (width, stride) in enumerate(stages, start=1):
            x = self.unit(width, stride, conv, norm, name=f"stage{stage}")(x)
            x, mask = self._module(stage, x, conv, norm)
            if mask is not None:
                features[f"attention{stage}"] = mask
            x = x + (shifts or {}).get(f"stage{stage}", 0)
            features[f"stage{stage}"] = x
            if stage == self.non_local:
                x = NonLocalBlock(
                    *(train, self.non_local_kind),
                    sub_sample=self.sub_sample,
                    dtype=self.dtype,
                    name="non_local",
                )(x)
        return self._head(nn.relu(norm(name="last_bn")(x)), features, train)

    def _module(self, stage, x, conv, norm):
        """Applies a stage's attention module, or the units in its place."""
        width = self.widths[stage - 1]
        if stage <= len(self.levels):
            kind = self.attention
            if not isinstance(kind, str):
                kind = kind[stage - 1]
            return attention3d.AttentionModule(
                levels=self.levels[stage - 1],
                unit=lambda name: self.unit(width, 1, conv, norm, name=name),
                conv=conv,
                norm=norm,
                trunk=self.trunk,
                outer=self.outer,
                kind=kind,
                extra_skips=self.extra_skips,
                name=f"stage{stage}_attention",
            )(x)
        for index in range(self.tail):
            x = self.unit(width, 1, conv, norm, name=f"stage{stage}_tail{index}")(x)
        return x, None

    def _head(self, x, features, train):
        features["last"] = x
        features["pooled"] = conv3d.global_mean(x)
        kept = nn.Dropout(self.dropout, deterministic=not train)(features["pooled"])
        if self.hidden:
            kept = nn.relu(layers.Linear(self.hidden, name="hidden")(kept))
        fc = layers.Linear(self.num_classes, zero_bias=True, name="fc")
        return fc(kept), features


_OFFICIAL: dict[str, Any] = {
    "stem": 32,
    "widths": (128, 256, 512, 1024),
    "strides": (1, 2, 2, 2),
    "levels": (3, 2, 1),
}
_TINY: dict[str, Any] = {
    "stem": 8,
    "stem_size": 3,
    "stem_stride": (1, 2, 2),
    "pool": False,
    "widths": (8, 16, 32),
    "strides": (1, 2, 2),
    "levels": (1, 1),
    "tail": 0,
    "trunk": 1,
    "outer": 0,
    "unit": BasicUnit,
    "dropout": 0.0,
}
_MICRO: dict[str, Any] = {
    **_TINY,
    "stem": 16,
    "stem_stride": (2, 2, 2),
    "widths": (16, 32),
    "strides": (2, 2),
    "non_local": 2,
}
_LOCAL: dict[str, Any] = {
    **_MICRO,
    "widths": (32,),
    "strides": (2,),
    "levels": (1,),
    "non_local": 1,
    "unit": BottleneckUnit,
}
_PLAIN: dict[str, Any] = {"attention": "none", "non_local": 0}
_CBAM: dict[str, Any] = {"attention": "cbam3d", "non_local": 0}

VARIANTS = {
    f"{name}{suffix}": (NLRAN, {**size, **parts})
    for suffix, size in {
        "56": _OFFICIAL,
        "_tiny": _TINY,
        "_micro": _MICRO,
        "_local": _LOCAL,
    }.items()
    for name, parts in {
        "nlran": {},
        "resnet3d": _PLAIN,
        "cbam3d": _CBAM,
    }.items()
}
