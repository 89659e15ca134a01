"""The sampling loop: what is evaluated and how often, options, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxkd.diffusion import denoisers, densities, samplers, schedules, solvers
from tests.diffusion import solver_reference as reference

GRID = schedules.polynomial(6, 0.05, 20.0)
NOISE = 20.0 * np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
MEAN, VARIANCES = np.full(4, 0.3), np.array([0.02, 0.1, 0.5, 1.0])


@pytest.fixture(scope="module")
def denoise():
    return densities.gaussian(MEAN, VARIANCES)


def _numpy_denoise():
    return reference.mixture_denoiser([1.0], [MEAN], [np.diag(VARIANCES)])


@pytest.mark.parametrize("solver", list(solvers.MAX_ORDER))
@pytest.mark.parametrize(("afs", "to_zero"), [(False, True), (True, False)])
def test_evaluations_are_counted_exactly(denoise, solver, afs, to_zero):
    counting, calls = denoisers.counted(denoise)
    run = samplers.sample(
        counting, NOISE, GRID, solver, 3, afs, denoise_to_zero=to_zero
    )
    expected = 5 * (2 if solver in ("heun", "dpm") else 1) - afs + to_zero
    assert run.nfe == calls.wait().calls == expected
    assert calls.samples == 5 * expected
    assert run.x.shape == (6 + to_zero, 5, 4)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm", "ipndm", "dpmpp"])
def test_analytical_first_step(solver):
    with jax.enable_x64(True):
        denoise = densities.gaussian(MEAN, VARIANCES)
        run = samplers.sample(denoise, np.float64(NOISE), GRID, solver, 3, afs=True)
        model, x = _numpy_denoise(), np.float64(NOISE)
        if solver == "ipndm":
            truth = reference.multistep(
                model, x, GRID, reference.ipndm_step(3), afs=True
            )
        elif solver == "dpmpp":
            truth = reference.dpmpp(model, x, GRID, 3, "x0", afs=True)
        else:
            truth = reference.two_stage(model, x, GRID, solver, afs=True)
        np.testing.assert_allclose(run.x, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", ["heun", "dpmpp", "unipc"])
def test_denoise_to_zero_appends_the_last_output(denoise, solver):
    plain = samplers.sample(denoise, NOISE, GRID, solver, 3)
    ended = samplers.sample(denoise, NOISE, GRID, solver, 3, denoise_to_zero=True)
    np.testing.assert_allclose(ended.x[:-1], plain.x, rtol=0, atol=1e-5)
    truth = _numpy_denoise()(np.float64(plain.x[-1]), GRID[-1])
    np.testing.assert_allclose(ended.x[-1], truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["heun", "ipndm"])
@pytest.mark.parametrize("to_zero", [False, True])
def test_outputs_at_the_sigmas(denoise, solver, to_zero):
    run = samplers.sample(
        denoise, NOISE, GRID, solver, denoise_to_zero=to_zero, keep_denoised=True
    )
    model = _numpy_denoise()
    truth = [model(np.float64(x), t) for x, t in zip(run.x[:5], GRID[:-1], strict=True)]
    np.testing.assert_allclose(run.denoised, truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["dpm", "ipndm", "deis", "dpmpp", "unipc"])
def test_single_precision_follows_double(denoise, solver):
    single = samplers.sample(denoise, NOISE, GRID, solver, 3).x
    assert single.dtype == jnp.float32
    half = samplers.sample(denoise, jnp.asarray(NOISE, jnp.bfloat16), GRID, solver, 3)
    assert half.x.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = densities.gaussian(MEAN, VARIANCES)
        double = samplers.sample(exact, np.float64(NOISE), GRID, solver, 3).x
    # Compared in NumPy: outside the block JAX would cut float64 arrays down.
    single, double = np.asarray(single), np.asarray(double)
    scale = np.abs(double).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(single / scale, double / scale, rtol=0, atol=2e-5)


def test_parameters_and_schedules_change_without_compiling():
    traced = []

    def model(gain, x, sigma):
        traced.append(1)
        return gain * x / (1 + sigma**2)

    model = Partial(model)
    ends = []
    for gain in (0.5, 0.6):
        for grid in (GRID, schedules.logsnr(6, 0.1, 20.0)):
            run = samplers.sample(Partial(model, jnp.float32(gain)), NOISE, grid)
            ends.append(float(run.x[-1, 0, 0]))
    assert len(traced) == 1
    assert len(set(ends)) == 4


def test_inside_another_compiled_function(denoise):
    inside = jax.jit(lambda z: samplers.sample(denoise, z, GRID).x[-1])(NOISE)
    outside = samplers.sample(denoise, NOISE, GRID).x[-1]
    np.testing.assert_allclose(inside, outside, rtol=0, atol=1e-5)


def test_latents_belong_to_their_seed():
    many = samplers.latents(range(2000), (3,), 80.0)
    alone = samplers.latents([7, 3], (3,), 80.0)
    np.testing.assert_array_equal(alone, many[jnp.array([7, 3])])
    assert float(jnp.std(many)) == pytest.approx(80.0, rel=0.05)
    assert len(np.unique(many)) == many.size


def test_latents_of_large_seeds_are_all_different():
    """Also beyond 2^31, where int32 ends, and 2^32, where the bits of a key do."""
    seeds = [0, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63, 2**64 - 1]
    drawn = samplers.latents(seeds, (3,), 1.0)
    assert len(np.unique(drawn)) == 3 * len(seeds)
    for seed, row in zip(seeds, drawn, strict=True):
        np.testing.assert_array_equal(samplers.latents([seed], (3,), 1.0)[0], row)
    # Those below keep the key they had.
    key = jax.random.fold_in(jax.random.key(0), 7)
    np.testing.assert_array_equal(drawn[1], jax.random.normal(key, (3,)))
    of_numpy = samplers.latents(np.array([7, 2**40], np.int64), (3,), 1.0)
    np.testing.assert_array_equal(of_numpy, samplers.latents([7, 2**40], (3,), 1.0))
    for wrong in (-1, 2**64, 0.5, "7"):
        with pytest.raises(ValueError, match=f"The seed {wrong!r} of latents"):
            samplers.latents([1, wrong], (3,), 1.0)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (NOISE[0], r"Latents of shape \(4,\)"),
        (np.ones((5, 4), int), "dtype int32"),
        (NOISE[:, :3], r"Latents of shape \(5, 3\) for a density over \(4,\)"),
        (NOISE * np.float32(np.nan), "latents hold NaN"),
    ],
)
def test_wrong_latents(denoise, noise, message):
    with pytest.raises(ValueError, match=message):
        samplers.sample(denoise, noise, GRID)


def test_a_denoiser_that_returns_nan_is_named_with_its_noise_level():
    def broken(x, sigma):
        return jnp.where(sigma < 1.0, jnp.nan, 0.0) * x

    broken_at = int(np.argmax(GRID < 1.0))
    message = f"from sigma {broken_at + 1} of 6 .* sigma {GRID[broken_at]:g}"
    with pytest.raises(ValueError, match=message):
        samplers.sample(broken, NOISE, GRID)


def test_a_denoiser_of_another_shape():
    with pytest.raises(ValueError, match=r"made shape \(5, 3\)"):
        samplers.sample(lambda x, sigma: x[:, :3], NOISE, GRID)


@pytest.mark.parametrize(
    ("solver", "predict"), [("euler", "x0"), ("dpmpp", "eps"), ("unipc", "eps")]
)
def test_thresholding_wants_clean_data(denoise, solver, predict):
    with pytest.raises(ValueError, match="thresholding limits clean data"):
        samplers.sample(
            denoise, NOISE, GRID, solver, 2, predict=predict, thresholding=True
        )


@pytest.mark.parametrize(
    "grid", [GRID[::-1], [3.0, 2.0, 2.0], [1.0, 0.0], [1.0], [2.0, 2 - 1e-8, 1.0]]
)
def test_wrong_schedules(denoise, grid):
    with pytest.raises(ValueError, match=r"schedule|last sigma"):
        samplers.sample(denoise, NOISE, grid)


@pytest.mark.parametrize("solver", ["ipndm", "dpmpp", "unipc"])
def test_offsets_change_what_the_denoiser_is_told(solver):
    """As a denoiser that shifts its sigma itself, with eps over the shifted one."""
    sigmas, offsets = np.array([10.0, 1.0, 0.1]), np.array([0.2, -0.3])
    told = []

    def denoise(x, sigma):
        told.append(float(sigma))
        return 0.5 * x / (1 + sigma)

    with jax.disable_jit():
        run = samplers.sample(
            denoise, jnp.ones((1, 2)), sigmas, solver, 1, offsets=offsets
        )
    np.testing.assert_allclose(told, sigmas[:-1] * np.exp(offsets), rtol=1e-6)
    x = 1.0
    for i, now in enumerate(told):
        clean = 0.5 * x / (1 + now)
        if solver == "ipndm":
            x = x + (sigmas[i + 1] - sigmas[i]) * (x - clean) / now
        elif solver == "dpmpp":
            ratio = sigmas[i + 1] / sigmas[i]
            x = ratio * x + (1 - ratio) * clean
    if solver != "unipc":
        np.testing.assert_allclose(run.x[-1], x, rtol=1e-5)


@pytest.mark.parametrize(
    ("solver", "offsets", "message"),
    [
        ("heun", [0.1, 0.1], "heun and dpm have two"),
        ("ipndm", [0.1], "expected 2 finite numbers"),
        ("ipndm", [0.1, np.nan], "expected 2 finite numbers"),
    ],
)
def test_impossible_offsets(solver, offsets, message):
    with pytest.raises(ValueError, match=message):
        samplers.sample(
            lambda x, sigma: x,
            jnp.ones((1, 2)),
            [3.0, 2.0, 1.0],
            solver,
            1,
            offsets=offsets,
        )
