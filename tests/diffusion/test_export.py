"""Schedules for other people's samplers: the numbers, and diffusers' arithmetic."""

import itertools
import json
import types

import numpy as np
import pytest

from jaxkd.diffusion import export, noise_tables, samplers, schedules

MEAN, VARIANCE = 0.7, 0.3


def denoise(x, sigma):
    """The clean data's mean, of one Gaussian, in NumPy, JAX and torch alike."""
    return MEAN + (x - MEAN) * VARIANCE / (VARIANCE + sigma**2)


# As NVIDIA's page of Align Your Steps prints the timesteps of its ten steps.
AYS_TIMESTEPS = {
    "sd1": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}


@pytest.mark.parametrize("family", AYS_TIMESTEPS)
def test_published_timesteps(family):
    made = export.make(family, "dpmpp", 10)
    assert made.timesteps == AYS_TIMESTEPS[family]
    assert (made.schedule, made.nfe, len(made.sigmas)) == ("ays", 10, 11)


def test_interpolated_tables():
    table = schedules.gits_published("sd15", 6, 1.20)
    np.testing.assert_array_equal(schedules.gits(6), table)
    finer = schedules.gits(11)
    np.testing.assert_array_equal(finer, schedules.gits_published("sd15", 11, 1.20))
    # Twice as many steps pass through the old sigmas, and halve between them.
    doubled = schedules.interpolate(table, 11)
    np.testing.assert_allclose(doubled[::2], table)
    np.testing.assert_allclose(doubled[1::2], np.sqrt(table[1:] * table[:-1]))
    assert len(schedules.gits(8, "cifar10")) == 8
    with pytest.raises(ValueError, match="there are those of cifar10, sd15"):
        schedules.gits(6, "sdxl")


def test_timesteps_are_the_nearest():
    made = export.make("sd2", "unipc", 6, "polynomial")
    alphas = noise_tables.alphas_cumprod().astype(np.float64)
    table = np.sqrt(1 / alphas - 1)
    for sigma, timestep in zip(made.sigmas, made.timesteps, strict=False):
        near = np.log(table[max(timestep - 1, 0) : timestep + 2] / sigma)
        assert np.abs(np.log(table[timestep] / sigma)) == np.abs(near).min()
    with pytest.raises(ValueError, match="both nearest to timestep"):
        export.make("sd1", "euler", 400, "polynomial")


def test_flows():
    made = export.make("flow", "euler", 4, shift=3.0)
    u = np.array([1, 0.75, 0.5, 0.25, 0])
    expected = 3 * u / (1 + 2 * u)
    np.testing.assert_allclose(made.sigmas, expected)
    np.testing.assert_allclose(made.timesteps, 1000 * expected[:-1])


def test_files_and_two_calls_a_step(tmp_path):
    sigmas = np.array([80.0, 5.0, 0.5, 0.002])
    path = tmp_path / "found.json"
    schedules.save(path, schedules.Schedule(sigmas))
    made = export.make("edm", "heun", schedule=str(path))
    assert (made.sigmas, made.nfe, made.timesteps) == (tuple(sigmas), 6, None)
    shares = export.make("flow", "euler", schedule=str(path)).sigmas
    np.testing.assert_allclose(shares, [1, 5 / 6, 1 / 3, 0])
    assert export.make("edm", "euler", 3, str(path), to_zero=True).sigmas[-1] == 0
    for arguments, message in (
        (("edm", "heun", 5), "nfe is 5, expected a multiple of 2"),
        (("edm", "dpmpp", 4, str(path)), "has 3 steps, but nfe asks for 4"),
        (("edm", "dpmpp", 4, "ays"), "schedule of family 'edm' is 'ays'"),
        (("sd3", "dpmpp", 4), "family is 'sd3', expected one of edm, sd1"),
        (("sd1", "dpmpp"), "nfe is missing"),
        (("flow", "euler", 4, "ays"), "schedule of family 'flow' is 'ays'"),
    ):
        with pytest.raises(ValueError, match=message):
            export.make(*arguments)
    offsets = np.zeros(3)
    schedules.save(path, schedules.Schedule(sigmas, offsets=offsets))
    with pytest.raises(ValueError, match="has offsets"):
        export.make("edm", "dpmpp", schedule=str(path))


