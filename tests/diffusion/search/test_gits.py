"""The schedule search: optimal against brute force, its costs, gains and errors."""

from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxkd.diffusion import denoisers, densities, samplers, schedules
from jaxkd.diffusion.search import gits
from tests.diffusion import solver_reference as reference

GRID = schedules.polynomial(9, 0.05, 20.0)
RNG = np.random.default_rng(0)
WEIGHTS, MEANS = np.array([0.3, 0.7]), RNG.normal(size=(2, 16))
VARIANCES = RNG.uniform(0.02, 0.5, (2, 16))
NOISE = 20.0 * RNG.normal(size=(6, 16))


def _denoise():
    return densities.mixture(WEIGHTS, MEANS, VARIANCES)


@pytest.fixture(scope="module")
def found():
    return gits.search(_denoise(), NOISE, GRID, 5)


# Planning.


def _brute_force(cost, num_sigmas, coeff):
    """Every path, summed step by step; the first of the least."""
    last = len(cost) - 1

    def total(inner):
        path = (0, *inner, last)
        return sum(coeff**k * cost[path[k], path[k + 1]] for k in range(len(path) - 1))

    best = min(combinations(range(1, last), num_sigmas - 2), key=total)
    return [0, *best, last], total(best)


@pytest.mark.parametrize("num_sigmas", [3, 4, 5, 6])
@pytest.mark.parametrize("coeff", [0.8, 1.0, 1.15])
def test_plan_is_as_good_as_any_path(num_sigmas, coeff):
    rng = np.random.default_rng(num_sigmas)
    for kind in ("positive", "signed", "smooth"):
        cost = rng.uniform(0, 1, (12, 12)) - (0.3 if kind == "signed" else 0.0)
        if kind == "smooth":  # As measured: longer steps cost more.
            cost *= np.abs(np.subtract.outer(np.arange(12), np.arange(12))) ** 2
        path, least = _brute_force(cost, num_sigmas, coeff)
        planned = gits.plan(cost, num_sigmas, coeff)
        assert planned.tolist() == path
        assert gits.path_cost(cost, planned, coeff) == pytest.approx(least, rel=1e-12)


def test_plan_at_its_ends():
    cost = np.random.default_rng(0).normal(size=(7, 7))
    assert gits.plan(cost, 2).tolist() == [0, 6]
    assert gits.plan(cost, 7).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert gits.plan(np.zeros((2, 2)), 2).tolist() == [0, 1]
    # What is on and below the diagonal is not looked at.
    wild = np.where(np.triu(np.ones((7, 7), bool), 1), cost, np.nan)
    np.testing.assert_array_equal(gits.plan(wild, 4), gits.plan(cost, 4))


def test_of_equal_paths_the_earliest_sigmas_are_planned():
    assert gits.plan(np.zeros((8, 8)), 4).tolist() == [0, 1, 2, 7]


def test_a_larger_coefficient_puts_more_sigmas_at_low_noise(found):
    even, late = (gits.plan(found.cost, 5, coeff) for coeff in (0.5, 2.0))
    assert np.all(late >= even)
    assert late.sum() > even.sum()


@pytest.mark.parametrize(
    ("cost", "num_sigmas", "coeff", "message"),
    [
        (np.zeros((5, 5)), 6, 1.0, "6 sigmas of a grid of 5 points"),
        (np.zeros((5, 5)), 1, 1.0, "expected at least 2"),
        (np.zeros((5, 4)), 3, 1.0, r"shape \(5, 4\); expected \[T, T\]"),
        (0.0, 3, 1.0, r"shape \(\); expected \[T, T\]"),
        (np.zeros((5, 5)), 3, 0.0, "coeff=0; expected a positive"),
        (np.zeros((5, 5)), 3, np.nan, "coeff=nan"),
        (np.full((5, 5), np.nan), 3, 1.0, "NaN or infinity above"),
        (np.full((5, 5), np.inf), 3, 1.0, "NaN or infinity above"),
    ],
)
def test_impossible_plans(cost, num_sigmas, coeff, message):
    with pytest.raises(ValueError, match=message):
        gits.plan(cost, num_sigmas, coeff)


# Costs.


