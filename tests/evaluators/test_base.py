"""What runs after training, other scores than accuracy, and needs of needs."""

import functools

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.types import Score
from jaxkd.core.writers import read_metrics
from jaxkd.evaluators.base import EvaluationReport, Figure, Table
from jaxkd.methods import supervised
from jaxkd.report import study_table
from jaxkd.report.style import LIGHT, canvas
from jaxkd.train import train
from jaxkd.training import workdir as workdirs
from tests.conftest import squares_config


def evaluate(trained):
    """Counts right answers, and averages logits of images and mirror images."""
    scores = {}
    for student, members in trained.by_student().items():
        own = {"right": [], "plain": [], "mirrored": []}
        for member in members:
            for name, view in ("mirrored", mirror(trained)), ("plain", None):
                right, logits = [], []
                for batch in trained.batches(view=view):
                    rows = np.asarray(member.predict(batch)["logits"])[batch["mask"]]
                    right.append(rows.argmax(-1) == batch["label"][batch["mask"]])
                    logits.append(rows)
                own[name].append(np.concatenate(logits)[:, 0].mean())
            own["right"].append(np.concatenate(right).mean())
            assert sum(map(len, right)) == len(trained.dataset.test)
        scores[student] = own
    with canvas(trained.folder / "mirror.png", (3, 2), LIGHT) as figure:
        figure.subplots().plot([0, 1])
    rows = [["", "cells"], ["all", "<four>"]]
    return EvaluationReport(
        scores,
        [Figure("mirror", "Mirror images", "Drawn & looked at.")],
        [Table("A table of its own", rows, "With a note.")],
    )


def mirror(trained):
    def view(batch):
        return trained.view.evaluate({**batch, "image": batch["image"][:, :, ::-1]})

    return view


def warm_start(params, model_state, frozen):
    teacher = dict(frozen["teacher"])
    return {"student": teacher.pop("params")}, {"student": teacher}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(squares, tmp_path_factory):
    """A student that starts from its teacher, beside an assistant of that teacher.

    The student hardly moves; all are compared by their loss.
    """
    make = supervised.make

    @functools.wraps(make)
    def changed(spec, **options):
        method = make(spec, **options)
        score = Score("loss", "cross entropy", percent=False, lower=True)
        start = warm_start if "teacher" in spec.frozen else None
        return method._replace(score=score, evaluator=evaluate, warm_start=start)

    teacher = squares_config(squares)
    teacher.name = "teacher"
    assistant = squares_config(squares)
    assistant.name = "assistant"
    assistant.needs = ConfigDict({"teacher": configs.needed(teacher)})
    config = squares_config(squares)
    config.seeds, config.optim.lr = (1, 2), 1e-12
    config.needs = ConfigDict(
        {"assistant": configs.needed(assistant), "teacher": configs.needed(teacher)}
    )
    workdir = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "make", changed)
        return workdir, train(config, workdir)


def test_findings_join_the_results(study):
    _, results = study
    last = results["students"]["supervised"]["last"]
    assert last["right"] == pytest.approx(last["top1"], abs=1e-6)
    for plain, mirrored in zip(last["plain"], last["mirrored"], strict=True):
        assert abs(plain - mirrored) > 1e-6


def test_findings_are_shown(study):
    workdir, results = study
    page = (workdir / "report.html").read_text()
    for text in ("A table of its own", "&lt;four&gt;", "With a note.", "Mirror images"):
        assert text in page
    assert "Drawn &amp; looked at." in page
    lines = study_table.format_table(results).splitlines()
    assert "A table of its own" in lines and "With a note." in lines


def test_what_several_runs_need_is_trained_once(study):
    workdir, results = study
    assert not (workdir / "assistant" / "teacher").exists()
    assert results["frozen"]["teacher"]["path"] == "teacher"
    told = workdirs.read_results(workdir / "assistant")["frozen"]["teacher"]
    assert told["path"] == "../teacher"
    assert told["hash"] == results["frozen"]["teacher"]["hash"]


def test_a_student_starts_from_another_networks_variables(study):
    workdir, _ = study
    teacher = checkpoint.load_member(workdir / "teacher" / "checkpoints", "last")
    for seed in (1, 2):
        own = checkpoint.load_member(
            workdir / "checkpoints", "last", "supervised", seed
        )
        for key, value in teacher["params"]["fc"].items():
            np.testing.assert_allclose(own["params"]["fc"][key], value, atol=1e-6)


def test_the_best_has_the_lowest_loss(study):
    workdir, results = study
    lines = read_metrics(workdir / "assistant")
    losses = [
        x["test_loss/supervised/0"] for x in lines if "test_loss/supervised/0" in x
    ]
    assistant = workdirs.read_results(workdir / "assistant")["students"]["supervised"]
    assert assistant["best"]["loss"][0] == pytest.approx(min(losses), rel=1e-6)
    assert "lowest" in (workdir / "report.html").read_text()
    text = study_table.format_table(results)
    assert "test cross entropy after the final step" in text


def test_an_unknown_view_is_refused(squares, tmp_path):
    config = squares_config(squares)
    config.model.input = "low"
    expected = r"config.model.input is 'low', but config.view makes image"
    with pytest.raises(UserError, match=expected):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
