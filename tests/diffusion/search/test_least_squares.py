"""Fitted schedules: better than where they start, on latents not fitted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxkd.diffusion import denoisers, densities, samplers, schedules
from jaxkd.diffusion.search import gits, least_squares, rollout
from jaxkd.diffusion.search.rollout import Rollout

REFERENCE = schedules.polynomial(41, 0.01, 40.0)
RNG = np.random.default_rng(0)
PARTS = np.ones(4), RNG.normal(size=(4, 16)), RNG.uniform(0.005, 0.3, (4, 16))


def _latents(start, count):
    return samplers.latents(range(start, start + count), (16,), 40.0)


@pytest.fixture(scope="module")
def denoise():
    return densities.mixture(*PARTS)


@pytest.fixture(scope="module")
def found(denoise):
    return _search(denoise)


def _search(denoise, num_sigmas=6, starts=2, **changed):
    arguments = {"solver": "ipndm", "order": 4, "reference": REFERENCE} | changed
    x_fit, x_valid = _latents(0, 64), _latents(64, 64)
    return least_squares.fit(
        denoise, x_fit, x_valid, num_sigmas, starts=starts, **arguments
    )


def _error(denoise, x, sigmas):
    ends = samplers.sample(denoise, x, sigmas).x[-1]
    exact = samplers.sample(
        denoise, x, schedules.time_uniform(201, 0.01, 40.0, 2.0), "ab_v"
    ).x[-1]
    return float(jnp.mean(jnp.linalg.norm(ends - exact, axis=1))) / 4


@pytest.mark.slow
def test_fit_beats_its_best_start_on_new_latents(denoise, found):
    new = _latents(1000, 64)
    starts = [
        schedules.polynomial(6, 0.01, 40.0),
        schedules.logsnr(6, 0.01, 40.0),
        schedules.time_uniform(6, 0.01, 40.0),
        schedules.time_uniform(6, 0.01, 40.0, 2.0),
    ]
    run = samplers.sample(denoise, _latents(0, 64), REFERENCE, keep_denoised=True)
    for metric, coeff in least_squares.GITS_CHOICES:
        cost = gits.cost_matrix(run.x, run.denoised, REFERENCE, metric)
        starts.append(REFERENCE[gits.plan(cost, 6, coeff)])
    best = min(_error(denoise, new, sigmas) for sigmas in starts)
    after = _error(denoise, new, found.sigmas)
    assert after < 0.9 * best, (after, best)


def test_fit_is_never_worse_than_a_start_on_the_validation_latents(found):
    names = set(found.details["errors"])
    saturating = {
        f"saturating {rho:g} {knee:g}" for rho, knee in least_squares.SATURATING
    }
    fixed = {"polynomial", "logsnr", "time-uniform", "time-quadratic"}
    assert names - saturating == fixed | {"gits"}
    assert len(names & saturating) == 2
    assert found.details["error"] < min(found.details["errors"].values())
    assert found.sigmas[0] == 40.0
    assert found.sigmas[-1] == 0.01
    schedules.explicit(found.sigmas)


def test_fit_repeats_and_counts_its_calls(denoise, found, tmp_path):
    counting, calls = denoisers.counted(denoise)
    again = _search(counting)
    np.testing.assert_array_equal(again.sigmas, found.sigmas)
    assert again.details["calls"] == calls.wait().samples
    schedules.save(tmp_path / "fit.json", found)
    assert (
        schedules.load(tmp_path / "fit.json").details["start"]
        in found.details["errors"]
    )


@pytest.mark.slow
def test_validation_guards_against_what_was_fitted_too_closely(denoise):
    # Fitted to one sample, judged by others: still no worse than the candidates.
    made = least_squares.fit(
        denoise,
        jnp.repeat(_latents(0, 1), 64, axis=0),
        _latents(64, 64),
        6,
        reference=REFERENCE,
        starts=1,
    )
    assert made.details["error"] <= min(made.details["errors"].values())


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["ipndm", "dpmpp", "unipc"])
@pytest.mark.parametrize("shifted", [False, True])
def test_columns_of_the_jacobian_are_the_slopes_of_the_ends(solver, shifted):
    with jax.enable_x64(True):
        x, model = np.float64(_latents(0, 3)), densities.mixture(*PARTS)
        sigmas = schedules.polynomial(5, 0.01, 40.0)
        place = np.append(np.log(sigmas), np.full(4 if shifted else 0, 0.1))
        truth = []
        for forward in (False, True):
            student = Rollout(model, x, solver, 3, REFERENCE, forward)
            residual = student(*rollout.unpack(place, sigmas))
            columns = rollout.jacobian(student, place, residual, sigmas)
            assert columns.shape == (3, 16, 7 if shifted else 3)
            truth = truth or [
                (
                    student(*rollout.unpack(place + s, sigmas))
                    - student(*rollout.unpack(place - s, sigmas))
                )
                / 2e-5
                for s in 1e-5 * np.eye(len(place))[rollout.free_indices(place, sigmas)]
            ]
            for j, slope in enumerate(truth):
                # One moves by a finite width, the other by none.
                allowed = (1e-6 if forward else 0.1) * np.abs(slope).max()
                np.testing.assert_allclose(columns[..., j], slope, rtol=0, atol=allowed)


@pytest.mark.slow
def test_forward_mode_fits_as_well(denoise, found):
    made = _search(denoise, forward=True)
    assert made.details["error"] < 1.05 * found.details["error"]


@pytest.mark.slow
def test_a_single_point_leaves_nothing_to_fit():
    made = _search(densities.empirical(PARTS[1][:1]))
    assert made.details["error"] < 1e-4
    assert made.details["error"] == min(made.details["errors"].values())


def test_offsets_lower_the_error_further(denoise, found, tmp_path):
    counting, calls = denoisers.counted(denoise)
    x_fit, x_valid = _latents(0, 64), _latents(64, 64)
    made = least_squares.add_offsets(
        counting, x_fit, x_valid, found, reference=REFERENCE
    )
    spent = made.details["calls"] - found.details["calls"]
    assert spent == calls.wait().samples
    assert made.details["error_before"] == pytest.approx(found.details["error"])
    assert made.details["error"] < 0.8 * found.details["error"]
    assert np.abs(made.offsets).max() <= least_squares.FARTHEST
    new = _latents(1000, 64)
    exact = samplers.sample(denoise, new, REFERENCE).x[-1]

    def error(schedule):
        run = samplers.sample(denoise, new, schedule.sigmas, offsets=schedule.offsets)
        return float(jnp.mean(jnp.linalg.norm(run.x[-1] - exact, axis=1)))

    assert error(made) < 0.9 * error(found)
    schedules.save(tmp_path / "offsets.json", made)
    loaded = schedules.load(tmp_path / "offsets.json")
    np.testing.assert_array_equal(loaded.offsets, made.offsets)


def test_two_sigmas_are_the_ends(denoise):
    assert _search(denoise, num_sigmas=2).sigmas.tolist() == [40.0, 0.01]


@pytest.mark.slow
def test_ranges_without_a_clock_have_fewer_starts(denoise):
    made = _search(denoise, reference=schedules.logsnr(41, 1.0, 40.0))
    names = {name for name in made.details["errors"] if "saturating" not in name}
    assert names == {"polynomial", "logsnr", "gits"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "order"), [("ipndm", 4), ("dpmpp", 3), ("unipc", 3)]
)
def test_fit_beats_every_other_schedule_on_digits(solver, order):
    data = load_digits()
    classes = densities.mixture_of_classes(data.data / 8 - 1, data.target)
    denoise = densities.mixture(*classes)
    fine = schedules.polynomial(61, 0.002, 80.0)
    x = samplers.latents(range(656), (64,), 80.0)
    x_fit, x_valid, new = x[:128], x[128:256], x[256:]
    exact = samplers.sample(
        denoise, new, schedules.time_uniform(201, 0.002, 80.0, 2.0), "ab_v"
    ).x[-1]

    def error(sigmas):
        ends = samplers.sample(denoise, new, sigmas, solver, order).x[-1]
        return float(jnp.mean(jnp.linalg.norm(ends - exact, axis=1)))

    run = samplers.sample(denoise, x[:256], fine, keep_denoised=True)
    others = [schedules.polynomial(7, 0.002, 80.0), schedules.logsnr(7, 0.002, 80.0)]
    others += [schedules.time_uniform(7, 0.002, 80.0, rho) for rho in (1.0, 2.0)]
    for metric in gits.AUTO_METRICS:
        cost = gits.cost_matrix(run.x, run.denoised, fine, metric)
        others += [fine[gits.plan(cost, 7, coeff)] for coeff in gits.AUTO_COEFFS]
    options = {"solver": solver, "order": order, "reference": fine}
    found = least_squares.fit(denoise, x_fit, x_valid, 7, **options)
    assert error(found.sigmas) <= 0.85 * min(map(error, others))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_sigmas": 42}, "42 sigmas with a reference of 41"),
        ({"num_sigmas": 1}, "expected at least 2"),
        ({"starts": 0}, "starts=0"),
        ({"reference": REFERENCE[::-1]}, "must decrease strictly"),
        ({"order": 0}, "ipndm of order 0"),
        ({"solver": "rk45"}, "No solver 'rk45'"),
    ],
)
def test_impossible_fits(denoise, changed, message):
    with pytest.raises(ValueError, match=message):
        _search(denoise, **changed)


def test_latents_that_do_not_match(denoise):
    with pytest.raises(ValueError, match=r"\(4, 16\) and to validate .* \(4, 3\)"):
        least_squares.fit(
            denoise, np.ones((4, 16)), np.ones((4, 3)), 5, reference=REFERENCE
        )
