"""Readers of text lines: ABINet's vision model, and a ViT in the manner of PARSeq.

Both give every slot of a line its distribution over characters at once. They are built
so that a student for half-sized images has maps as large as its teacher's: by a first
stride of 1 instead of 2, or by patches half as large (KD-LTR, arXiv:2308.02770,
section 3.1); ``for_half_size`` moves a teacher's parameters there.

- ``abinet_vision``: ResNet45, three transformer layers and position attention (Fang et
  al., "Read Like Humans", arXiv:2103.06495); ``abinet_vision_half`` is its student.
- ``parseq_vit``: the encoder of PARSeq (Bautista and Atienza, arXiv:2207.06966) with
  one decoder layer of position queries, without PARSeq's permuted language model;
  ``parseq_vit_half`` is its student.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.text_attention import (
    Attention,
    EncoderLayer,
    PositionAttention,
    norm,
    sinusoids,
)

Features = dict[str, jax.Array]
Five = tuple[int, int, int, int, int]


class Reader(nn.Module):
    """ABINet's vision model: a residual network, a transformer, position attention.

    Attributes:
      num_classes: characters and the end.
      slots: most characters of a line, and its end.
      first_stride: of the first stage: 2 for a teacher, 1 for a student that sees
        half the size.
      blocks: of the five stages.
      widths: of the five stages; the last is the width of the transformer.
      depth: layers of the transformer.
      heads: of its attention.
      hidden: width inside its layers.
      key_width: channels of the small U-Net that makes the keys.
      key_levels: its levels; the first halves the width, the others both sides.
      dropout: of the transformer in training; needs the random key ``dropout``.
      dtype: of the residual network; all behind it is float32.
    """

    num_classes: int
    slots: int = 26
    first_stride: int = 2
    blocks: Five = (3, 4, 6, 6, 3)
    widths: Five = (32, 64, 128, 256, 512)
    depth: int = 3
    heads: int = 8
    hidden: int = 2048
    key_width: int = 64
    key_levels: int = 4
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, Features]:
        """Reads lines.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether to use batch statistics and dropout.

        Returns:
          Logits ``[batch, slots, num_classes]``, and the features ``stage1`` to
          ``stage5`` (maps), ``semantic`` ``[batch, slots, width]`` and ``attention``
          ``[batch, slots, h, w]``.
        """
        conv, norm = layers.factories(train, True, self.dtype)
        x = nn.relu(norm(name="bn1")(conv(self.widths[0], 3, name="conv1")(images)))
        features = {}
        strides = (self.first_stride, 1, 2, 1, 1)
        stages = zip(self.blocks, self.widths, strides, strict=True)
        for stage, (count, width, stride) in enumerate(stages, start=1):
            for index in range(count):
                name = f"stage{stage}_block{index}"
                first = stride if index == 0 else 1
                x = _TextBlock(width, first, conv, norm, name=name)(x)
            features[f"stage{stage}"] = x
        batch, height, width, channels = x.shape
        x = x.reshape(batch, -1, channels).astype(jnp.float32)
        x = x + sinusoids(height * width, channels)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for index in range(self.depth):
            x = EncoderLayer(
                self.heads, self.hidden, self.dropout, train, name=f"layer{index}"
            )(x)
        x = x.reshape(batch, height, width, channels)
        attend = PositionAttention(
            self.slots, self.key_width, self.key_levels, train, name="attention"
        )
        vectors, attention = attend(x)
        features |= {"semantic": vectors, "attention": attention}
        return layers.Linear(self.num_classes, name="classifier")(vectors), features


class _TextBlock(nn.Module):
    """A 1x1, then a 3x3 convolution, and a shortcut."""

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, name="conv1")(x)))
        y = self.conv(self.width, 3, self.stride, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = layers.subsample(x, self.stride)
            x = self.conv(self.width, 1, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x)
        return nn.relu(x + y)


class ViTReader(nn.Module):
    """A vision transformer with one decoder layer of position queries.

    Attributes:
      num_classes: characters and the end.
      slots: most characters of a line, and its end.
      patch: height and width of a patch: (4, 8) for a teacher, (2, 4) for a student
        that sees half the size.
      width: of the tokens.
      depth: layers of the encoder.
      heads: of its attention; the decoder has twice as many, as PARSeq's.
      hidden: width inside the layers.
      dropout: in training; needs the random key ``dropout``.
      dtype: of the patches; all behind their embedding is float32.
    """

    num_classes: int
    slots: int = 26
    patch: tuple[int, int] = (4, 8)
    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, Features]:
        """Reads lines: as ``Reader``, with the features ``tokens`` and ``semantic``."""
        x = _embed_patches(images.astype(self.dtype), self.patch, self.width)
        start = nn.initializers.truncated_normal(0.02)
        x = x + self.param("positions", start, x.shape[1:])
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for index in range(self.depth):
            x = EncoderLayer(
                self.heads, self.hidden, self.dropout, train, True, name=f"layer{index}"
            )(x)
        tokens = norm(x, "norm")
        queries = self.param("queries", start, (self.slots, self.width))
        queries = jnp.broadcast_to(queries, (len(x), *queries.shape))
        look = Attention(2 * self.heads, name="decoder_attention")
        y = queries + look(norm(queries, "decoder_norm1"), tokens)
        z = layers.Linear(self.hidden, name="decoder_dense1")(norm(y, "decoder_norm2"))
        z = nn.gelu(z, approximate=False)
        y = y + layers.Linear(self.width, name="decoder_dense2")(z)
        vectors = norm(y, "decoder_norm")
        logits = layers.Linear(self.num_classes, name="classifier")(vectors)
        return logits, {"tokens": tokens, "semantic": vectors}


def _embed_patches(images, patch: tuple[int, int], width: int) -> jax.Array:
    """Maps images to ``[batch, tokens, width]``, one token per patch."""
    (down, across), (batch, height, length, channels) = patch, images.shape
    if height % down or length % across:
        raise ValueError(
            f"images have height {height} and width {length}, expected multiples of "
            f"the patch's {down} and {across}."
        )
    shape = (batch, height // down, down, length // across, across, channels)
    cells = images.reshape(shape).transpose(0, 1, 3, 2, 4, 5)
    flat = cells.reshape(batch, -1, down * across * channels)
    return layers.Linear(width, name="patches")(flat)


class SequenceProjection(nn.Module):
    """A bidirectional LSTM and a dense layer, shared by two readers' vectors.

    Attributes:
      hidden: width of each direction.
      width: of the result.
    """

    hidden: int = 256
    width: int = 512

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, slots, c]`` to ``[batch, slots, width]``."""
        forward = self._run(x, "forward")
        backward = self._run(x[:, ::-1], "backward")[:, ::-1]
        both = jnp.concatenate([forward, backward], axis=-1)
        return layers.Linear(self.width, name="out")(both)

    def _run(self, x: jax.Array, name: str) -> jax.Array:
        bound = self.hidden**-0.5

        def start(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        size = 4 * self.hidden
        inner = self.param(f"{name}_input", start, (x.shape[-1], size))
        outer = self.param(f"{name}_state", start, (self.hidden, size))
        bias = self.param(f"{name}_bias", start, (size,))

        def step(carry, row):
            state, memory = carry
            gates = row + state @ outer
            i, f, g, o = jnp.split(gates, 4, axis=-1)  # torch's order
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
            state = nn.sigmoid(o) * jnp.tanh(memory)
            return (state, memory), state

        blank = jnp.zeros((len(x), self.hidden), jnp.float32)
        _, states = jax.lax.scan(
            step, (blank, blank), (x @ inner + bias).swapaxes(0, 1)
        )
        return states.swapaxes(0, 1)


def for_half_size(
    teacher: Any, student: Any, *, patch: tuple[int, int] = (4, 8)
) -> Any:
    """Moves a reader's parameters to the student that sees images of half the size.

    Leaves of equal name and shape are copied, which is all there is to do for
    ``Reader``: its student differs in a stride, and lacks the convolution in the
    shortcut around it, if the widths are equal. A patch embedding is folded: each
    weight of the student becomes the sum of the 2 x 2 weights it stands for, so that
    the student sees a small image exactly as the teacher sees it enlarged by repeating
    pixels. (The public code starts it anew.)

    Args:
      teacher: parameters, or other variables such as batch statistics.
      student: the same of the student, as its ``init`` makes them.
      patch: the teacher's, in pixels; only read where a patch embedding is folded.

    Returns:
      The student's new variables.

    Raises:
      ValueError: if a leaf of the student has no such counterpart.
    """
    known = dict(jax.tree_util.tree_leaves_with_path(teacher))

    def move(path, ours):
        theirs, name = known.get(path), jax.tree_util.keystr(path)
        if theirs is not None and theirs.shape == ours.shape:
            return theirs
        folded = (4 * len(ours), *ours.shape[1:])
        if theirs is not None and theirs.shape == folded and "patches" in name:
            (down, across), shape = patch, (-1, ours.shape[-1])
            cells = theirs.reshape(down // 2, 2, across // 2, 2, *shape)
            return cells.sum((1, 3)).reshape(ours.shape)
        got = "no such leaf" if theirs is None else f"shape {theirs.shape}"
        raise ValueError(
            f"the teacher has {got} for {name}, expected shape {ours.shape}. Give both "
            "the same sizes, but for the first stride or the patch, and show the "
            "student images of half the size."
        )

    return jax.tree_util.tree_map_with_path(move, student)


VARIANTS: dict[str, Any] = {
    "abinet_vision": (Reader, {}),
    "abinet_vision_half": (Reader, {"first_stride": 1}),
    "parseq_vit": (ViTReader, {}),
    "parseq_vit_half": (ViTReader, {"patch": (2, 4)}),
}
