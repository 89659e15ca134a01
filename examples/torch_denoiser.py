"""Samples from a denoiser that lives in PyTorch, by jaxkd's solvers and schedules.

    pip install torch
    python examples/torch_denoiser.py

The denoiser is called on the host through ``jax.pure_callback``, so that nothing has to
be converted: the sampler compiles once, around the calls. PyTorch's gradients do not
pass; GITS, fixed schedules and sampling need none. Put your network into ``denoise``.
"""

import jax
import numpy as np
import torch

from jaxkd.diffusion import gits, samplers, schedules


class Network(torch.nn.Module):
    """Stands for a trained network: the exact denoiser of a Gaussian, ``N(0.7, 0.3)``.

    Like EDM's networks it takes noisy images and the noise level of each.
    """

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Maps ``x`` ``[batch, ...]`` and ``sigma`` ``[batch]`` to clean data."""
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return 0.7 + (x - 0.7) * 0.3 / (0.3 + level**2)


def from_torch(network: torch.nn.Module):
    """Returns ``(x, sigma) -> x0`` for jaxkd's samplers from a PyTorch module."""

    @torch.no_grad()
    def on_host(x, sigma) -> np.ndarray:
        x = torch.from_numpy(np.array(x))  # a copy: JAX's arrays are read-only
        levels = torch.full((len(x),), float(sigma), dtype=x.dtype)
        return network(x, levels).numpy()

    def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        # Of many seeds side by side (vmap), one call after the other.
        return jax.pure_callback(on_host, shape, x, sigma, vmap_method="sequential")

    return denoise


def main() -> np.ndarray:
    """Searches a schedule of six sigmas and draws 64 samples with five model calls."""
    denoise = from_torch(Network().eval())
    grid = schedules.polynomial(31, 0.002, 80.0)
    warmup = samplers.latents(range(1000, 1032), (8,), 80.0)
    found = gits.search(denoise, warmup, grid, 6, coeff=1.0, metric="l2")
    noise = samplers.latents(range(64), (8,), 80.0)
    run = samplers.sample(denoise, noise, found.sigmas, solver="dpmpp", order=2)
    samples = np.asarray(run.x[-1])
    print(f"{run.nfe} calls: mean {samples.mean():.3f}, variance {samples.var():.3f}")
    return samples


if __name__ == "__main__":
    main()