def _reference_cost(states, grid, metric):
    """Entry by entry and sample by sample, from slopes of a NumPy denoiser."""
    model = reference.mixture_denoiser(WEIGHTS, MEANS, [np.diag(v) for v in VARIANCES])
    points, batch = states.shape[:2]

    def deviation(p, b):
        chord = states[-1, b] - states[0, b]
        chord = chord / np.linalg.norm(chord)
        rest = states[-1, b] - p
        return np.linalg.norm(rest - (rest @ chord) * chord)

    cost = np.zeros((points, points))
    for i in range(points - 1):
        slope = (states[i] - model(states[i], grid[i])) / grid[i]
        for j in range(i + 1, points):
            reached = states[i] + (grid[j] - grid[i]) * slope
            for b in range(batch):
                gap = reached[b] - states[j, b]
                cost[i, j] += {
                    "dev": deviation(reached[b], b) - deviation(states[j, b], b),
                    "l1": np.abs(gap).sum(),
                    "l2": np.linalg.norm(gap),
                }[metric]
    return cost / batch


@pytest.mark.parametrize("metric", gits.METRICS)
def test_cost_matrix_equals_its_definition(metric):
    with jax.enable_x64(True):
        run = samplers.sample(_denoise(), NOISE, GRID, keep_denoised=True)
        cost = gits.cost_matrix(run.x, run.denoised, GRID, metric)
        # The shape of a sample is of no matter.
        images = (a.reshape(len(a), 6, 4, 4, 1) for a in (run.x, run.denoised))
        np.testing.assert_array_equal(gits.cost_matrix(*images, GRID, metric), cost)
    truth = _reference_cost(np.asarray(run.x), GRID, metric)
    np.testing.assert_allclose(cost, truth, rtol=0, atol=1e-11)
    assert np.ptp(truth) > 0.1
    # A step of the teacher itself: iPNDM begins with Euler's.
    assert cost[0, 1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("metric", gits.METRICS)
def test_a_straight_path_costs_nothing(metric):
    with jax.enable_x64(True):
        point = densities.empirical(MEANS[:1])
        run = samplers.sample(point, NOISE, GRID, keep_denoised=True)
        cost = gits.cost_matrix(run.x, run.denoised, GRID, metric)
    np.testing.assert_allclose(cost, 0.0, rtol=0, atol=1e-11)


def test_trajectories_that_do_not_fit():
    x, outputs = jnp.zeros((9, 2, 4)), jnp.zeros((8, 2, 4))
    with pytest.raises(ValueError, match="keep_denoised=True on that grid"):
        gits.cost_matrix(x, None, GRID)
    with pytest.raises(ValueError, match="for 8 sigmas"):
        gits.cost_matrix(x, outputs, GRID[:-1])
    with pytest.raises(ValueError, match=r"outputs \(7, 2, 4\)"):
        gits.cost_matrix(x, outputs[1:], GRID)
    with pytest.raises(ValueError, match="No metric 'lpips'"):
        gits.cost_matrix(x, outputs, GRID, "lpips")


# Searching.


def test_search_plans_on_the_cost_matrix_of_its_teacher(found):
    run = samplers.sample(_denoise(), NOISE, GRID, keep_denoised=True)
    cost = gits.cost_matrix(run.x, run.denoised, GRID)
    np.testing.assert_array_equal(found.cost, cost)
    np.testing.assert_array_equal(found.indices, gits.plan(cost, 5, 1.15))
    np.testing.assert_array_equal(found.sigmas, GRID[found.indices])
    assert found.details["grid"] == GRID.tolist()
    assert found.details["calls"] == 8 * 6


def test_the_teacher_has_a_solver_of_its_own(found):
    """A weak student is not taught by its own solver; it ends nearer to the truth."""
    exact = samplers.sample(_denoise(), NOISE, schedules.polynomial(201, 0.05, 20.0))

    def search(**options):
        made = gits.search(
            _denoise(), NOISE, GRID, 4, solver="euler", order=1, afs=True, **options
        )
        run = samplers.sample(_denoise(), NOISE, made.sigmas, "euler", 1, afs=True)
        apart = np.asarray(run.x[-1] - exact.x[-1])
        return made, np.linalg.norm(apart, axis=1).mean()

    made, error = search()
    np.testing.assert_array_equal(made.cost, found.cost)
    assert made.details["teacher_solver"] == "ipndm"
    weak, weak_error = search(teacher_solver="euler", teacher_order=1)
    assert np.abs(weak.cost - found.cost).max() > 1e-2
    assert error < weak_error
    with pytest.raises(ValueError, match="No solver 'rk4'"):
        gits.search(_denoise(), NOISE, GRID, 4, teacher_solver="rk4")
    with pytest.raises(ValueError, match="dpmpp of order 4"):
        gits.search(_denoise(), NOISE, GRID, 4, solver="dpmpp")


def test_search_repeats_and_is_saved(found, tmp_path):
    again = gits.search(_denoise(), NOISE, GRID, 5)
    np.testing.assert_array_equal(again.cost, found.cost)
    np.testing.assert_array_equal(again.indices, found.indices)
    schedules.save(tmp_path / "found.json", found)
    read = schedules.load(tmp_path / "found.json")
    np.testing.assert_array_equal(read.sigmas, found.sigmas)
    assert dict(read.details) == dict(found.details)


def _end_errors(denoise, paths, afs=False, start=0):
    teacher = samplers.sample(denoise, NOISE, GRID)
    errors = []
    for path in paths:
        run = samplers.sample(denoise, NOISE, GRID[path], afs=afs)
        apart = np.asarray(run.x[-1] - teacher.x[-1])[start:]
        errors.append(np.linalg.norm(apart, axis=1).mean())
    return errors


def test_a_sigma_is_added_for_the_analytical_first_step():
    denoise, calls = denoisers.counted(_denoise())
    made = gits.search(denoise, NOISE, GRID, 4, coeff=2.0, afs=True)
    planned = gits.plan(made.cost, 4, 2.0)
    paths = [np.insert(planned, 1, k) for k in range(1, planned[1])]
    assert len(paths) > 1
    assert made.details["calls"] == calls.wait().samples == (8 + 3 * len(paths)) * 6
    errors = _end_errors(_denoise(), paths, afs=True)
    np.testing.assert_array_equal(made.indices, paths[int(np.argmin(errors))])
    # No room after the first sigma: nothing to add.
    full = gits.search(denoise, NOISE, GRID, 9, afs=True)
    np.testing.assert_array_equal(full.indices, np.arange(9))


def test_auto_keeps_what_samples_best_on_the_other_half():
    denoise, calls = denoisers.counted(_denoise())
    made = gits.search(denoise, NOISE, GRID, 4, coeff="auto")
    choices = [(m, c) for m in gits.AUTO_METRICS for c in gits.AUTO_COEFFS]
    assert made.details["calls"] == calls.wait().samples == 8 * 6 + 3 * 3 * len(choices)
    run = samplers.sample(_denoise(), NOISE, GRID, keep_denoised=True)
    halves = run.x[:, :3], run.denoised[:, :3]
    paths = [gits.plan(gits.cost_matrix(*halves, GRID, m), 4, c) for m, c in choices]
    errors = _end_errors(_denoise(), paths, start=3)
    best = choices[int(np.argmin(errors))]
    assert (made.details["metric"], made.details["coeff"]) == best
    with pytest.raises(ValueError, match="at least two warm-up latents, got one"):
        gits.search(denoise, NOISE[:1], GRID, 4, coeff="auto")


def test_deviation_in_few_dimensions_is_warned_of():
    denoise = densities.gaussian(np.zeros(2), np.ones(2))
    with pytest.warns(UserWarning, match="in 2 dimensions; use metric='l2'"):
        gits.search(denoise, NOISE[:, :2], GRID, 4)
    gits.search(denoise, NOISE[:, :2], GRID, 4, metric="l2")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grid": GRID[::-1]}, "must decrease strictly"),
        ({"grid": GRID[[0, 2, 1, 3, 4]]}, "sigma 1 is .* and sigma 2 is"),
        ({"grid": [20.0, 1.0, 0.0]}, "expected a positive sigma"),
        ({"num_sigmas": 10}, "10 sigmas of a grid of 9 points"),
        ({"num_sigmas": 1}, "expected at least 2"),
        ({"order": 0}, "ipndm of order 0; expected at least 1"),
        ({"solver": "rk45"}, "No solver 'rk45'"),
        ({"metric": "lpips"}, "No metric 'lpips'; there are dev, l1, l2"),
        ({"coeff": -1.0}, "coeff=-1; expected a positive"),
        ({"coeff": "best"}, "coeff='best'; expected a positive number or 'auto'"),
        ({"x_init": NOISE[:, :5]}, r"Latents of shape \(6, 5\)"),
        ({"x_init": NOISE[0]}, r"Latents of shape \(16,\)"),
        ({"denoise": lambda x, sigma: x * jnp.nan}, "NaN or infinite from sigma 1"),
    ],
)
def test_impossible_searches(changed, message):
    arguments = {"denoise": _denoise(), "x_init": NOISE, "grid": GRID, "num_sigmas": 4}
    with pytest.raises(ValueError, match=message):
        gits.search(**arguments | changed)


