"""The shape of a target's trajectories: measured, and drawn."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd.diffusion import geometry, samplers, schedules
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits.models import SampledModel
from jaxkd.report.style import WIDTH, Theme, canvas, logarithmic

MOST_DRAWN = 24  # trajectories in one picture


class Shape(NamedTuple):
    """Trajectories measured along the way; arrays of ``[num_sigmas, batch]``.

    Attributes:
      sigmas: ``[num_sigmas]`` of a fine solution.
      deviation: of its states from their chord.
      denoised: of the implicit denoising path from its own.
      coordinates: ``[num_sigmas, batch, 1 + k]``, along the chord and beside it.
      inner: sigmas at which curvature and torsion are known.
      curvature: at those.
      torsion: at those, its magnitude; None in fewer than three dimensions, and of a
        network, whose single precision leaves nothing of it.
    """

    sigmas: np.ndarray
    deviation: np.ndarray
    denoised: np.ndarray
    coordinates: np.ndarray
    inner: slice
    curvature: np.ndarray
    torsion: np.ndarray | None


def measure(config: ConfigDict, target: SampledModel) -> Shape:
    """Measures trajectories of held-out latents, finely solved.

    Curvature and torsion are those of the projected trajectories. Densities in closed
    form are solved in double precision, as third derivatives magnify rounding.
    """
    config = gits_config.of_target(config, target.name)
    first, count = gits_config.HELD_OUT, min(config.batch, MOST_DRAWN)
    denoise = target.denoise(count)
    x = samplers.latents(range(first, first + count), target.shape, target.sigma_max)
    sigmas = schedules.polynomial(
        config.geometry.num_sigmas, target.sigma_min, target.sigma_max
    )
    double = target.name in config.densities
    with jax.enable_x64(double):
        x = jnp.asarray(np.asarray(x, np.float64))
        states = samplers.sample(denoise, x, sigmas, "heun").x
        path = geometry.denoising_path(denoise, states, sigmas)
    beside = min(2, x[0].size - 1)
    coordinates = geometry.project(states, beside).coordinates
    bends = geometry.frenet(coordinates, config.geometry.window)
    # Sigmas whose window was moved inside are biased.
    inner = slice(config.geometry.window // 2, -(config.geometry.window // 2))
    return Shape(
        sigmas,
        geometry.deviation(states),
        geometry.deviation(path),
        geometry.align(coordinates) if beside > 1 else coordinates,
        inner,
        bends.curvature[inner],
        np.abs(bends.torsion[inner]) if double and beside > 1 else None,
    )


def trajectories(path: Path, theme: Theme, *, shape: Shape) -> None:
    """Draws trajectories by their chord and what is beside it, in one frame."""
    x = shape.coordinates
    solid = x.shape[-1] > 2
    with canvas(path, (WIDTH, 5.6 if solid else 4.2), theme) as figure:
        if solid:
            axes = figure.add_axes((0.0, 0.0, 0.95, 1.0), projection="3d")
            _style_space(axes, theme)
        else:
            axes = figure.add_axes((0.1, 0.13, 0.87, 0.84))
            # A plane shows the bend near the end only when that is magnified.
            axes.set_xscale("symlog", linthresh=1.0)
            axes.xaxis.set_major_formatter("{x:g}")
        for index in range(x.shape[1]):
            hue = theme.hues[index % len(theme.hues)]
            axes.plot(*x[:, index].T, color=hue, linewidth=1.0, alpha=0.8)
        start, end = x[0].mean(axis=0), np.zeros(x.shape[-1])
        for point, text in ((end, "data"), (start, "noise"))[: 2 if solid else 1]:
            axes.plot(*point[:, None], "o", color=theme.ink, markersize=5)
            axes.text(*point, f" {text}", color=theme.ink)
        axes.set_xlabel("along the chord")
        axes.set_ylabel("component 1" if solid else "beside the chord")
        if solid:
            axes.set_zlabel("component 2")


def along(path: Path, theme: Theme, *, shape: Shape) -> None:
    """Draws deviation from the chord, curvature and torsion against sigma."""
    with canvas(path, (WIDTH, 3.4), theme, "constrained") as figure:
        axes = figure.subplots(1, 2 if shape.torsion is None else 3)
        lines = [(shape.deviation, "states"), (shape.denoised, "denoised path")]
        for (values, name), hue in zip(lines, theme.hues, strict=False):
            _band(axes[0], shape.sigmas, values, hue, name)
        axes[0].set_ylim(0, 1.35 * axes[0].get_ylim()[1])  # leaves the legend room
        axes[0].set_ylabel("distance from the chord")
        axes[0].legend(frameon=False, fontsize=9, loc="upper right")
        inner = shape.sigmas[shape.inner]
        _quartiles(axes[1], inner, shape.curvature, theme.hues[2])
        axes[1].set_ylabel("curvature")
        if shape.torsion is not None:
            _quartiles(axes[2], inner, shape.torsion, theme.hues[3])
            axes[2].set_ylabel("torsion, magnitude")
        for axis in axes:
            logarithmic(axis, "x")
            axis.set_xlim(shape.sigmas[0], shape.sigmas[-1])
            axis.set_xlabel("sigma")


def _band(axis: Any, sigmas: np.ndarray, values: Any, hue: str, label: str) -> None:
    """Draws the mean over samples with a band of one standard deviation."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    axis.plot(sigmas, mean, color=hue, linewidth=1.7, label=label)
    low = np.maximum(mean - spread, 0)
    axis.fill_between(sigmas, low, mean + spread, color=hue, alpha=0.2, linewidth=0)


def _quartiles(axis: Any, sigmas: np.ndarray, values: Any, hue: str) -> None:
    """Draws the median over samples with a band between the quartiles."""
    low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=1)
    axis.plot(sigmas, middle, color=hue, linewidth=1.7)
    axis.fill_between(sigmas, low, high, color=hue, alpha=0.2, linewidth=0)
    logarithmic(axis, "y")
    # Where a curve is straight, only rounding is measured.
    axis.set_ylim(max(0.5 * low.min(), 1e-8 * high.max()), 2 * high.max())


def _style_space(axes: Any, theme: Theme) -> None:
    axes.set_box_aspect((2.2, 1, 1), zoom=1.1)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(theme.page)
        axis.line.set_color(theme.grid)
        axis._axinfo["grid"]["color"] = theme.grid
