"""The localiser as a method: its loss, its evaluation, two real steps, its findings."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import defi as defi_config
from jaxkd import models, views
from jaxkd.convert.__main__ import main as convert
from jaxkd.core import checkpoint, optim
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.core.types import Spec
from jaxkd.losses import localization
from jaxkd.methods import defi
from jaxkd.report.style import StudentOrder
from tests.fields import loss_of

TINY = {
    "stem_width": 4,
    "stage1_planes": 2,
    "stage1_blocks": 1,
    "widths": (2, 2, 3, 3),
    "blocks": 1,
    "pyramid_width": 3,
}
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def make_spec(size=16, **options):
    fields = {
        "image": jax.ShapeDtypeStruct((size, size, 3), jnp.float32),
        "target_mask": jax.ShapeDtypeStruct((size, size), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    name = options.pop("name", "defi_net_tiny")
    return Spec(models.build(name, 2, **options), {}, 2, fields, 1.0)


def make_batch(count=3, size=16):
    rng = np.random.default_rng(0)
    masks = np.zeros((count, size, size), np.float32)
    masks[0, 3:9, 4:12], masks[1, 10:, 10:] = 1, 1
    return {
        "image": rng.normal(0, 1, (count, size, size, 3)).astype(np.float32),
        "target_mask": masks,
        "label": masks.max((1, 2)).astype(np.int32),
        "mask": np.ones(count, bool),
    }


def make_outputs(batch):
    shape = (*batch["target_mask"].shape, 1)
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 2, shape) for name in ("logits", "edge")}


@pytest.mark.parametrize("official", [False, True])
def test_the_loss_adds_up(official):
    spec, batch = make_spec(), make_batch()
    method = defi.make(spec, segmentation_weight=3, edge_weight=0.5, official=official)
    outputs = make_outputs(batch)
    total, aux = loss_of(method, {}, {}, outputs, batch, {}, None, 0)
    z, edge = outputs["logits"][..., 0], outputs["edge"][..., 0]
    masks = batch["target_mask"]
    first = localization.structure_loss(z, masks, official=official).mean()
    ring = localization.edge_ring(masks)
    second = localization.boundary_loss(edge, ring, official=official).mean()
    np.testing.assert_allclose(total, 3 * first + 0.5 * second, rtol=1e-6)
    assert set(aux.metrics) == {"segmentation", "edge", "iou"}


def test_hard_negatives_weigh_as_they_are_told():
    spec, batch = make_spec(), make_batch(4)
    batch["target_mask"][2:] = 0
    region = batch["target_mask"].copy()
    region[2, 4:9, 4:9] = 1  # a hard negative; the last one is plainly authentic
    batch["region"] = region
    fields = spec.fields | {"region": spec.fields["target_mask"]}
    spec = spec._replace(fields=fields)
    outputs = make_outputs(batch)
    kept = {name: np.delete(x, 2, axis=0) for name, x in batch.items()}
    seen = {name: np.delete(x, 2, axis=0) for name, x in outputs.items()}
    expected, _ = loss_of(defi.make(spec), {}, {}, seen, kept, {}, None, 0)
    without = defi.make(spec, negative_weight=0.0)
    total, _ = loss_of(without, {}, {}, outputs, batch, {}, None, 0)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    each = [
        loss_of(
            defi.make(spec),
            *({}, {}),
            {name: x[i : i + 1] for name, x in outputs.items()},
            {name: x[i : i + 1] for name, x in batch.items()},
            *({}, None, 0),
        )[0]
        for i in range(4)
    ]
    threefold = defi.make(spec, negative_weight=3.0)
    total, _ = loss_of(threefold, {}, {}, outputs, batch, {}, None, 0)
    weighted = np.average(np.array(each), weights=[1, 1, 3, 1])
    np.testing.assert_allclose(total, weighted, rtol=1e-6)


def test_hard_negatives_have_to_be_marked():
    with pytest.raises(UserError, match="region"):
        defi.make(make_spec(), negative_weight=0.0)


def test_evaluation_counts_each_image_where_it_is_defined():
    batch = make_batch()
    outputs = make_outputs(batch)
    found = defi.evaluate(outputs, batch).compute()
    marked, truth = outputs["logits"][..., 0] >= 0, batch["target_mask"] > 0.5
    both, either = (marked & truth).sum((1, 2)), (marked | truth).sum((1, 2))
    iou = both[:2] / either[:2]
    np.testing.assert_allclose(found["iou"], iou.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["f1"], (2 * iou / (1 + iou)).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["flagged"], marked[2].mean(), rtol=1e-6)


@pytest.mark.slow
def test_padding_does_not_count():
    batch = make_batch()
    outputs = make_outputs(batch)
    whole = defi.evaluate(outputs, batch)
    grown = {k: np.concatenate([v, v[:1] * 0]) for k, v in batch.items()}
    grown["target_mask"][3] = 1
    more = {
        k: np.concatenate([v, np.full_like(v[:1], np.nan)]) for k, v in outputs.items()
    }
    grown["mask"][3] = False
    parts = defi.evaluate(more, grown).compute()
    for name, value in whole.compute().items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6)
    split = [
        defi.evaluate(
            {k: v[part] for k, v in outputs.items()},
            {k: v[part] for k, v in batch.items()},
        )
        for part in (slice(0, 1), slice(1, 3))
    ]
    merged = split[0].merge(split[1]).compute()
    for name, value in whole.compute().items():
        np.testing.assert_allclose(merged[name], value, rtol=1e-6)


def test_the_recipes_cut_gradients_entry_by_entry():
    """As the official code, which clamps them before the optimiser sees them."""
    for variant in ("", "official"):
        settings = configs.resolved(defi_config.get_config(variant).optim)
        assert settings["clip_value"] == 0.5
        step = optim.optimizer({**settings, "name": "sgd", "momentum": 0.0})(1.0, 0.0)
        params = {"a": jnp.zeros(3)}
        gradient = {"a": jnp.array([0.2, -3.0, 9.0])}
        updates, _ = step.update(gradient, step.init(params), params)
        np.testing.assert_allclose(updates["a"], [-0.2, 0.5, -0.5], rtol=1e-6)


def step(method, params, model_state, batch):
    def loss(params):
        outputs, changed = method.forward(params, model_state, batch, jax.random.key(0))
        total, aux = loss_of(method, params, changed, outputs, batch, {}, None, 0)
        return total, (aux.model_state, aux.metrics)

    (total, (model_state, _)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    params = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradient)
    return total, params, model_state, gradient


@pytest.mark.slow
def test_two_steps_lower_the_loss_and_move_all_statistics():
    batch = make_batch()
    method = defi.make(make_spec(**TINY))
    quickly = functools.partial(jax.jit, compiler_options=QUICK)
    params, model_state = quickly(method.init)(jax.random.key(0))
    run = quickly(functools.partial(step, method))
    first, params1, extra1, gradient = run(params, model_state, batch)
    second, _, extra2, _ = run(params1, extra1, batch)
    assert second < first
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), extra1, extra2)
    assert all(jax.tree.leaves(moved))
    seen = quickly(method.predict)(params1, extra2, batch)
    assert seen["logits"].shape == (3, 16, 16, 1) and set(seen) == {"logits", "edge"}


@pytest.mark.slow
def test_the_official_step_is_traced():
    spec = make_spec(352, name="defi_net")
    method = defi.make(spec, official=True)
    batch = spec.batch_shapes(16)
    params, model_state = jax.eval_shape(method.init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == 2_822_958
    total, new, _, gradient = jax.eval_shape(
        functools.partial(step, method), params, model_state, batch
    )
    assert total.shape == ()
    for tree in (new, gradient):
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, params)


@pytest.mark.torch
@pytest.mark.slow
def test_a_backbone_is_loaded(tmp_path, capsys):
    """By the converter into a run's folder, and from there by a warm start."""
    torch = pytest.importorskip("torch")
    zoo = pytest.importorskip("tests.torch_defi")
    options = {"stem_width": 4, "stage1_planes": 2, "widths": (2, 2, 3, 3)}
    options["pyramid_width"] = 3
    torch.save(zoo.HRNet(4, 2, (2, 2, 3, 3)).state_dict(), tmp_path / "hrnet.pth")
    convert([
        *("from-torch", str(tmp_path / "hrnet.pth"), str(tmp_path / "run")),
        *("--model=defi_net", "--part=backbone", f"--options={json.dumps(options)}"),
    ])  # fmt: skip
    assert "arrays of the backbone" in capsys.readouterr().out
    loaded = checkpoint.load_member(tmp_path / "run/checkpoints", "last")
    method = defi.make(make_spec(**options), start_from="backbone")
    before = jax.jit(method.init, compiler_options=QUICK)(jax.random.key(0))
    params, _ = method.warm_start(*before, {"backbone": loaded})
    expected = torch.load(tmp_path / "hrnet.pth")["conv1.weight"].permute(2, 3, 1, 0)
    kernel = params["student"]["hrnet"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)
    rest = {n: x for n, x in params["student"].items() if n != "hrnet"}
    for got, kept in zip(
        jax.tree.leaves(rest),
        jax.tree.leaves({n: before[0]["student"][n] for n in rest}),
        strict=True,
    ):
        np.testing.assert_array_equal(got, kept)