def test_other_latents_of_the_warm_up_hardly_change_the_schedule():
    plans = []
    for seed in range(3):
        latents = samplers.latents(range(256 * seed, 256 * (seed + 1)), (16,), 20.0)
        plans.append(gits.search(_denoise(), latents, GRID, 5, metric="l2").indices)
    assert np.ptp(plans, axis=0).max() <= 1


# What it gains, on a mixture of ten Gaussians fitted to handwritten digits.

FINE = schedules.polynomial(61, 0.002, 80.0)


def _digits_latents(start, count):
    return samplers.latents(range(start, start + count), (64,), 80.0)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    classes = densities.mixture_of_classes(data.data / 8 - 1, data.target)
    return densities.mixture(*classes)


@pytest.fixture(scope="module")
def costs(digits):
    return _costs(digits, seed=0)


def _costs(digits, seed):
    latents = _digits_latents(1000 * seed, 256)
    run = samplers.sample(digits, latents, FINE, keep_denoised=True)
    return {
        metric: gits.cost_matrix(run.x, run.denoised, FINE, metric)
        for metric in ("dev", "l2")
    }


@pytest.fixture(scope="module")
def truth(digits):
    """Other latents and where the exact flow takes them.

    Fourth-order steps: 100 of them are within 0.002 of 400, far below any error here.
    """
    latents = _digits_latents(5000, 300)
    fine = schedules.time_uniform(101, 0.002, 80.0, 2.0)
    return latents, np.asarray(samplers.sample(digits, latents, fine, "ab_v").x[-1])


