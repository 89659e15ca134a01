"""The sampling benchmark, small, from the configuration to the report."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxkd import pipelines
from jaxkd.convert import edm
from jaxkd.core import config as configs
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.diffusion import densities, frechet, samplers, schedules
from jaxkd.diffusion.search import gits
from jaxkd.models.edm import SongUNet
from jaxkd.pipelines.gits import cells, models
from jaxkd.pipelines.gits import config as gits_config
from jaxkd.pipelines.gits import densities as gits_densities
from jaxkd.pipelines.gits import results as gits_results
from jaxkd.recipes import diffusion

ENDS = 0.002, 80.0


def small(**changed):
    """Two solvers on the ring, few latents, coarse grids."""
    config = gits_config.default()
    config.name = "small"
    config.densities = ("ring",)
    config.solvers, config.nfe = ("ipndm", "dpm"), (3, 4)
    config.batch, config.blocks, config.exact_sigmas = 16, 2, 101
    config.gits.update({"grid": 13, "metrics": ("l2",), "coeffs": (1.0, 1.2)})
    config.fit.update({"reference": 13, "starts": 1})
    config.geometry.update({"num_sigmas": 41, "window": 11})
    config.networks.update(
        {"solvers": ("ipndm",), "nfe": (3,), "batch": 4, "exact_sigmas": 21}
    )
    config.networks.fit.reference = 11
    config.networks.geometry.num_sigmas = 41
    config.update(changed)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gits")
    return workdir, pipelines.run(small(), workdir)


def cell_of(results, solver, nfe):
    (found,) = (c for c in results["cells"] if (c["solver"], c["nfe"]) == (solver, nfe))
    return found


def errors_of(results):
    return {
        (cell["solver"], cell["nfe"], name): record["errors"]
        for cell in results["cells"]
        for name, record in cell["schedules"].items()
    }


def held_out(block):
    first = gits_config.HELD_OUT + 16 * block
    return samplers.latents(range(first, first + 16), (2,), 80.0)


def test_all_cells_are_there_and_their_calls_counted(finished):
    _, results = finished
    there = [(cell["solver"], cell["nfe"]) for cell in results["cells"]]
    # Two calls a step cannot make three calls.
    assert sorted(there) == [("dpm", 4), ("ipndm", 3), ("ipndm", 4)]
    for cell in results["cells"]:
        assert list(cell["schedules"]) == list(gits_config.SCHEDULES[:-1])
        assert cell["counted"] == cell["nfe"]
        steps = cell["nfe"] // 2 if cell["solver"] == "dpm" else cell["nfe"]
        assert {len(r["sigmas"]) for r in cell["schedules"].values()} == {steps + 1}
        assert cell["seconds_per_call"] > 0


def test_errors_are_those_of_direct_calls(finished):
    _, results = finished
    denoise = gits_densities.ring().denoise
    exact_sigmas = schedules.time_uniform(101, *ENDS, 2.0)
    sigmas = schedules.polynomial(5, *ENDS)
    ends = []
    for block in range(2):
        x = held_out(block)
        exact = samplers.sample(denoise, x, exact_sigmas, "ab_v", 4).x[-1]
        ends.append(samplers.sample(denoise, x, sigmas, "ipndm", 4).x[-1])
        apart = jnp.linalg.norm(ends[-1] - exact, axis=1)
        record = cell_of(results, "ipndm", 4)["schedules"]["polynomial"]
        expected = float(apart.mean()) / np.sqrt(2)
        assert record["errors"][block] == pytest.approx(expected, rel=1e-4)
    # A ring of radius 0.7 about the origin with width 0.05, in closed form.
    truth = frechet.Moments(np.zeros(2), (0.7**2 / 2 + 0.05**2) * np.eye(2))
    found = frechet.moments(np.concatenate(ends))
    assert record["frechet"] == pytest.approx(frechet.distance(found, truth), rel=1e-4)


def test_gits_is_the_best_of_its_coefficients(finished):
    _, results = finished
    denoise, grid = gits_densities.ring().denoise, schedules.polynomial(13, *ENDS)
    costs = []
    for start in (0, 16):
        x = samplers.latents(range(start, start + 16), (2,), 80.0)
        run = samplers.sample(denoise, x, grid, "ipndm", 4, keep_denoised=True)
        costs.append(gits.cost_matrix(run.x, run.denoised, grid, "l2"))
    errors = {}
    exact = [
        samplers.sample(
            denoise, held_out(b), schedules.time_uniform(101, *ENDS, 2.0), "ab_v"
        ).x[-1]
        for b in range(2)
    ]
    for coeff in (1.0, 1.2):
        indices = gits.plan(np.mean(costs, axis=0), 5, coeff)
        ends = [
            samplers.sample(denoise, held_out(b), grid[indices]).x[-1] for b in range(2)
        ]
        apart = [
            jnp.linalg.norm(end - one, axis=1).mean()
            for end, one in zip(ends, exact, strict=True)
        ]
        errors[tuple(indices.tolist())] = float(np.mean(apart)) / np.sqrt(2)
    record = cell_of(results, "ipndm", 4)["schedules"]["gits"]
    assert np.mean(record["errors"]) == pytest.approx(min(errors.values()), rel=1e-4)
    assert tuple(record["indices"]) == min(errors, key=lambda key: errors[key])
    assert record["details"]["calls"] == 2 * 16 * 12


def test_best_schedules_can_be_loaded(finished):
    workdir, results = finished
    cell = cell_of(results, "ipndm", 3)
    errors = {k: np.mean(r["errors"]) for k, r in cell["schedules"].items()}
    best = min(errors, key=lambda name: errors[name])
    found = schedules.load(workdir / "schedules" / "ring-ipndm-nfe3.json")
    np.testing.assert_array_equal(found.sigmas, cell["schedules"][best]["sigmas"])
    assert found.details["schedule"] == best
    assert found.details["solver"] == "ipndm" and found.details["order"] == 4
    assert found.details["error"] == pytest.approx(errors[best])


def test_report_has_its_figures_and_tables(finished):
    workdir, results = finished
    for name in ("best", "error-ring", "frechet-ring", "schedules-ring", "cost-ring"):
        for suffix in ("", "-dark"):
            with Image.open(workdir / "figures" / f"{name}{suffix}.png") as image:
                assert min(image.size) > 300
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 14  # seven figures in two themes
    assert "it is not FID" in page
    text = pipelines.format_table(results)
    assert gits_results.winner(results, "ring", 4).solver == "ipndm"
    (line,) = (line for line in text.splitlines() if "winner" in line)
    assert line.split() == ["winner", "ipndm", "ipndm"]
    assert "geometric mean" in text and "Worse beyond the standard error" in text
    tabled = {row[2].removesuffix(" (best)") for row in gits_report_rows(results)}
    assert tabled == set(gits_config.SCHEDULES) - {"fit-offsets"}  # asked for by name


def gits_report_rows(results):
    from jaxkd.pipelines.gits import report

    heading, *rows = report.every(results, "ring")
    assert {len(row) for row in rows} == {len(heading)}
    return rows


def test_a_finished_run_is_not_repeated(finished, monkeypatch):
    workdir, results = finished
    monkeypatch.setattr(cells, "fill", None)
    assert pipelines.run(small(name="other name"), workdir) == json.loads(
        json.dumps(results)
    )
    with pytest.raises(UserError, match=r"blocks: 2 -> 3"):
        pipelines.run(small(blocks=3), workdir)


def test_an_interrupted_run_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    stop_requested = iter([None, None, "SIGTERM"])
    with pytest.raises(Interrupted, match="SIGTERM: stopped after 2 of 3 cells"):
        pipelines.run(small(), tmp_path, lambda: next(stop_requested))
    assert len(list((tmp_path / "cells").iterdir())) == 2
    measured = []
    measure = cells.measure

    def noted(config, bench, cell):
        measured.append(cell)
        return measure(config, bench, cell)

    monkeypatch.setattr(cells, "measure", noted)
    monkeypatch.setattr("jaxkd.pipelines.gits.report.draw", lambda *_: None)
    monkeypatch.setattr("jaxkd.pipelines.gits.report.write", lambda *_: None)
    results = pipelines.run(small(), tmp_path)
    assert len(measured) == 1
    assert errors_of(results) == errors_of(finished[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solvers": ("ipdnm",)}, "config.solvers has 'ipdnm'"),
        ({"solvers": ()}, "config.solvers is"),
        ({"densities": ("rings",)}, "config.densities has 'rings'"),
        ({"densities": ()}, "something to sample"),
        ({"schedules": ("fit", "fit")}, "different names"),
        ({"orders": {"ipndm": 0}}, "config.orders.ipndm is 0"),
        ({"orders": {"unipc": 4}}, "from 1 to 3"),
        ({"nfe": (0,)}, "config.nfe is"),
        ({"nfe": (13,)}, "from 1 to 12"),
        ({"nfe": (3, 3)}, "different numbers"),
        ({"nfe": (3, 5)}, "dpm takes two model calls a step"),
        ({"seeds": ()}, "config.seeds"),
        ({"seeds": (-1,)}, "config.seeds"),
        ({"batch": 1}, "config.batch is 1"),
        ({"blocks": 0}, "config.blocks is 0"),
        ({"sigma_min": 90.0}, "sigma_min < sigma_max"),
        ({"gits": {"coeffs": (0.0,)}}, "config.gits.coeffs"),
        ({"gits": {"metrics": ("l3",)}}, "config.gits.metrics has 'l3'"),
        ({"geometry": {"window": 10}}, "config.geometry.window is 10"),
        ({"fit": {"starts": 0}}, "config.fit.starts is 0"),
        ({"sample": {"solver": "ipdm"}}, "config.sample.solver has 'ipdm'"),
        ({"edm": {"path": "no/model.pkl"}}, "there is no file no/model.pkl"),
    ],
)
def test_impossible_configurations(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pipelines.run(small(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_keys_and_pipelines():
    config = small()
    with pytest.raises((AttributeError, KeyError)):
        config.sovlers = ("ipndm",)
    with config.unlocked():
        config.sovlers = ("ipndm",)
    with pytest.raises(UserError, match="config has no key sovlers"):
        pipelines.check(config)
    with pytest.raises(
        UserError, match="no 'gist', expected one of chat_verification, dtiil, gits"
    ):
        pipelines.check(small(pipeline="gist"))


def test_standard_errors_over_blocks_and_seeds():
    one = gits_results.score([[1.0, 3.0, 5.0]])
    assert one.mean == 3.0
    assert one.error == pytest.approx(2 / np.sqrt(3))
    assert gits_results.score([[1.0]]).error is None
    both = gits_results.score([[1.0, 3.0], [2.0, 4.0]])
    # Blocks of means 1.5 and 3.5, seeds of means 2 and 3.
    assert both.error == pytest.approx(np.sqrt(2 / 2 + 0.5 / 2))


def test_a_fit_is_worse_only_beyond_the_paired_error():
    def results(fit):
        schedules = {"gits": {"errors": [1.0, 2.0]}, "fit": {"errors": fit}}
        cell = {"target": "a", "solver": "ipndm", "nfe": 5, "schedules": schedules}
        return {"cells": [cell]}

    (same,) = gits_results.comparisons(results([1.1, 1.95]), "a")
    assert not same.worse and same.ratio == pytest.approx(3.05 / 3)
    (worse,) = gits_results.comparisons(results([1.1, 2.1]), "a")
    assert worse.worse and worse.rival == "gits"


@pytest.mark.slow
@pytest.mark.parametrize("name", gits_densities.DENSITIES)
def test_moments_of_a_density_are_those_of_its_denoiser(name):
    """Far away a denoiser tells the mean, and then the covariance."""
    target = gits_densities.DENSITIES[name]()
    with jax.enable_x64(True):
        size, sigma = int(np.prod(target.shape)), 100.0
        rng = np.random.default_rng(0)
        x = rng.normal(size=(4, size))
        x = jnp.asarray(x.reshape(4, *target.shape))
        clean, other = (
            np.asarray(target.denoise(at, sigma)).reshape(4, -1) for at in (x, -x)
        )
    # D(x) = mean + C x / sigma^2 + even terms + terms of higher order.
    mean, covariance = target.moments
    np.testing.assert_allclose(clean, np.tile(mean, (4, 1)), atol=0.02)
    odd, expected = (clean - other) / 2, np.asarray(x).reshape(4, -1) @ covariance
    missed = np.linalg.norm(odd * sigma**2 - expected) / np.linalg.norm(expected)
    assert missed < 0.02


def test_exact_solutions_of_a_gaussian():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(4, 4))
    covariance, mean = factor @ factor.T / 4, rng.normal(size=4)
    from jaxkd.pipelines.gits import reference

    x = samplers.latents(range(32), (4,), 80.0)
    found = reference.solve(densities.gaussian(mean, covariance), x, 401, ENDS)
    exact = densities.gaussian_path(mean, covariance, np.asarray(x), 80.0, 0.002)
    assert reference.end_error(found, jnp.asarray(exact)) < 1e-5


def test_samples_are_drawn_with_a_schedule(tmp_path):
    config = small(densities=("digits",))
    config.sample.update({"batch": 4, "solver": "ipndm"})
    with pytest.raises(UserError, match=r"no schedule .*digits-ipndm-nfe10\.json"):
        pipelines.sample(config, tmp_path, range(6))
    sigmas = schedules.time_uniform(6, *ENDS, 2.0)
    schedules.save(tmp_path / "own.json", schedules.Schedule(sigmas))
    config.sample.schedule = str(tmp_path / "own.json")
    path = pipelines.sample(config, tmp_path, range(3, 9), tmp_path / "new" / "a.png")
    x = samplers.latents(range(3, 9), (8, 8, 1), 80.0)
    ends = samplers.sample(gits_densities.digits().denoise, x, sigmas).x[-1]
    pixels = np.clip(127.5 * np.asarray(ends) + 128, 0, 255)
    with Image.open(path) as image:
        page = np.asarray(image)
    # Three columns of images of 64 pixels, two apart; the fifth is in the second row.
    assert page.shape == (2 * 66 + 2, 3 * 66 + 2)
    shown = page[68 + 4 : 132 : 8, 68 + 4 : 132 : 8]
    np.testing.assert_allclose(shown, pixels[4, ..., 0], atol=1.01)


def test_samples_that_are_no_images(tmp_path):
    with pytest.raises(UserError, match="no images"):
        pipelines.sample(small(), tmp_path, range(4))
    with pytest.raises(UserError, match=r"config\.sample\.target is 'rong'"):
        pipelines.sample(small(sample={"target": "rong"}), tmp_path, range(4))
    with pytest.raises(UserError, match="at least one"):
        pipelines.sample(small(), tmp_path, [])
    with pytest.raises(UserError, match="all from 0"):
        pipelines.sample(small(), tmp_path, [0, -1])


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A tiny conditional network of random weights, as an EDM state dictionary."""
    options = {
        "img_resolution": 4,
        "in_channels": 1,
        "out_channels": 1,
        "label_dim": 3,
        "model_channels": 4,
        "channel_mult": (1,),
        "num_blocks": 1,
        "attn_resolutions": (),
    }
    network = SongUNet(**options)
    inputs = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2), jnp.zeros((2, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda one: 0.2 * rng.normal(size=one.shape), shapes)
    path = tmp_path_factory.mktemp("edm") / "tiny.npz"
    edm.save(path, edm.Configuration("SongUNet", options), variables)
    return path


@pytest.mark.slow
def test_a_model_of_the_user_end_to_end(model_file, tmp_path):
    config = load_config_file().get_config(f"edm,{model_file}")
    config.networks.update(
        {"solvers": ("ipndm",), "nfe": (3,), "batch": 4, "exact_sigmas": 21}
    )
    config.gits.grid, config.networks.fit.reference = 11, 11
    results = pipelines.run(config, tmp_path / "run")
    for record in results["cells"][0]["schedules"].values():
        assert np.isfinite(record["errors"]).all() and record["frechet"] is None
    assert "tiny: SongUNet" in pipelines.format_table(results)
    config.sample.update({"solver": "ipndm", "nfe": 3, "batch": 4})
    with Image.open(pipelines.sample(config, tmp_path / "run", range(4))) as image:
        assert image.size == (140, 140)  # 64 pixels each, 4 around


@pytest.mark.slow
def test_a_model_of_the_user(model_file):
    config = load_config_file().get_config(f"edm,{model_file}")
    pipelines.check(config)
    target = models.load(config, "tiny")
    assert target.shape == (4, 4, 1) and target.moments is None
    x = samplers.latents(range(4), target.shape, 80.0)
    call = jax.jit(lambda denoise, x: denoise(x, 2.0))
    clean = call(target.denoise(4), x)
    # All classes in turn, or one for all.
    config.edm.label = 1
    one = call(models.load(config, "tiny").denoise(4), x)
    np.testing.assert_allclose(one[1], clean[1], atol=1e-5)
    assert float(jnp.abs(one[0] - clean[0]).max()) > 1e-4
    config.edm.label = 3
    with pytest.raises(UserError, match="a class below 3"):
        models.load(config, "tiny").denoise(4)


def test_a_model_that_returns_nan(model_file, tmp_path):
    with np.load(model_file) as arrays:
        broken = {name: np.full_like(array, np.nan) for name, array in arrays.items()}
    np.savez(tmp_path / "broken.npz", **broken)
    config = small(densities=(), edm={"path": str(tmp_path / "broken.npz")})
    config.exact_sigmas, config.batch = 21, 4
    with pytest.raises(UserError, match=r"broken.*NaN or infinite"):
        pipelines.run(config, tmp_path / "run")


def test_a_reference_of_another_size(model_file, tmp_path):
    config = small(densities=(), edm={"path": str(model_file)})
    config.edm.reference = str(tmp_path / "none.npz")
    with pytest.raises(UserError, match=r"config.edm.reference.*none\.npz"):
        models.load(config, "tiny")
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    config.edm.reference = str(tmp_path / "wide.npz")
    with pytest.raises(UserError, match=r"mean of shape \(2048,\), expected \[16\]"):
        models.load(config, "tiny")
    np.savez(tmp_path / "own.npz", mu=np.zeros(16), sigma=np.eye(16))
    config.edm.reference = str(tmp_path / "own.npz")
    assert models.load(config, "tiny").moments.mean.shape == (16,)


def needed(init_from="", **changed):
    run = diffusion.digits()
    run.update(name="tiny", duration=4, eval_every=4, checkpoint_every=4, **changed)
    run.batch_size, run.steps_per_call, run.optim.warmup = 8, 4, 1
    run.model = ConfigDict(
        {"name": "song_unet", "model_channels": 8, "channel_mult": (1,)}
    )
    return configs.needed(run, init_from)


@pytest.mark.slow
def test_a_network_is_trained_first_and_then_sampled(tmp_path):
    config = small(densities=())
    config.gits.grid = 11
    config.schedules = ("polynomial", "gits", "fit", "fit-offsets")
    config.needs.mine = needed()
    results = pipelines.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "mine" / "results.json").exists()
    assert [summary["name"] for summary in results["targets"]] == ["mine"]
    text = pipelines.format_table(results)
    assert "mine: song_unet of" in text and "fit-offsets over the better" in text
    records = results["cells"][0]["schedules"]
    assert (
        records["fit-offsets"]["details"]["calls"] > records["fit"]["details"]["calls"]
    )
    assert len(records["fit-offsets"]["offsets"]) == 3
    assert all(record["frechet"] > 0 for record in records.values())
    config.sample.update({"solver": "ipndm", "nfe": 3, "batch": 4})
    with Image.open(pipelines.sample(config, tmp_path / "run", range(4))) as image:
        assert image.mode == "L"
    # The same network by its folder, for another benchmark.
    config.needs.mine = needed(str(tmp_path / "run" / "mine"))
    again = pipelines.run(config, tmp_path / "again")
    assert errors_of(again) == errors_of(results)
    assert not (tmp_path / "again" / "mine").exists()


