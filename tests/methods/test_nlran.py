"""The training of CT classifiers, what is evaluated after it, and their predictions."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxkd import models
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.core.types import Spec
from jaxkd.datasets import phantoms
from jaxkd.evaluators import ct as evaluator
from jaxkd.evaluators.ct import baselines, corruptions
from jaxkd.methods import nlran
from jaxkd.predictors import ct as ct_predictor
from jaxkd.predictors import ct_page
from tests.fields import loss_of
from tests.test_configs import MODULES

# One stage, because compiling takes long.
TINY = {"stem": 2, "widths": (2,), "strides": (2,), "levels": (1,), "non_local": 1}


def spec(network, shape):
    fields = {
        "image": jax.ShapeDtypeStruct(shape, jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    return Spec(network, {}, 3, fields, 1.0)


@pytest.mark.slow
def test_training_step_of_full_size_abstractly():
    network = models.build("nlran56", 3, dtype=jnp.bfloat16)
    made = spec(network, (64, 128, 128, 1))
    method = nlran.make(made, label_smoothing=0.05, class_weights=(1.0, 2.0, 0.5))
    optimizer = optax.adamw(1e-4)

    def step(params, model_state, state, batch, key):
        def loss(params):
            outputs, new = method.forward(params, model_state, batch, key)
            return loss_of(method, params, new, outputs, batch, {}, key, 0)

        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), aux.model_state, state, value

    params, model_state = jax.eval_shape(method.init, jax.random.key(0))
    state = jax.eval_shape(optimizer.init, params)
    after = jax.eval_shape(
        step, params, model_state, state, made.batch_shapes(8), jax.random.key(0)
    )
    assert after[3].shape == () and after[3].dtype == jnp.float32
    assert jax.tree.structure(after[0]) == jax.tree.structure(params)
    assert jax.tree.structure(after[1]) == jax.tree.structure(model_state)


def test_loss_by_hand():
    method = nlran.make(
        spec(models.build("nlran_micro", 3), (8, 8, 8, 1)),
        label_smoothing=0.3,
        class_weights=(1.0, 2.0, 0.5),
    )
    logits = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([0, 1, 1, 2])
    seen = {"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)}
    got, aux = loss_of(method, {}, {}, *seen, {}, None, 0)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    smooth = 0.7 * np.eye(3)[labels] + 0.1
    weights = np.array([1.0, 2.0, 0.5])[labels]
    wanted = -(weights * (smooth * logs).sum(1)).sum() / weights.sum()
    assert float(got) == pytest.approx(wanted, rel=1e-5)
    assert float(aux.metrics["top1"]) == (logits.argmax(1) == labels).mean()
    with pytest.raises(UserError, match="class_weights has 2 numbers, expected 3"):
        nlran.make(
            spec(models.build("nlran_micro", 3), (8, 8, 8, 1)), class_weights=(1, 2)
        )


@pytest.mark.slow
def test_disturbances():
    rng = np.random.default_rng(0)
    volume = jnp.asarray(rng.integers(-1000, 400, (2, 7, 4, 4)), jnp.int16)
    thin = np.asarray(corruptions.thin(volume, keep_every=2))
    np.testing.assert_array_equal(thin[:, ::2], volume[:, ::2])
    between = (np.asarray(volume[:, 2], float) + np.asarray(volume[:, 4])) / 2
    np.testing.assert_allclose(thin[:, 3], between, atol=0.51)
    noisy = np.asarray(corruptions.noise(jnp.zeros((4, 8, 8, 8), jnp.int16), sd=50.0))
    assert noisy.std() == pytest.approx(50, rel=0.05)
    assert (corruptions.offset(volume, units=-100.0) >= -1024).all()
    plain = corruptions.DISTURBANCES[corruptions.UNDISTURBED](volume)
    np.testing.assert_array_equal(plain, volume)


def test_features_of_the_baselines():
    volume = np.random.default_rng(0).random((8, 12, 16)).astype(np.float32)
    histogram = baselines.histogram(volume)
    assert histogram[:24].sum() == pytest.approx(1)
    assert histogram[24:] == pytest.approx([volume.mean(), volume.std()])
    blocks = baselines.blocks(volume)
    assert blocks[1] == pytest.approx(volume[:4, :4, 4:8].mean(), rel=1e-5)
    assert baselines.blocks(volume[:7]).shape == (2 * 3 * 4,)


def test_relations_of_lesions_by_hand():
    lungs = np.zeros((8, 8, 8), np.uint8)
    lungs[1:7, 1:7, 1:7] = 1
    lesion = np.zeros_like(lungs)
    lesion[1, 1, 1] = lesion[6, 6, 6] = 1  # in the first and the last octant
    lesion[3, 3, 3] = 1
    found = baselines.relations(lesion, lungs)
    there, pairs, depths = found[:8], found[8:36], found[36:]
    assert there.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert np.flatnonzero(pairs).tolist() == [6]  # (0, 7) of (0, 1), (0, 2) ...
    np.testing.assert_allclose(depths, [2 / 3, 0, 1 / 3, 0, 0, 0, 0, 0])
    assert not baselines.relations(0 * lesion, lungs).any()


def lesions_in_two_octants(count, masks=True):
    """Scans of which only the pair of lesions tells the class."""
    rng = np.random.default_rng(count)
    labels = (np.arange(count) % 2).astype(np.int32)
    lesion = np.zeros((count, 8, 8, 8), np.uint8)
    first = rng.integers(0, 2, count)
    for index, (one, label) in enumerate(zip(first, labels, strict=True)):
        lesion[index, 2, 2, 2 + 4 * one] = 1
        lesion[index, 2, 6, 2 + 4 * (one ^ label)] = 1
    fields = {"image": rng.integers(-900, 0, lesion.shape).astype(np.int16)}
    fields |= {"lesion": lesion, "lungs": np.ones_like(lesion)} if masks else {}
    return ArraySource(fields | {"label": labels})


def test_oracles_read_masks_and_only_their_relations_tell():
    info = Info("two", 2, (8, 8, 8), (0.0,), (1.0,), ("apart", "together"))
    train, test = lesions_in_two_octants(80), lesions_in_two_octants(40)
    found = baselines.oracles(Dataset(info, lambda seed: train, test))
    right = {
        name: (p.argmax(1) == test.arrays["label"]).mean() for name, p in found.items()
    }
    assert right.pop("oracle (relations of lesion masks) + LR") == 1
    assert right.pop("lesion masks + LR") < 0.8 and not right
    blind = lesions_in_two_octants(4, masks=False)
    assert baselines.oracles(Dataset(info, lambda seed: blind, blind)) == {}


def test_heat_maps_among_distractors_are_scored_by_what_brightness_does_not_tell():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, (3, 6, 8, 8))  # 0 a lesion, 1 and 2 distractors
    lesion, distractors = kinds == 0, (kinds == 1) | (kinds == 2)
    bright = np.where(lesion | distractors, 0.8, 0.2) + 0.1 * rng.random(kinds.shape)
    fields = {
        evaluator.INTENSITY: bright.astype(np.float32),
        "lesion": lesion.astype(np.uint8),
        evaluator.LUNGS: np.ones(kinds.shape, np.uint8),
    }
    perfect = evaluator._Said(np.zeros((1, 3, 2)), {"cam": lesion[None].astype(float)})
    assert evaluator._heat_scores({"one": perfect}, fields, evaluator.MATCHED) == {}
    fields[evaluator.MATCHED] = (lesion | distractors).astype(np.uint8)
    found = {
        where: evaluator._heat_scores({"one": perfect}, fields, where)
        for where in (evaluator.LUNGS, evaluator.MATCHED)
    }
    lungs, matched = found.values()
    assert lungs[""][evaluator.INTENSITY][0]["auc"] > 0.85
    assert matched[""][evaluator.INTENSITY][0]["auc"] == pytest.approx(0.5, abs=0.1)
    for scores in (lungs, matched):
        assert scores["one"]["cam"][0]["auc"] == 1
    titles = [table.title for table in evaluator._heat_tables(found)]
    assert len(titles) == 2 and "distractors" in titles[1]


def test_students_start_from_all_but_the_head_of_another_task():
    """Its trunk is taken; what it lacks, and the head, stay as they are initialised."""
    parts = {"stem": 2, "widths": (4,)}
    shape = (8, 8, 8, 1)
    first = nlran.make(spec(models.build("resnet3d_local", 2, **parts), shape))
    made = spec(models.build("nlran_local", 3, **parts), shape)
    method = nlran.make(made, start_from="first")
    theirs, statistics = jax.jit(first.init)(jax.random.key(1))
    frozen = {"params": theirs["student"], **statistics["student"]}
    params, state = jax.jit(method.init)(jax.random.key(2))
    begun, begun_state = method.warm_start(params, state, {"first": frozen})
    own, got = params["student"], begun["student"]
    assert jax.tree.structure(got) == jax.tree.structure(own)
    for kept in ("fc", "non_local"):
        assert all(map(np.array_equal, *map(jax.tree.leaves, (got[kept], own[kept]))))
    kernel = frozen["params"]["stage1_attention"]["trunk0"]["conv2"]["kernel"]
    trunk = got["stage1_attention"]["trunk0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(trunk, kernel)
    assert not np.array_equal(got["stem"]["kernel"], own["stem"]["kernel"])
    statistics = jax.tree.structure(begun_state), jax.tree.structure(state)
    assert statistics[0] == statistics[1]
    with pytest.raises(UserError, match="start_from is 'second'"):
        nlran.make(made, start_from="second").warm_start(params, state, {"a": frozen})
    wider = {**frozen, "params": {**frozen["params"], "other": own["fc"]}}
    with pytest.raises(UserError, match=r"cannot start from 'first'.*other"):
        method.warm_start(params, state, {"first": wider})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "students"),
    [("distribution", ("resnet", "+NL")), ("weak_contrast", ("+A",))],
)
def test_two_steps_of_the_regimes(variant, students, tmp_path):
    from jaxkd.train import train

    config = MODULES["nlran"].get_config(variant)
    config.students = configs.students({n: config.students[n] for n in students})
    config.reference = "" if len(students) == 1 else students[0]
    for one in (config, *config.needs.values()):
        one.data.update({"train": 8, "test": 8, "cache": str(tmp_path / "cache")})
        one.seeds, one.eval_batch_size, one.duration = (1,), 8, 2
        one.eval_every = one.checkpoint_every = 2
        one.optim.warmup = 1
    results = train(config, tmp_path / "run")
    assert set(results["students"]) == set(students)
    last = results["students"][students[-1]]["last"]
    assert 0 <= last["auc"][0] <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "oracle (relations of lesion masks)" in page
    matched = variant == "weak_contrast"
    assert ("distractors of the same brightness" in page) == matched
    assert ("attention_matched_auc" in last) == matched
    assert results["data"]["class_names"] == list(
        phantoms.LAWS[config.data.law].classes
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two real steps of a tiny network, with all that follows."""
    from jaxkd.train import train

    folder = tmp_path_factory.mktemp("nlran")
    config = configs.default()
    config.name = "tiny"
    config.method = "nlran"
    config.model = ConfigDict({"name": "nlran_micro", **TINY})
    config.data = ConfigDict(
        {
            **{"name": "phantoms", "train": 6, "test": 6, "scans_per_patient": 1},
            **{"crop": (16, 24, 32), "cache": str(folder / "cache")},
        }
    )
    config.view = ConfigDict({"name": "ct", "shift": 1.0})
    config.seeds = (1,)
    config.batch_size, config.eval_batch_size = 3, 4
    config.unit, config.duration = "steps", 2
    config.eval_every = config.checkpoint_every = 2
    config.optim.update({"name": "adamw", "lr": 1e-3})
    config.students = configs.students({"full": {"method": "nlran"}})
    workdir = folder / "run"
    return workdir, train(config, workdir)


