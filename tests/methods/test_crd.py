"""CRD's loss, its negatives and what it remembers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import methods
from jaxkd.core.errors import UserError
from jaxkd.core.optim import Optimization
from jaxkd.core.step import Settings, make_train_call
from jaxkd.core.study import Student, init_group, make_groups
from jaxkd.core.types import MAIN
from jaxkd.methods import crd
from tests.methods.feature_net import (
    ALL_OTHERS,
    EXAMPLES,
    OTHERS,
    STUDENT,
    Once,
    batch,
    check_total,
    features_of,
    float64,
    jit,
    make,
    once,
    spec,
)


def embeddings(seen):
    s, t = features_of(seen)
    own, made = float64(seen.params["crd"]), {}
    for side, pooled in (("student", s["pooled"]), ("teacher", t["pooled"])):
        p = own[f"embed_{side}"]
        x = pooled @ p["kernel"] + p["bias"]
        made[side] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return made


def crd_by_hand(seen, normalizers=None):
    """With as many negatives as there are, whatever the order they are drawn in."""
    data, own = batch(), embeddings(seen)
    memory = float64(seen.before["crd"]["memory"])
    sides, constants = [], []
    for side, other in (("student", "teacher"), ("teacher", "student")):
        scores = []
        for v, i in zip(own[side], data["index"], strict=True):
            others = data["train_labels"] != data["train_labels"][i]
            entries = np.concatenate([memory[other][[i]], memory[other][others]])
            scores.append(np.exp(entries @ v / 0.07))
        scores = np.array(scores)
        constants.append(EXAMPLES * scores.mean())
        used = constants[-1] if normalizers is None else normalizers[len(sides)]
        p, chance = scores / used, OTHERS / EXAMPLES
        positive = np.log(p[:, 0] / (p[:, 0] + chance + 1e-7))
        negative = np.log(chance / (p[:, 1:] + chance + 1e-7)).sum(1)
        sides.append(-(positive + negative).mean())
    return sum(sides), np.array(constants)


@pytest.mark.slow
def test_crd_contrasts_both_sides_and_remembers():
    study = once("crd", ALL_OTHERS)
    first = study()
    assert not first.before["crd"]["memory"]["started"]
    term, normalizers = crd_by_hand(first)
    check_total(first, "crd", term)
    memory = first.model_state["crd"]["memory"]
    assert memory["started"]
    np.testing.assert_allclose(memory["normalizers"], normalizers, rtol=1e-4)
    index = batch()["index"]
    for side, own in embeddings(first).items():
        wanted = first.before["crd"]["memory"][side].copy()
        mixed = 0.5 * wanted[index] + 0.5 * own
        wanted[index] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        np.testing.assert_allclose(memory[side], wanted, rtol=1e-4, atol=1e-6)

    # The first batch alone sets the constants; the second reads the new memory.
    second = study(seed=4, state=(first.params, first.model_state))
    term, others = crd_by_hand(second, normalizers)
    check_total(second, "crd", term)
    assert (abs(others / normalizers - 1) > 1e-3).all()
    kept = second.model_state["crd"]["memory"]["normalizers"]
    np.testing.assert_array_equal(kept, memory["normalizers"])


def test_crds_memory_starts_untouched_and_of_length_one_on_average():
    memory = once("crd", ALL_OTHERS).start[1]["crd"]["memory"]
    for side in ("student", "teacher"):
        assert memory[side].shape == (EXAMPLES, 128)
        assert abs(memory[side]).max() <= np.sqrt(3 / 128)
        np.testing.assert_allclose((memory[side] ** 2).sum(1).mean(), 1, rtol=0.05)
    assert (memory["student"] != memory["teacher"]).all()
    assert (memory["normalizers"] == 1).all()


@pytest.mark.parametrize("count", [3, 7])
def test_crds_negatives_are_of_other_classes_and_differ(count):
    labels = jnp.asarray([0, 1, 1, 2, 0, 2, 1, 2, 2, 1])
    index = jnp.asarray([0, 9, 3, 0])
    draw = jit(functools.partial(crd.draw_negatives, count=count))
    counts = np.zeros((4, 10))
    for seed in range(300):
        rows = np.asarray(draw(jax.random.key(seed), index, labels))
        for row, i, seen in zip(rows, index, counts, strict=True):
            others = np.flatnonzero(labels != labels[i])
            assert set(row) <= set(others)
            assert len(set(row)) == min(count, len(others))
            # What is drawn more than once is not drawn twice more than the rest.
            if count > len(others):
                assert np.ptp(np.bincount(row, minlength=10)[others]) <= 1
            np.add.at(seen, row, 1)
    for i, seen in zip(index, counts, strict=True):
        others = np.flatnonzero(labels != labels[i])
        share = count / len(others)
        spread = np.sqrt(300 * max(share % 1 * (1 - share % 1), 1e-12))
        assert (abs(seen[others] - 300 * share) <= 5 * spread + 1e-6).all()
    if count == 3:
        assert (counts[0] != counts[3]).any()  # one image twice, two draws


def test_crds_queue_contrasts_with_the_newest_and_turns_over():
    """On data without numbers; with as many negatives as there may be."""
    size = 8
    options = {"queue": size, "negatives": size}
    study = Once(make("crd", options, num_examples=None))
    for name in ("index", "train_labels"):
        study.data.pop(name, None)
    first = study()
    second = study(seed=4, state=(first.params, first.model_state))
    labels = batch()["label"]
    own, memory = embeddings(first), float64(first.before["crd"]["memory"])
    term = 0.0
    for side, other in (("student", "teacher"), ("teacher", "student")):
        # All of the queue is of no class yet, so that all of it is drawn.
        entries = [
            np.concatenate([partner[None], memory[other]]) for partner in own[other]
        ]
        scores = np.exp(np.einsum("bnf,bf->bn", entries, own[side]) / 0.07)
        p = scores / (size * scores.mean())
        positive = np.log(p[:, 0] / (p[:, 0] + 1 + 1e-7))
        negative = np.log(1 / (p[:, 1:] + 1 + 1e-7)).sum(1)
        term -= (positive + negative).mean()
    check_total(first, "crd", term)

    for seen, start in ((first, 0), (second, len(labels))):
        own, memory = embeddings(seen), seen.before["crd"]["memory"]
        after = seen.model_state["crd"]["memory"]
        rows = (start + np.arange(len(labels))) % size
        assert memory["place"] == start % size
        assert after["place"] == (start + len(labels)) % size
        np.testing.assert_array_equal(after["labels"][rows], labels)
        kept = np.setdiff1d(np.arange(size), rows)
        for side in own:
            np.testing.assert_allclose(after[side][rows], own[side], 1e-4, 1e-5)
            np.testing.assert_array_equal(after[side][kept], memory[side][kept])
    assert np.isfinite(second.metrics["crd"])


def test_crd_draws_other_negatives_with_another_key():
    study = once("crd", (("negatives", 3),))
    values = [study(seed).metrics["crd"] for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]


def test_crd_refuses_data_without_numbers_and_wrong_options():
    with pytest.raises(UserError, match=r"read from files.*held in memory"):
        make("crd", num_examples=None)
    with pytest.raises(UserError, match=r"config\.loss\.queue"):
        make("crd", num_examples=None)
    with pytest.raises(UserError, match="queue=4, expected at least the 6"):
        Once(make("crd", {"queue": 4, "negatives": 2}, num_examples=None))()
    with pytest.raises(UserError, match="negatives=0"):
        make("crd", {"negatives": 0})
    with pytest.raises(UserError, match=r"momentum in \[0, 1\)"):
        make("crd", {"momentum": 1.0})
    study = once("crd", ALL_OTHERS)
    without = Once(study.method)
    del without.data["index"]
    with pytest.raises(UserError, match="the batch has no index"):
        without()


def student_row(name, options):
    return Student(
        name=name,
        method=methods.make(name, spec(), options),
        network=STUDENT,
        input_key="image",
        steps=2,
        optimizers={
            MAIN: Optimization(
                schedule=optax.constant_schedule(0.01),
                weight_decay=0.0,
                optimizer=lambda lr, decay: optax.sgd(lr),
                key="sgd",
            )
        },
    )


@pytest.mark.slow
def test_a_study_trains_adapters_and_keeps_memories():
    rows = [student_row("at", {}), student_row("crd", {"negatives": 3})]
    groups = make_groups(rows, (5, 6), shared_batches=True)
    assert len(groups) == 2
    start = {g.name: jit(functools.partial(init_group, g, {}, False))() for g in groups}
    table = batch(EXAMPLES)
    order = np.argsort(table["index"])
    table = {name: table[name][order] for name in ("image", "label")}
    index = np.asarray([[[1, 4, 7]], [[2, 4, 9]]], np.int32)
    lr = {g.name: g.learning_rates(0, 2) for g in groups}
    settings = Settings(view=lambda key, images: images, draw_seeds=(5,))
    frozen = Once(make("kd")).frozen
    state, metrics = jax.device_get(
        jit(make_train_call(groups, settings))(
            start, frozen, table, {"data": {"index": index}, "lr": lr}, 2
        )
    )
    name = groups[1].name
    before, after = jax.device_get(start[name]), state[name]
    seen = np.unique(index)
    for side in ("student", "teacher"):
        old, new = (x.model_state["crd"]["memory"][side] for x in (before, after))
        changed = (old != new).all(-1)
        np.testing.assert_array_equal(changed, [np.isin(range(EXAMPLES), seen)] * 2)
        np.testing.assert_allclose(np.linalg.norm(new[:, seen], axis=-1), 1, rtol=1e-5)
    assert after.model_state["crd"]["memory"]["started"].all()
    for layer in ("embed_student", "embed_teacher"):
        moved = (
            after.params["crd"][layer]["kernel"] - before.params["crd"][layer]["kernel"]
        )
        assert abs(moved).max() > 0
    assert np.isfinite(metrics[name]["crd"]).all()
