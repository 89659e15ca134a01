"""FCOS: a detector without anchors, on a feature pyramid, with what MSAD adds to it.

Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection" (arXiv:1904.01355),
on FPN (arXiv:1612.03144) and a ResNet whose widths are multiplied by ``width``, as the
widths of slimmable networks are (arXiv:1812.08928; ``slim`` takes a narrow network out
of a wide one). For Multi-Scale Aligned Distillation (Qi et al., arXiv:2109.06875) the
pyramid can be read one level lower (``first_level=2``), so that the maps of an image of
half the size are as large as those of the whole one, and ``FusionGate`` mixes the two.

Boxes are in pixels of the *large* image. What is computed of boxes and locations is in
``jaxkd.models.boxes``, and is found here, too.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.ranges import Range
from jaxkd.models import layers, resnet
from jaxkd.models.boxes import BACKGROUND as BACKGROUND
from jaxkd.models.boxes import RANGES as RANGES
from jaxkd.models.boxes import STRIDES as STRIDES
from jaxkd.models.boxes import Detections as Detections
from jaxkd.models.boxes import Targets as Targets
from jaxkd.models.boxes import decode as decode
from jaxkd.models.boxes import locations as locations
from jaxkd.models.boxes import nms as nms
from jaxkd.models.boxes import targets as targets

Pyramid = dict[str, jax.Array]


class Backbone(nn.Module):
    """A residual network without its head, of four stages.

    Attributes:
      stem: channels of the first convolution, times ``width``.
      widths: of the stages, likewise.
      blocks: of each stage.
      block: ``resnet.BottleneckBlock`` or ``resnet.BasicBlock``.
      width: multiplier of all channels, such as 0.25 to 1 in MSAD.
      photographs: whether a 7x7 convolution of stride 2 and a max-pool come first; else
        a 3x3 convolution of stride 2 and another of stride 2, for small images.
      dtype: of the computation.
    """

    stem: int = 64
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    block: type[nn.Module] = resnet.BottleneckBlock
    width: float = 1.0
    photographs: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Pyramid:
        """Returns the maps ``res2`` (stride 4) to ``res5`` (stride 32)."""
        conv, norm = layers.factories(train, False, self.dtype)
        stem = _scaled(self.stem, self.width)
        x = conv(stem, 7 if self.photographs else 3, 2, name="conv1")(images)
        x = nn.relu(norm(name="bn1")(x))
        if self.photographs:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        else:
            x = nn.relu(norm(name="bn2")(conv(stem, 3, 2, name="conv2")(x)))
        maps, counts = {}, zip(self.blocks, self.widths, strict=True)
        for stage, (count, width) in enumerate(counts, start=2):
            for index in range(count):
                name = f"stage{stage - 1}_block{index}"
                stride = 2 if stage > 2 and index == 0 else 1
                width_here = _scaled(width, self.width)
                x = self.block(width_here, stride, conv, norm, name=name)(x)
                x = nn.relu(x)
            maps[f"res{stage}"] = x
        return maps


def _scaled(width: int, factor: float) -> int:
    return max(round(width * factor), 1)


class FPN(nn.Module):
    """A feature pyramid of levels 2 to 7, of strides 4 to 128.

    Attributes:
      width: channels of every level.
    """

    width: int = 256

    @nn.compact
    def __call__(self, maps: Pyramid) -> Pyramid:
        """Maps ``res2`` to ``res5`` to ``p2`` to ``p7``; 6 and 7 come from ``res5``."""
        conv, levels = self._conv, {}
        above = conv(1, 1, "lateral5")(maps["res5"])
        levels["p5"] = conv(3, 1, "output5")(above)
        for level in (4, 3, 2):
            side = conv(1, 1, f"lateral{level}")(maps[f"res{level}"])
            above = side + jax.image.resize(above, side.shape, "nearest")
            levels[f"p{level}"] = conv(3, 1, f"output{level}")(above)
        levels["p6"] = conv(3, 2, "output6")(maps["res5"])
        levels["p7"] = conv(3, 2, "output7")(nn.relu(levels["p6"]))
        return levels

    def _conv(self, size: int, stride: int, name: str) -> nn.Conv:
        start = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        return layers.conv(
            self.width, size, stride, use_bias=True, init=start, name=name
        )


class Head(nn.Module):
    """The head of FCOS, which all levels share.

    Attributes:
      num_classes: without background.
      levels: how many, each with a scale of its own.
      depth: convolutions of both towers.
      groups: of the group normalisation.
    """

    num_classes: int
    levels: int = 5
    depth: int = 4
    groups: int = 32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> dict[str, jax.Array]:
        """Computes ``logits``, ``distances`` and ``centerness`` at every location."""
        width = maps[0].shape[-1]
        towers = {}
        for kind in ("class", "box"):
            towers[kind] = [
                (
                    self._conv(width, f"{kind}_conv{index}"),
                    layers.GroupNorm(self.groups, name=f"{kind}_norm{index}"),
                )
                for index in range(self.depth)
            ]
        bias = nn.initializers.constant(-np.log(99.0))
        logits = self._conv(self.num_classes, "class", bias_init=bias)
        distances = self._conv(4, "box", use_bias=False)
        centerness = self._conv(1, "centerness", use_bias=False)
        ones = nn.initializers.ones
        scales = self.param("scales", ones, (self.levels,))
        rows: dict[str, list[jax.Array]] = {}
        for level, x in enumerate(maps):
            seen = {kind: _run(tower, x) for kind, tower in towers.items()}
            found = {
                "logits": logits(seen["class"]),
                "distances": nn.relu(distances(seen["box"]) * scales[level]),
                "centerness": centerness(seen["box"]),
            }
            for name, value in found.items():
                flat = value.reshape(len(value), -1, value.shape[-1])
                rows.setdefault(name, []).append(flat)
        outputs = {name: jnp.concatenate(parts, 1) for name, parts in rows.items()}
        return outputs | {"centerness": outputs["centerness"][..., 0]}

    def _conv(self, width: int, name: str, use_bias=True, bias_init=None) -> nn.Conv:
        return nn.Conv(
            width,
            (3, 3),
            use_bias=use_bias,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=bias_init or nn.initializers.zeros,
            name=name,
        )


def _run(tower, x: jax.Array) -> jax.Array:
    for conv, norm in tower:
        x = nn.relu(norm(conv(x)))
    return x


class FCOS(nn.Module):
    """A detector.

    Attributes:
      num_classes: without background.
      stem, widths, blocks, block, width, photographs, dtype: see ``Backbone``.
      fpn_width: channels of the pyramid.
      levels: of the pyramid that the head sees, 1 to 5.
      first_level: the finest of them: 3 (stride 8), or 2 for images of half the size
        (MSAD's pyramid shift).
      head_depth: see ``Head``.
      groups: likewise.
      fusion: whether there is a ``FusionGate``, as in MSAD's teacher.
    """

    num_classes: int
    stem: int = 64
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    block: type[nn.Module] = resnet.BottleneckBlock
    width: float = 1.0
    photographs: bool = True
    fpn_width: int = 256
    levels: Annotated[int, Range(1, 5)] = 5
    first_level: Annotated[int, Range(2, 3)] = 3
    head_depth: int = 4
    groups: int = 32
    fusion: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the parts; there is one for all levels and sizes."""
        self.backbone = Backbone(
            self.stem,
            self.widths,
            self.blocks,
            self.block,
            self.width,
            self.photographs,
            self.dtype,
        )
        self.fpn = FPN(self.fpn_width)
        self.head = Head(self.num_classes, self.levels, self.head_depth, self.groups)
        if self.fusion:
            self.gate = FusionGate()

    def __call__(
        self, images: jax.Array, train: bool = False, first_level: int | None = None
    ) -> tuple[dict[str, jax.Array], Pyramid]:
        """Detects objects.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses the statistics of the batch.
          first_level: instead of the attribute.

        Returns:
          ``logits`` ``[batch, locations, num_classes]``, ``distances`` to the left,
          top, right and bottom side in strides ``[batch, locations, 4]``, and
          ``centerness`` logits ``[batch, locations]``; and the maps ``level0`` ... that
          the head saw, the finest first.
        """
        features = self.pyramid(images, train, first_level)
        if self.fusion and self.is_initializing():
            self.gate(features, features)  # makes its parameters
        return self.detect(features), features

    def pyramid(
        self, images: jax.Array, train: bool = False, first_level: int | None = None
    ) -> Pyramid:
        """Computes the maps ``level0`` ... that the head sees."""
        maps = self.backbone(images, train)
        maps = self.fpn({k: x.astype(jnp.float32) for k, x in maps.items()})
        first = self.first_level if first_level is None else first_level
        wanted = range(first, first + self.levels)
        return {f"level{i}": maps[f"p{level}"] for i, level in enumerate(wanted)}

    def fuse(self, large: Pyramid, small: Pyramid) -> Pyramid:
        """Mixes the maps of a large and a small image by the gate."""
        return self.gate(large, small)

    def detect(self, maps: Pyramid) -> dict[str, jax.Array]:
        """Applies the head to maps such as ``pyramid`` or ``FusionGate`` makes."""
        return self.head([maps[f"level{i}"] for i in range(self.levels)])


class FusionGate(nn.Module):
    """Mixes the pyramids of a large and a small image (MSAD's crossing fusion).

    Two weights, which sum to 1, are computed from both maps' means by one gate for all
    levels (arXiv:2109.06875, section 3.3).

    Attributes:
      hidden: width of its inner layer.
    """

    hidden: int = 32

    @nn.compact
    def __call__(self, large: Pyramid, small: Pyramid) -> Pyramid:
        """Returns ``g0 large + g1 small`` at each level.

        Raises:
          ValueError: if the levels or their shapes differ.
        """
        shapes = [{k: v.shape for k, v in maps.items()} for maps in (large, small)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the large image's maps have shapes {shapes[0]} and the small one's "
                f"{shapes[1]}, expected equal. Read the small one's pyramid one level "
                "lower, and give both images sides that divide by the largest stride."
            )
        squeeze = nn.Dense(self.hidden, use_bias=False, name="squeeze")
        excite = nn.Dense(2, use_bias=False, name="excite")
        fused = {}
        for name in large:
            pair = jnp.concatenate([large[name], small[name]], axis=-1)
            gates = nn.softmax(excite(nn.relu(squeeze(layers.global_mean(pair)))))
            g = gates[:, None, None, :]
            fused[name] = g[..., :1] * large[name] + g[..., 1:] * small[name]
        return fused


def slim(wide: Any, narrow: Any) -> Any:
    """Takes a narrow network's variables out of a wide one: each axis's first entries.

    So the widths of a slimmable network share their weights. Such networks keep batch
    statistics of every width apart: run a few training batches through the result.

    Args:
      wide: variables.
      narrow: arrays or shapes of the narrow network, of the same structure.

    Returns:
      Variables of the narrow shapes.

    Raises:
      ValueError: if a narrow leaf is larger than the wide one.
    """

    def cut(path, ours, theirs):
        smaller = zip(ours.shape, theirs.shape, strict=True)
        if any(a > b for a, b in smaller):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has shape {theirs.shape} in the wide "
                f"network and {ours.shape} in the narrow one, expected no larger."
            )
        return theirs[tuple(slice(size) for size in ours.shape)]

    return jax.tree_util.tree_map_with_path(cut, narrow, wide)


_SMALL: dict[str, Any] = {
    "stem": 16,
    "widths": (16, 32, 64, 64),
    "blocks": (1, 1, 1, 1),
    "block": resnet.BasicBlock,
    "photographs": False,
    "fpn_width": 32,
    "head_depth": 2,
    "groups": 8,
}

VARIANTS: dict[str, Any] = {
    "fcos_resnet50": (FCOS, {}),
    **{
        f"fcos_resnet50_{round(100 * width):03d}": (FCOS, {"width": width})
        for width in (0.25, 0.5, 0.75)
    },
    "fcos_small": (FCOS, _SMALL),
}
