"""Checks a checkpoint of PaliGemma: its count, each tensor's statistics, its logits."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from jaxkd.convert.paligemma import load_paligemma, published_count
from jaxkd.core.errors import UserError
from jaxkd.models.paligemma import PaliGemma, PaliGemmaConfig

INPUTS = ("images", "tokens", "causal", "valid", "logits")


class Row(NamedTuple):
    """One leaf: its path, shape, first digits of its SHA-256, moments, non-finites."""

    path: str
    shape: tuple[int, ...]
    checksum: str
    mean: float
    std: float
    not_finite: int


class Verdict(NamedTuple):
    """What was found out about a checkpoint.

    Attributes:
      config: the model's sizes.
      parameters: their number.
      published: the parameters of the published model of these sizes, or None.
      rows: one for each leaf.
      difference: largest absolute difference of logits from the reference, over real
        tokens; None without a reference.
    """

    config: PaliGemmaConfig
    parameters: int
    published: int | None
    rows: list[Row]
    difference: float | None


def verify(
    path: str | Path,
    *,
    dtype: Any = "float32",
    reference: str | Path | None = None,
    against: str | None = None,
) -> Verdict:
    """Loads a checkpoint and checks what can be checked.

    Args:
      path: as for ``load_paligemma``.
      dtype: to load and to compute in.
      reference: an ``.npz`` of ``images``, ``tokens``, ``causal``, ``valid`` and the
        ``logits`` that another implementation has computed from them.
      against: "hf" to compute the reference now, with torch and transformers.

    Raises:
      UserError: if the checkpoint is damaged, or the count is not the published one.
    """
    config, params = load_paligemma(path, dtype=dtype)
    flat = traverse_util.flatten_dict(params, sep="/")
    rows = [_row(name, np.asarray(leaf)) for name, leaf in flat.items()]
    count = sum(leaf.size for leaf in flat.values())
    published = published_count(config)
    if published is not None and published != count:
        raise UserError(
            f"{path} has {count:,} parameters, expected {published:,} of the published "
            "model of these sizes."
        )
    inputs = None
    if reference is not None:
        inputs = _read(Path(reference))
    elif against is not None:
        inputs = _compute(Path(path), config, against)
    difference = None if inputs is None else _compare(config, params, inputs)
    return Verdict(config, count, published, rows, difference)


def report(verdict: Verdict) -> str:
    """Formats a verdict for a terminal."""
    lines = [f"{'leaf':64} {'shape':>24} {'sha256':>12} {'mean':>11} {'std':>10}"]
    for row in verdict.rows:
        shape = "x".join(map(str, row.shape))
        bad = f"  {row.not_finite} NOT FINITE" if row.not_finite else ""
        lines.append(
            f"{row.path:64} {shape:>24} {row.checksum:>12} {row.mean:>11.3e} "
            f"{row.std:>10.3e}{bad}"
        )
    known = "as published" if verdict.published else "no published model's sizes"
    lines.append(f"{verdict.parameters:,} parameters ({known})")
    broken = sum(row.not_finite for row in verdict.rows)
    lines.append(
        f"{broken} values are not finite" if broken else "all values are finite"
    )
    if verdict.difference is not None:
        lines.append(f"logits differ by at most {verdict.difference:.2e}")
    return "\n".join(lines)


def _row(path: str, array: np.ndarray) -> Row:
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    wide = array.astype(np.float32)
    finite = wide[np.isfinite(wide)]
    bad = wide.size - finite.size
    mean, std = np.nan, np.nan
    if finite.size:
        mean = float(np.mean(finite, dtype=np.float64))
        std = float(np.std(finite, dtype=np.float64))
    return Row(path, array.shape, digest[:12], mean, std, bad)


def _compare(config, params, inputs: Mapping[str, np.ndarray]) -> float:
    model = PaliGemma(config)
    apply = jax.jit(
        lambda p, images, tokens, causal, valid: model.apply(
            {"params": p}, images, tokens, causal=causal, valid=valid
        )
    )
    valid = inputs["valid"].astype(bool)
    got = apply(
        params, inputs["images"], inputs["tokens"], inputs["causal"].astype(bool), valid
    )
    expected = inputs["logits"]
    got = np.asarray(got)[..., : expected.shape[-1]]
    if got.shape != expected.shape:
        raise UserError(
            f"The reference has logits of shape {expected.shape}, the model "
            f"{got.shape}. Expected [batch, length, vocabulary] of the same tokens."
        )
    return float(np.abs(got - expected)[valid].max())


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in INPUTS}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is no reference: {error}. Expected an .npz with "
            f"{', '.join(INPUTS)}."
        ) from error


def _compute(folder: Path, config: PaliGemmaConfig, against: str):
    """Computes the logits of a fixed prompt with another implementation."""
    if against != "hf":
        raise UserError(f"Cannot compare with {against!r}. Expected 'hf'.")
    try:
        import torch
        from transformers import PaliGemmaForConditionalGeneration
    except ImportError as error:
        raise UserError(
            "Comparing with Hugging Face needs torch and transformers: pip install "
            "torch transformers. Or give the logits as an .npz with --reference."
        ) from error
    rng = np.random.default_rng(0)
    places, length = config.image_tokens, config.image_tokens + 12
    size = config.text.vocabulary
    images = rng.uniform(-1, 1, (1, *config.vision.image_shape, 3)).astype(np.float32)
    tokens = rng.integers(3, min(size, 1000), (1, length))
    other = PaliGemmaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    tokens[:, :places] = other.config.image_token_id
    tokens[:, places:] = np.where(
        tokens[:, places:] == other.config.image_token_id, 5, tokens[:, places:]
    )
    with torch.no_grad():
        logits = other(
            input_ids=torch.tensor(tokens),
            pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)),
            attention_mask=torch.ones((1, length), dtype=torch.long),
            token_type_ids=torch.zeros((1, length), dtype=torch.long),
        ).logits
    return {
        "images": images,
        "tokens": tokens.astype(np.int32),
        "causal": np.zeros((1, length), bool),
        "valid": np.ones((1, length), bool),
        "logits": logits.float().numpy(),
    }
