"""Schedules against their formulas, the published tables, and JSON."""

import json

import numpy as np
import pytest

from jaxkd.diffusion import noise_schedules, published_schedules, schedules
from jaxkd.diffusion.schedules import Schedule

# The schedule published for CIFAR-10 and its places in the 61-point grid.
CIFAR10_PLACES = [0, 19, 27, 33, 39, 45, 60]


def test_polynomial_holds_the_published_schedule():
    grid = schedules.polynomial(61, 0.002, 80.0)
    published_schedule = schedules.gits_published("cifar10", 7, 1.15)
    np.testing.assert_allclose(grid[CIFAR10_PLACES], published_schedule, atol=6e-5)


def test_discrete_holds_the_published_schedules():
    clock = noise_schedules.stable_diffusion_clock()
    low, high = clock.sigma(np.array([0.001, 1.0]))
    assert low == pytest.approx(0.0291672, abs=1e-7)
    assert high == pytest.approx(14.614641, abs=1e-6)
    found = np.concatenate(
        [
            sigmas
            for (model, *_), sigmas in published_schedules.GITS.items()
            if model == "sd15"
        ]
    )

    def farthest(points):
        grid = schedules.discrete(points, low, high)
        return np.abs(grid[:, None] - found).min(axis=0).max()

    # All printed with four decimals; no coarser grid has them all.
    assert farthest(101) < 6e-5
    assert min(map(farthest, range(11, 101))) > 5e-3


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_discrete_is_even_in_the_power_of_time(rho):
    clock = noise_schedules.stable_diffusion_clock()
    sigmas = schedules.discrete(9, 0.1, 10.0, rho)
    assert sigmas[0] == 10.0
    assert sigmas[-1] == 0.1
    steps = np.diff(clock.time(sigmas) ** (1 / rho))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_polynomial_is_even_in_the_root(rho):
    steps = np.diff(schedules.polynomial(9, 0.1, 10.0, rho) ** (1 / rho))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-12)


@pytest.mark.parametrize("knee", [0.3, 1.0, 10.0])
def test_saturating_is_even_in_its_scale(knee):
    sigmas = schedules.saturating(9, 0.002, 80.0, 1.5, knee)
    assert (sigmas[0], sigmas[-1]) == (80.0, 0.002)
    scale = (1 / (1 / sigmas + 1 / knee)) ** (1 / 1.5)
    np.testing.assert_allclose(np.diff(scale), np.diff(scale)[0], rtol=1e-9)


def test_saturating_far_below_its_knee_is_polynomial():
    sigmas = schedules.saturating(9, 0.002, 80.0, 3.0, 1e12)
    plain = schedules.polynomial(9, 0.002, 80.0, 3.0)
    np.testing.assert_allclose(sigmas, plain, rtol=1e-8)
    # A range so far above that its upper end is at the knee to machine precision.
    schedules.explicit(schedules.saturating(9, 0.002, 1e30, 2.0, 1.0))


def test_logsnr_is_geometric():
    sigmas = schedules.logsnr(5, 0.01, 100.0)
    np.testing.assert_allclose(sigmas, [100, 10, 1, 0.1, 0.01], rtol=1e-12)


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_time_uniform_is_even_on_a_clock_through_both_ends(rho):
    sigmas = schedules.time_uniform(9, 0.002, 80.0, rho)
    clock = noise_schedules.fit_linear_beta(0.002, 80.0)
    assert clock.sigma(1e-3) == pytest.approx(0.002, rel=1e-9)
    assert clock.sigma(1.0) == pytest.approx(80.0, rel=1e-9)
    times = clock.time(sigmas) ** (1 / rho)
    np.testing.assert_allclose(np.diff(times), (1e-3 ** (1 / rho) - 1) / 8, rtol=1e-6)


@pytest.mark.parametrize("model", list(published_schedules.ALIGN_YOUR_STEPS))
def test_align_your_steps(model):
    table = published_schedules.ALIGN_YOUR_STEPS[model]
    np.testing.assert_allclose(schedules.ays(11, model), table, rtol=1e-12)
    twice = schedules.ays(21, model)
    np.testing.assert_allclose(twice[::2], table, rtol=1e-12)
    between = np.sqrt(twice[:-2:2] * twice[2::2])
    np.testing.assert_allclose(twice[1::2], between, rtol=1e-12)


@pytest.mark.parametrize(
    "sigmas",
    [
        schedules.polynomial(2, 0.002, 80.0),
        schedules.logsnr(40, 0.002, 80.0),
        schedules.time_uniform(40, 0.002, 80.0, 2.0),
        schedules.discrete(40, 0.03, 14.0),
        schedules.ays(3, "svd"),
        schedules.explicit([3, 2, 1]),
    ],
)
def test_every_schedule_decreases_in_double_precision(sigmas):
    assert sigmas.dtype == np.float64
    assert np.all(np.diff(sigmas) < 0)