@pytest.fixture(scope="module")
def evaluation_report(tmp_path_factory):
    """What is found out about a localiser that sees brightness."""
    from jaxkd.evaluators import localization as localization
    from jaxkd.evaluators.base import Member, TrainedStudy

    rng = np.random.default_rng(0)

    def source(count):
        images = rng.integers(0, 100, (count, 24, 24, 3)).astype(np.uint8)
        # Four methods, authentic and, as a hard negative, blurred.
        kinds = np.array([0, 1, 2, 3, 4, 6])[np.arange(count) % 6]
        region = np.zeros((count, 24, 24), np.uint8)
        region[kinds != 4, 6:14, 8:18] = 255
        masks = np.where((kinds < 4)[:, None, None], region, 0).astype(np.uint8)
        images[masks > 0] = 220
        images[kinds == 3] = 50  # the hard one: nothing to be seen
        label = (kinds < 4).astype(np.int32)
        return ArraySource(
            {
                **{"image": images, "target_mask": masks, "region": region},
                **{"label": label, "kind": kinds},
            }
        )

    info = Info("x", 2, (24, 24, 3), (0.5,) * 3, (0.5,) * 3, ("a", "b"))
    train, test = source(12), source(18)
    predict = jax.jit(lambda batch: {"logits": 9 * batch["image"][..., :1]})
    folder = tmp_path_factory.mktemp("figures")
    trained = TrainedStudy(
        method=defi.make(make_spec(24)),
        members=tuple(Member("a", seed, None, None, predict) for seed in (1, 2)),
        seeds=(1, 2),
        dataset=Dataset(info, lambda seed: train, test),
        view=views.build("mask_dihedral", info),
        batch_size=4,
        folder=folder,
        student_order=StudentOrder(["a"], None, None),
    )
    return localization.evaluate(trained), folder