def _measured(digits, truth, sigmas, solver):
    """The mean error per pixel, and the Frechet distance to the exact samples."""
    ends = np.asarray(samplers.sample(digits, truth[0], sigmas, solver).x[-1])
    error = np.linalg.norm(ends - truth[1], axis=1).mean() / 8
    (mean, cov), (mean_t, cov_t) = (
        (a.mean(axis=0), np.cov(a, rowvar=False)) for a in (ends, truth[1])
    )
    values, axes = np.linalg.eigh(cov_t)
    root = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov @ root), 0)).sum()
    distance = np.sum((mean - mean_t) ** 2) + np.trace(cov + cov_t) - 2 * shared
    return error, distance


@pytest.mark.slow
@pytest.mark.parametrize("calls", [4, 5, 6, 8, 10])
def test_euler_gains_a_fifth_in_error_and_two_in_distance(digits, truth, costs, calls):
    even = schedules.polynomial(calls + 1, 0.002, 80.0)
    planned = FINE[gits.plan(costs["dev"], calls + 1, 1.0)]
    before, before_distance = _measured(digits, truth, even, "euler")
    after, after_distance = _measured(digits, truth, planned, "euler")
    assert after <= 0.8 * before
    assert after_distance <= 0.6 * before_distance


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 4, 5, 6, 8, 10])
def test_ipndm_gains_too(digits, truth, costs, calls):
    even = schedules.polynomial(calls + 1, 0.002, 80.0)
    planned = FINE[gits.plan(costs["l2"], calls + 1, 1.0)]
    before, _ = _measured(digits, truth, even, "ipndm")
    after, _ = _measured(digits, truth, planned, "ipndm")
    assert after <= 0.85 * before


@pytest.mark.slow
def test_schedules_hardly_depend_on_the_warm_up(digits, costs):
    draws = [costs, _costs(digits, seed=1), _costs(digits, seed=2)]
    for metric, coeff in product(("dev", "l2"), (1.0, 1.15)):
        moved = []
        for num_sigmas in range(4, 12):
            paths = [gits.plan(draw[metric], num_sigmas, coeff) for draw in draws]
            moved.append(np.ptp(paths, axis=0).max())
            # Now and then two paths far apart are as good as each other.
            for draw in draws:
                totals = [gits.path_cost(draw[metric], path, coeff) for path in paths]
                assert max(totals) <= 1.02 * min(totals), (num_sigmas, paths)
        assert np.mean(np.array(moved) <= 2) >= 0.75, (metric, coeff, moved)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "ipndm"])
def test_auto_is_near_the_best_fixed_choice(digits, truth, costs, solver):
    latents = _digits_latents(0, 256)
    found = gits.search(digits, latents, FINE, 6, coeff="auto", solver=solver)
    chosen, _ = _measured(digits, truth, found.sigmas, solver)
    fixed = [
        _measured(digits, truth, FINE[gits.plan(costs[metric], 6, coeff)], solver)
        for metric in gits.AUTO_METRICS
        for coeff in gits.AUTO_COEFFS
    ]
    assert chosen <= 1.05 * min(error for error, _ in fixed)
