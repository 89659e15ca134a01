import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import views
from jaxkd.core.types import EXPLAIN
from jaxkd.datasets import handwriting_prompts
from jaxkd.evaluators import explained_verification
from jaxkd.evaluators.base import Member, TrainedStudy
from jaxkd.methods import handwriting_pairs
from jaxkd.report import explanations
from jaxkd.report.style import StudentOrder


def study(target, members, folder):
    data = handwriting_prompts.load(
        target,
        ("slantness", "size"),
        size=16,
        writers=3,
        test_writers=4,
        samples=3,
        test_pairs=20,
    )
    view = views.build("handwriting", data.info, views=0)
    return TrainedStudy(
        method=None,
        members=tuple(members),
        seeds=(0, 1),
        dataset=data,
        view=view,
        batch_size=8,
        folder=folder / "figures",
        student_order=StudentOrder(("oracle", "first", "mute"), None, None),
    )


def oracle(batch):
    """Decides rightly, and writes the gold text."""
    right = jnp.stack([1 - batch["label"], batch["label"]], 1) * 4.0
    outputs = {"logits": right}
    if EXPLAIN in batch:
        begin = int(np.asarray(~batch["causal"][0]).argmin())
        outputs["written"] = batch["tokens"][:, begin:]
    return outputs


def first(batch):
    """Decides by whether the first word has more ink: never the same when swapped."""
    ink = batch["pair"].sum((2, 3, 4))
    outputs = {"logits": jnp.stack([ink[:, 1], ink[:, 0]], 1)}
    if EXPLAIN in batch:
        outputs["written"] = jnp.zeros((len(ink), 4), jnp.int32)
    return outputs


def test_scores_are_those_of_the_verdicts_and_of_the_text(tmp_path):
    members = [
        Member(name, seed, None, None, predict)
        for name, predict in (("oracle", oracle), ("first", first))
        for seed in (0, 1)
    ]
    trained = study("explain_then_answer", members, tmp_path)
    report = explained_verification.evaluate(trained)
    found = report.scores["oracle"]
    # What the last evaluation measures is not given a second time.
    assert not set(found) & set(handwriting_pairs.Evaluation.__annotations__)
    for name in ("auc", "swap_consistency", "feature_accuracy"):
        assert found[name] == [100.0, 100.0]
    assert found["eer"] == [0.0, 0.0]
    assert report.scores["first"]["swap_consistency"] == [0.0, 0.0]
    assert report.scores["first"]["feature_accuracy"] == [0.0, 0.0]
    titles = [table.title for table in report.tables]
    assert titles == [
        "Verification with explanations",
        "Do two systems err on different pairs?",
        "Features in explanations",
    ]
    # Of n pairs on which the systems differ, all are the oracle's: p = 2 / 2^n.
    header, *rows = report.tables[0].rows
    accuracy = {row[0]: row[header.index("accuracy")] for row in rows}
    assert accuracy["oracle"].startswith("100.0")
    wrong = round(20 * (1 - float(accuracy["first"].split()[0]) / 100))
    assert float(report.tables[1].rows[1][1]) == pytest.approx(2 / 2**wrong, rel=1e-2)
    features = {row[0]: row[1:] for row in report.tables[2].rows}
    assert features["slantness"][1:] == ["100.0", "0.0"]
    gold = trained.dataset.test.arrays["features"][:, 0].ravel()
    drawn = trained.dataset.train(0).arrays["features"][:, 0].ravel()
    base = np.mean(gold == np.bincount(drawn).argmax())
    assert float(features["slantness"][0]) == pytest.approx(100 * base, abs=0.06)
    page = (tmp_path / "explanations-oracle.html").read_text()
    assert page.count("<article>") == explained_verification.SHOWN
    assert "slantness " in page


def test_verdicts_alone_have_no_features(tmp_path):
    trained = study("answer_only", [Member("mute", 0, None, None, oracle)], tmp_path)
    report = explained_verification.evaluate(trained)
    assert "feature_accuracy" not in report.scores["mute"]
    assert len(report.tables) == 1
    assert not list(tmp_path.glob("explanations-*"))


def test_pages_show_texts_escaped_and_errors_marked(tmp_path):
    image = np.zeros((2, 3), np.uint8)
    pairs = [
        explanations.Explained(image, image[..., None], True, False, "<b>a & b</b>"),
        explanations.Explained(image, image, None, None, ""),
    ]
    page = explanations.write(tmp_path / "page.html", "A < B", pairs).read_text()
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    assert "<h1>A &lt; B</h1>" in page
    assert page.count('class="wrong"') == 1
    assert "undecided</b> (truth: unknown)" in page