@pytest.mark.slow
def test_run_evaluates_scores_heat_maps_and_robustness(run):
    workdir, results = run
    last = results["students"]["full"]["last"]
    assert 0 <= last["auc"][0] <= 1 and 0 <= last["f1"][0] <= 1
    assert {"attention_auc", "cam_pointing", "gradcam_auc"} <= set(last)
    for name in ("ct_heatmaps", "ct_robustness"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 5000
    page = (workdir / "report.html").read_text()
    for text in ("histogram + LR", "plain voxels", "Heat maps against lesions"):
        assert text in page
    assert all(np.isfinite(one) for one in last["auc"] + last["attention_auc"])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    folder = tmp_path_factory.mktemp("scans")
    from jaxkd.readers.ct import dicom_writing, nifti

    stored = phantoms.draw(0, (7,), (8,)).image.transpose(2, 1, 0)
    nifti.write(folder / "one.nii.gz", stored, phantoms.affine())
    dicom_writing.write(folder / "two", stored, phantoms.affine())
    dicom_writing.write(folder / "gap", stored, phantoms.affine())
    (folder / "gap" / "0009.dcm").unlink()
    return folder


@pytest.mark.slow
def test_predict(run, scans, tmp_path):
    import nibabel

    from jaxkd.predictors import ct

    output = tmp_path / "out"
    text = ct.predict(run[0], [scans], output, student="full")
    assert "2 scans" in text and "no diagnosis" in text and "1 missing" in text
    lines = (output / "predictions.csv").read_text().splitlines()
    rows = {row["case"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"one", "two", "gap"}
    for name in phantoms.CLASSES:
        one, two = (float(rows[case][name]) for case in ("one", "two"))
        assert one == pytest.approx(two, abs=1e-5)
    assert rows["gap"]["class"] == "" and "0008.dcm" in rows["gap"]["error"]
    heat = nibabel.load(output / "one-attention.nii.gz")
    scan = nibabel.load(scans / "one.nii.gz")
    np.testing.assert_allclose(heat.affine, scan.affine)
    assert heat.shape == scan.shape and heat.get_fdata().max() > 0
    files = sorted(path.name for path in output.iterdir())
    assert not [name for name in files if name.startswith(("gap", ".", "tmp"))]
    assert {"one.png", "two-cam.nii.gz", "index.html"} <= set(files)
    said = json.loads((output / "predictions.json").read_text())
    assert said["scans"][0]["error"] and "diagnosis" in said["warning"]
    page = (output / "index.html").read_text()
    assert 'src="one.png"' in page and "1 missing" in page


@pytest.mark.slow
def test_predict_refuses(run, scans, tmp_path):
    from jaxkd.predictors import ct

    with pytest.raises(UserError, match=r"No scan can be read.*1 missing"):
        ct.predict(run[0], [scans / "gap"], tmp_path / "out")
    rows = (tmp_path / "out" / "predictions.csv").read_text()
    assert ",unreadable," in rows and "1 missing" in rows
    with pytest.raises(UserError, match="nowhere does not exist"):
        ct.predict(run[0], [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no CT scans"):
        ct.predict(run[0], [tmp_path / "empty"], tmp_path / "out")


def test_a_page_explains_the_maps_that_are_there():
    readings = [ct_predictor.Reading("one", maps=("gradcam",))]
    page = ct_page.page(readings, ("a", "b"), "A run", "For research.")
    assert "<b>gradcam</b>" in page and "<b>cam</b>" not in page