def test_command(tmp_path, capsys):
    path = tmp_path / "out.json"
    export.main(["--family=sd1", "--solver=unipc", "--nfe=5", f"--output={path}"])
    printed = capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["comfyui"] in printed and content["diffusers"] in printed
    assert content["comfyui_sampler"] == "uni_pc_bh2"
    assert content["diffusers_argument"] is None  # UniPC takes neither
    np.testing.assert_allclose(schedules.load(path).sigmas, content["sigmas"])
    typed = [float(number) for number in content["comfyui"].split(",")]
    np.testing.assert_allclose(typed, content["sigmas"], 1e-6)
    with pytest.raises(SystemExit):
        export.main(["--family=sd1", "--solver=rk45", "--nfe=5"])
    assert "solver is 'rk45', expected one of euler" in capsys.readouterr().err


# Of diffusers itself, with NumPy 2.
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation")


def _paste(exported, scheduler):
    """Runs the lines that are to be pasted, on a pipeline that has a scheduler."""
    pipe = types.SimpleNamespace(scheduler=scheduler)
    exec(export.diffusers_lines(exported), {"pipe": pipe})
    # As pipelines do.
    pipe.scheduler.set_timesteps(exported.nfe, device="cpu")
    return pipe.scheduler


@quiet
@pytest.mark.parametrize("solver", ["dpmpp", "unipc"])
@pytest.mark.parametrize("order", [2, 3])
def test_diffusers_arithmetic(solver, order):
    diffusers, torch = map(pytest.importorskip, ("diffusers", "torch"))
    exported = export.make("sd1", solver, 6, "gits", order=order)
    stable = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    scheduler = _paste(exported, stable)
    sigmas = np.array(exported.sigmas)
    noise = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)

    # The model sees noise and data mixed at unit variance, and answers with the noise.
    scale = np.sqrt(1 + sigmas**2)
    x = torch.tensor(noise * sigmas[0] / scale[0]).float()
    assert len(scheduler.timesteps) == 6
    for i, timestep in enumerate(scheduler.timesteps):
        assert timestep == exported.timesteps[i]
        mixed = x * scale[i]
        eps = (mixed - denoise(mixed, sigmas[i])) / sigmas[i]
        x = scheduler.step(eps, timestep, x).prev_sample
    ours = samplers.sample(denoise, noise * sigmas[0], sigmas, solver, order).x[-1]
    np.testing.assert_allclose(x * scale[-1], ours, 1e-4, 1e-5)


@quiet
def test_diffusers_takes_the_timesteps():
    diffusers = pytest.importorskip("diffusers")
    exported = export.make("sdxl", "dpmpp", 10)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        final_sigmas_type="sigma_min",
    )
    argument = export.diffusers_argument(exported)
    taken = eval(f"dict({argument.partition('  #')[0]})")
    scheduler.set_timesteps(**taken)
    # Rounded to whole timesteps, within half the distance of two of them.
    np.testing.assert_allclose(scheduler.sigmas, exported.sigmas, 0.02)
    assert scheduler.timesteps.tolist() == list(exported.timesteps)


@quiet
@pytest.mark.parametrize("solver", ["euler", "dpmpp", "unipc"])
def test_diffusers_flows(solver):
    diffusers, torch = map(pytest.importorskip, ("diffusers", "torch"))
    exported = export.make("flow", solver, 5)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    if solver != "euler":
        flow = diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction"
        )
    scheduler = _paste(exported, flow)
    s = np.array(exported.sigmas)
    noise = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    x = torch.tensor(noise)
    for i, timestep in enumerate(scheduler.timesteps):
        # The velocity of (1 - s) clean + s noise is noise - clean.
        share = max(1 - s[i], 1e-6)
        clean = denoise(x / share, s[i] / share)
        x = scheduler.step((x - clean) / s[i], timestep, x).prev_sample
    assert torch.isfinite(x).all()
    if solver == "euler":
        state = noise.astype(np.float64)
        for start, end in itertools.pairwise(s):
            share = max(1 - start, 1e-6)
            clean = denoise(state / share, start / share)
            state = state + (end - start) * (state - clean) / start
        np.testing.assert_allclose(x, state, 1e-4, 1e-4)
        return
    sigmas = s[:-1] / np.maximum(1 - s[:-1], 1e-6)
    ours = samplers.sample(
        *(denoise, noise * sigmas[0], sigmas, solver, 2),
        denoise_to_zero=True,
        lower_order_final=False,
    ).x[-1]
    np.testing.assert_allclose(x, ours, 1e-3, 1e-3)