def test_a_target_is_tabled_with_its_own_solvers_and_calls(finished):
    _, results = finished
    other = cell_of(results, "ipndm", 3) | {"target": "other"}
    both = results | {"cells": [*results["cells"], other]}
    lines = gits_results.table(both, "other")
    assert lines[0] == ["", "NFE 3", "ms/call"]
    assert [line[0] for line in lines[1:]] == ["ipndm", "winner"]
    assert gits_results.table(both, "ring") == gits_results.table(results, "ring")


def test_networks_have_settings_of_their_own():
    config = small()
    config.needs.mine = needed()
    config.networks.update({"solvers": ("unipc",), "nfe": (5,)})
    pipelines.check(config)
    found = [(cell.target, cell.solver, cell.nfe) for cell in cells.plan(config)]
    assert found == [
        ("ring", "ipndm", 4),
        ("ring", "dpm", 4),
        ("ring", "ipndm", 3),
        ("mine", "unipc", 5),
    ]
    assert gits_config.of_target(config, "ring") == config
    assert gits_config.of_target(config, "mine").batch == 4
    config.networks.nfe = (50,)
    with pytest.raises(UserError, match=r"config\.nfe is \(50,\)"):
        pipelines.check(config)
    # Those of densities are checked where there is none.
    config = small(densities=(), solvers=("no_such",))
    config.needs.mine = needed()
    with pytest.raises(UserError, match="no_such"):
        pipelines.check(config)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"mine": 3}, "config.needs.mine is int, expected configs.needed"),
        ({"ring": needed()}, "config.needs.ring has the name of a density"),
        ({"mine": needed(method="supervised")}, "method 'supervised', expected 'edm'"),
        ({"mine": needed("no/such/folder")}, "no/such/folder holds no config.json"),
    ],
)
def test_impossible_needs(needs, message):
    config = small()
    config.needs = ConfigDict(needs)
    with pytest.raises(UserError, match=message):
        pipelines.check(config)


def load_config_file():
    path = Path(__file__).parent.parent.parent / "configs" / "gits.py"
    spec = importlib.util.spec_from_file_location("gits_config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variant", ["no_such", "edm", "edm,"])
def test_unknown_variants(variant):
    with pytest.raises((ValueError, UserError), match=r"expected one of|wants a file"):
        load_config_file().get_config(variant)
