"""LPIPS after training, of members that answer with known images."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxkd.core.errors import UserError
from jaxkd.core.types import Spec
from jaxkd.evaluators import perceptual
from jaxkd.methods import iris, super_resolution
from jaxkd.models.edsr import EDSR
from jaxkd.models.super_resolution import enlarged
from jaxkd.readers import lpips_weights
from tests.lpips_weights import state


@pytest.fixture
def weights(tmp_path):
    save_file(state("vgg"), tmp_path / "x.safetensors")
    return str(tmp_path / "x.safetensors")


def spec(side, *fields):
    shapes = {"image": (side, side, 3), "low": (side // 2, side // 2, 3)}
    shapes |= dict.fromkeys(fields, (4,))
    return Spec(
        network=EDSR(scale=2, blocks=2, width=2),
        frozen={},
        num_classes=0,
        fields={k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()},
        steps_per_unit=1.0,
        input_key="low",
    )


def study(*answers):
    """One student of as many seeds; the last of each batch's rows is padding."""
    rng = np.random.default_rng(0)
    batches = [
        {
            "image": np.float32(rng.integers(0, 256, (3, 16, 16, 3)) / 127.5 - 1),
            "low": rng.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32),
            "mask": np.array([True, True, False]),
        }
        for _ in range(2)
    ]
    members = [
        SimpleNamespace(
            student="x", seed=seed, predict=lambda b, make=make: {"image": make(b)}
        )
        for seed, make in enumerate(answers)
    ]
    return batches, SimpleNamespace(
        members=members,
        batches=lambda: iter(batches),
        by_student=lambda: {"x": members},
    )


def test_scores_and_table(weights):
    batches, trained = study(
        lambda batch: batch["image"] + 1e-4,  # the same in 8 bits
        lambda batch: -batch["image"],
    )
    report = perceptual.find(trained, weights)
    network, variables = lpips_weights.read(weights)

    def mean(make):
        found = [
            network.apply(variables, *(eight_bits(x) for x in (make(b), b["image"])))
            for b in batches
        ]
        return np.concatenate([x[:2] for x in found]).mean()

    same, negative = report.scores["x"]["lpips"]
    assert same == 0
    assert negative == pytest.approx(mean(lambda b: -b["image"]), rel=1e-4)
    (table,) = report.tables
    bicubic = mean(lambda b: np.asarray(enlarged(jnp.asarray(b["low"]), 2)))
    assert float(table.rows[1][1]) == pytest.approx(bicubic, abs=1e-4)
    assert table.rows[1][0] == "bicubic" and table.rows[2][0] == "x"
    assert "vgg" in table.note


def eight_bits(images):
    return np.round(255 * np.clip((images + 1) / 2, 0, 1)) / 127.5 - 1


def test_a_method_checks_the_file_before_training(weights):
    makers = [
        (super_resolution.make, spec(16)),
        (iris.make, spec(16, "circles", "label")),
    ]
    for make, run in makers:
        assert make(run, lpips=weights).evaluator is not make(run).evaluator
        assert make(run, lpips=weights).evaluator is make(run, lpips=weights).evaluator
        with pytest.raises(UserError, match=r"There is no file gone\.safetensors"):
            make(run, lpips="gone.safetensors")
        small = run._replace(fields=spec(8, "circles", "label").fields)
        with pytest.raises(UserError, match=r"loss\.lpips: .*at least 16 for"):
            make(small, lpips=weights)
    assert super_resolution.make(spec(16)).evaluator is None


def test_irises_are_recognised_and_compared(weights, monkeypatch):
    from jaxkd.evaluators.base import EvaluationReport

    eer = EvaluationReport({"x": {"eer_haar": [0.1]}}, (), ["recognition"])
    monkeypatch.setattr("jaxkd.evaluators.iris.find", lambda trained: eer)
    _, trained = study(lambda batch: -batch["image"])
    run = spec(16, "circles", "label")
    assert iris.make(run).evaluator(trained) is eer
    report = iris.make(run, lpips=weights).evaluator(trained)
    assert report.scores["x"].keys() == {"eer_haar", "lpips"}
    assert report.tables[0] == "recognition" and len(report.tables) == 2
