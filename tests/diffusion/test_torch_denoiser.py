"""The example of a denoiser in PyTorch, beside the same denoiser in JAX."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxkd.diffusion import samplers, schedules

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_denoiser.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_denoiser", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.torch
def test_samples_are_those_of_jax(example):
    sigmas = schedules.time_uniform(5, 0.002, 80.0, rho=2.0)
    noise = samplers.latents(range(3), (4,), 80.0)
    network = example.Network().eval()
    got = samplers.sample(example.from_torch(network), noise, sigmas, "unipc", 2)

    def denoise(x, sigma):
        return 0.7 + (x - 0.7) * 0.3 / (0.3 + sigma**2)

    expected = samplers.sample(denoise, noise, sigmas, "unipc", 2)
    np.testing.assert_allclose(got.x, expected.x, 1e-5, 1e-5)
    assert got.nfe == expected.nfe == 4


@pytest.mark.torch
def test_the_example_runs(example, capsys):
    samples = example.main()
    assert "5 calls: mean" in capsys.readouterr().out
    noise = np.asarray(samplers.latents(range(64), (8,), 80.0))
    exact = 0.7 + (noise - 0.7) * np.sqrt((0.3 + 0.002**2) / (0.3 + 80.0**2))
    # Five calls leave an error that is small beside the spread of the data.
    assert np.sqrt(np.mean((samples - exact) ** 2)) < 0.15 * np.sqrt(0.3)