@pytest.mark.slow
def test_findings(evaluation_report):
    found, folder = evaluation_report
    scores = found.scores["a"]
    assert scores["iou_telea"] == pytest.approx([1, 1]) and len(scores["macro_f1"]) == 2
    # What is not learnt here stays out of the mean.
    assert scores["macro_iou"] == pytest.approx([1, 1])
    assert scores["iou_exemplar"] == pytest.approx([0, 0])
    assert scores["image_false_alarms"] == [0, 0]
    titles = [table.title for table in found.tables]
    assert titles[0] == "By inpainting method" and len(titles) == 4
    # Half of all tampered pixels lie in three methods that are seen as they are.
    assert scores["alarms_authentic"] == scores["alarms_smoothed_regions"] == [0, 0]
    alarms = {tuple(row[:2]): row[2:] for row in found.tables[1].rows[1:]}
    assert alarms["telea", "a"] == ["0.000 ± 0.000"] * 3
    # To find the hard one, which is darker than the rest, more than half is marked.
    assert float(alarms["exemplar", "a"][0].split()[0]) > 0.4
    for table in found.tables:
        assert len({len(row) for row in table.rows}) == 1
    systems = {row[2] for row in found.tables[0].rows[1:]}
    assert systems == {"a", "Laplacian", "all pixels"}
    for figure in found.figures:
        for name in (f"{figure.name}.png", f"{figure.name}-dark.png"):
            assert (folder / name).stat().st_size > 5000


@pytest.mark.slow
def test_robustness_is_over_the_whole_grid(evaluation_report):
    from jaxkd.evaluators.localization import corruptions

    rows = evaluation_report[0].tables[3].rows
    assert len(rows) == 1 + 2 * len(corruptions.GRID)
    assert all(0 <= float(cell) <= 1 for row in rows[2::2] for cell in row[2:] if cell)