def test_json_round_trip_is_exact(tmp_path):
    found = Schedule(
        schedules.polynomial(7, 0.002, 80.0),
        np.array(CIFAR10_PLACES),
        np.zeros((61, 61)),
        {"metric": "dev", "seed": 3},
    )
    schedules.save(tmp_path / "found.json", found)
    read = schedules.load(tmp_path / "found.json")
    np.testing.assert_array_equal(read.sigmas, found.sigmas)
    np.testing.assert_array_equal(read.indices, found.indices)
    assert read.cost is None
    assert dict(read.details) == {"metric": "dev", "seed": 3}
    schedules.save(tmp_path / "plain.json", Schedule(found.sigmas))
    assert schedules.load(tmp_path / "plain.json").indices is None


@pytest.mark.parametrize("text", ["[1", "[3, 2]", json.dumps({"steps": 3}), "3"])
def test_files_without_a_schedule(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.json holds no schedule"):
        schedules.load(tmp_path / "wrong.json")
    with pytest.raises(ValueError, match=r"There is no file .*missing\.json"):
        schedules.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.polynomial(1, 0.1, 1.0), "1 sigmas; expected at least 2"),
        (lambda: schedules.polynomial(5, 1.0, 0.1), "sigma_min=1 and sigma_max=0.1"),
        (lambda: schedules.saturating(5, 0.1, 1.0, 2.0, 0.0), "knee=0"),
        (lambda: schedules.logsnr(5, 0.0, 1.0), "expected 0 < sigma_min < sigma_max"),
        (lambda: schedules.polynomial(5, 0.1, 1.0, 0.0), "rho=0"),
        (lambda: schedules.time_uniform(5, 0.5, 1.0), "does not fit a variance"),
        (lambda: schedules.ays(5, "sd3"), "those of sd15, sdxl, svd"),
        (lambda: schedules.gits_published("sd15", 4, 1.2), "there are .*'sd15', 11"),
        (lambda: schedules.explicit([[1.0, 0.5]]), r"shape \(1, 2\)"),
        (lambda: schedules.explicit([2.0, np.nan, 1.0]), "must be finite"),
        (lambda: schedules.explicit([1.0, 2.0]), "sigma 0 is 1 and sigma 1 is 2"),
        (lambda: schedules.explicit([1.0, 0.0]), "denoise_to_zero"),
    ],
)
def test_impossible_schedules(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cached_schedules_are_made_once_for_each_key(tmp_path):
    made = []

    def make():
        made.append(1)
        sigmas = schedules.polynomial(3 + len(made), 0.1, 1.0)
        return Schedule(sigmas, details={"calls": 7}, offsets=np.full(2, 0.1))

    key = {"model": "ab12", "solver": "ipndm", "order": 4, "sigmas": 4}
    one = schedules.cached(tmp_path / "kept", key, make)
    again = schedules.cached(tmp_path / "kept", dict(reversed(key.items())), make)
    assert len(made) == 1
    np.testing.assert_array_equal(one.sigmas, again.sigmas)
    np.testing.assert_array_equal(again.offsets, [0.1, 0.1])
    assert again.details == {"calls": 7, "key": key}
    other = schedules.cached(tmp_path / "kept", key | {"order": 3}, make)
    assert len(made) == 2 and len(other.sigmas) == 5
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize("gap", [1e-12, 3e-8, 9e-6])
def test_sigmas_that_single_precision_cannot_tell_apart_are_refused(gap):
    with pytest.raises(ValueError, match=r"Sigmas 1 and 2 .*5\.0.* nearer than 1e-05"):
        schedules.explicit([80.0, 5.0, 5.0 * (1 - gap), 0.002])
    assert len(schedules.explicit([80.0, 5.0, 5.0 * (1 - 2e-5), 0.002])) == 4


def test_numbers_of_numpy_are_saved_and_are_keys(tmp_path):
    details = {
        "nfe": np.int64(5),
        "error": np.float32(0.5),
        "afs": np.bool_(True),
        "errors": np.array([1.0, 2.0]),
        "nested": {"seed": np.uint32(7)},
    }
    plain = {"nfe": 5, "error": 0.5, "afs": True, "errors": [1.0, 2.0]}
    plain |= {"nested": {"seed": 7}}
    sigmas = np.array([80.0, 1.0, 0.002])
    schedules.save(tmp_path / "a.json", Schedule(sigmas, details=details))
    assert dict(schedules.load(tmp_path / "a.json").details) == plain
    made = []

    def make():
        made.append(1)
        return Schedule(sigmas, details=details)

    for key in (details, plain):  # One and the same key.
        read = schedules.cached(tmp_path / "kept", key, make)
        assert dict(read.details) == plain | {"key": plain}
    assert made == [1]
    with pytest.raises(TypeError, match="JSON cannot hold <object"):
        schedules.save(tmp_path / "b.json", Schedule(sigmas, details={"a": object()}))
