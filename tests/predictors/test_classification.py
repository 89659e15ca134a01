import csv
import io
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxkd.core import checkpoint, study
from jaxkd.core.checkpoint_saving import Checkpoints
from jaxkd.core.errors import UserError
from jaxkd.core.writers import write_json
from jaxkd.datasets.npz import load
from jaxkd.predictors import classification
from jaxkd.predictors.classification import predict_files
from jaxkd.readers import images as decoding
from jaxkd.training import build, components, preprocessing
from jaxkd.training import workdir as workdirs
from tests.conftest import squares_config, write_squares

NAMES = ("nw", "ne", "sw", "se")


@pytest.fixture(scope="module")
def photos(squares, tmp_path_factory):
    """A folder of the first test images as PNG files, and of other things."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    test = load(str(squares)).test.arrays["image"]
    for number, name in enumerate(("b.png", "a.PNG", "deeper/c.png")):
        Image.fromarray(test[number]).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def probabilities(workdir, name, seed, image, use="last"):
    """Of one image, through the network and NumPy alone."""
    config = workdirs.read_config(workdir)
    info = preprocessing.read(workdir)
    own = components.student_config(config, name)
    network = components.build_network(own, info.num_classes)
    variables = checkpoint.load_member(workdir / "checkpoints", use, name, seed)
    scaled = (image / 255 - np.array(info.mean)) / np.array(info.std)
    logits, _ = network.apply(variables, scaled[None].astype(np.float32))
    logits = np.asarray(logits[0], np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits))


def check(prediction, wanted, topk):
    """Compares with probabilities of all classes, which have no ties."""
    order = np.argsort(-wanted)[:topk]
    assert prediction.classes == [NAMES[index] for index in order]
    np.testing.assert_allclose(prediction.probabilities, wanted[order], rtol=1e-4)


def test_all_classes_of_every_image(finished_run, photos, squares, capsys):
    workdir, _ = finished_run
    found = predict_files(workdir, [str(photos)], topk=4, student="zebra")
    names = [Path(p.file).relative_to(photos).as_posix() for p in found]
    assert names == ["a.PNG", "b.png", "deeper/c.png"]
    test = load(str(squares)).test.arrays["image"]
    for prediction, number in zip(found, (1, 0, 2), strict=True):
        # Without a seed, the first.
        wanted = probabilities(workdir, "zebra", 3, test[number])
        check(prediction, wanted, 4)
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in table] == list("1234") * 3
    for row, (prediction, place) in zip(
        table, [(p, place) for p in found for place in range(4)], strict=True
    ):
        assert row["file"] == prediction.file
        assert row["class"] == prediction.classes[place]
        shown = float(row["probability"])
        assert shown == pytest.approx(prediction.probabilities[place], abs=1e-6)


def test_five_classes_are_named_unless_there_are_fewer(finished_run, photos):
    (found,) = predict_files(finished_run[0], [str(photos / "b.png")], student="ant")
    assert sorted(found.classes) == sorted(NAMES)


@pytest.mark.parametrize(
    ("chosen", "member"),
    [
        ({"student": "ant"}, ("ant", 3, "last")),
        ({"student": "mole", "seed": 1}, ("mole", 1, "last")),
        ({"student": "zebra", "seed": 1, "use": "best"}, ("zebra", 1, "best")),
    ],
)
def test_a_chosen_student(finished_run, photos, squares, chosen, member):
    workdir, _ = finished_run
    (found,) = predict_files(workdir, [str(photos / "b.png")], topk=2, **chosen)
    image = load(str(squares)).test.arrays["image"][0]
    check(found, probabilities(workdir, *member[:2], image, member[2]), 2)


def test_a_study_has_to_be_told_which_student(finished_run, photos):
    with pytest.raises(UserError, match=r"3 students: zebra, ant, mole.*--student="):
        predict_files(finished_run[0], [str(photos)])


def test_the_seed_that_was_taken_is_printed(finished_run, photos, capsys):
    predict_files(finished_run[0], [str(photos / "b.png")], student="ant", topk=1)
    said = capsys.readouterr().err
    assert "student ant, seed 3 (of 3, 1), last parameters" in said


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_output_files(finished_run, photos, tmp_path, suffix, capsys):
    path = tmp_path / f"out.{suffix}"
    found = predict_files(
        finished_run[0], [str(photos)], str(path), topk=3, student="mole"
    )
    assert not capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    if suffix == "json":
        assert json.loads(text) == [p._asdict() for p in found]
    else:
        table = list(csv.reader(io.StringIO(text)))
        assert table[0] == ["file", "rank", "class", "probability", "status", "error"]
        assert [row[2] for row in table[1:]] == [c for p in found for c in p.classes]


def test_several_inputs_and_several_batches(finished_run, photos, monkeypatch):
    workdir, _ = finished_run
    given = [str(photos / "deeper" / "c.png"), str(photos), str(photos / "b.png")]
    whole = predict_files(workdir, given, topk=2, student="zebra")
    assert len(whole) == 5 and whole[0].file == given[0] and whole[4].file == given[2]
    monkeypatch.setattr(classification, "_BATCH", 2)
    again = predict_files(workdir, given, topk=2, student="zebra")
    for one, other in zip(whole, again, strict=True):
        assert one.classes == other.classes
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)


def test_other_sizes_and_colours_are_prepared_as_for_evaluation(finished_run, tmp_path):
    workdir, _ = finished_run
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8))
    grey.save(tmp_path / "a_grey.png")
    large = rng.integers(0, 256, (20, 31, 3)).astype(np.uint8)
    Image.fromarray(large).save(tmp_path / "b_large.png")
    first, second = predict_files(workdir, [str(tmp_path)], topk=4, student="zebra")
    as_rgb = np.repeat(np.asarray(grey)[..., None], 3, axis=-1)
    check(first, probabilities(workdir, "zebra", 3, as_rgb), 4)
    cropped = decoding.center_crop(8)({"image": large})["image"]
    check(second, probabilities(workdir, "zebra", 3, cropped), 4)


def untrained(workdir, shape, tmp_path):
    """Makes the folder of a finished run without training anything."""
    workdir.mkdir()
    config = squares_config(write_squares(tmp_path / "data.npz", shape))
    run = build.build(config)
    workdirs.create(workdir, config)
    init = jax.jit(
        lambda: {
            group.name: study.init_group(group, {}, False) for group in run.groups
        },
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init()
    best = {name: study.init_best(one) for name, one in state.items()}
    with Checkpoints(workdir / "checkpoints", 1) as checkpoints:
        meta = {"step": 0, "members": checkpoint.member_table(run.groups)}
        checkpoints.save(0, state, best, meta)
        checkpoints.wait()
    info = run.dataset.info
    data = {**info._asdict(), "image_shape": list(info.image_shape)}
    data |= {"train_examples": 1, "test_examples": 1}
    student = {"method": "supervised", "model": "resnet8", "last": {"top1": [0.5]}}
    results = {
        "name": "untrained",
        "data": data,
        "seeds": list(config.seeds),
        "steps": 0,
        "batch_size": config.batch_size,
        "frozen": {},
        "students": {"supervised": student},
    }
    write_json(workdir / "results.json", results)
    return workdir


def test_a_network_of_grey_images_sees_luma(tmp_path):
    workdir = untrained(tmp_path / "grey", (8, 8, 1), tmp_path)
    colours = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    grey = Image.fromarray(colours).convert("L")
    grey.save(tmp_path / "grey.png")
    found = predict_files(
        workdir, [str(tmp_path / "colours.png"), str(tmp_path / "grey.png")], topk=4
    )
    luma = np.asarray(grey)[..., None]
    for prediction in found:
        wanted = probabilities(workdir, "supervised", 0, luma)
        by_name = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        got = [by_name[name] for name in NAMES]
        # Pillow rounds luma with integers, which may differ by one shade.
        np.testing.assert_allclose(got, wanted, atol=0.01)


@pytest.mark.slow
def test_images_that_are_not_square_keep_the_networks_shape(tmp_path):
    workdir = untrained(tmp_path / "wide", (8, 12, 3), tmp_path)
    image = np.random.default_rng(1).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "own_size.png")
    Image.fromarray(image).resize((30, 20)).save(tmp_path / "larger.png")
    config = workdirs.read_config(workdir)
    info = preprocessing.read(workdir)
    assert decoding.fit(
        decoding.decode(tmp_path / "larger.png"), info.image_shape
    ).shape == (8, 12, 3)
    (found,) = predict_files(workdir, [str(tmp_path / "own_size.png")], topk=4)
    check(found, probabilities(workdir, config.method, 0, image), 4)


def test_channels_that_no_image_file_has(tmp_path):
    workdir = untrained(tmp_path / "odd", (8, 8, 2), tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"arrays \(8, 8, 2\), expected 1 or 3"):
        predict_files(workdir, [str(tmp_path / "a.png")], topk=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 0}, "topk is 0, expected 1 to 4"),
        ({"topk": 5}, "topk is 5, expected 1 to 4"),
        ({"topk": -1}, "topk is -1"),
        ({"output": "out.txt"}, r"out\.txt.*\.csv or \.json"),
        ({"output": "no_such_folder/out.csv"}, "no_such_folder does not exist"),
        ({"student": "bee", "topk": 1}, "'bee'.*zebra"),
        ({"student": "ant", "seed": 2, "topk": 1}, r"'ant' with seed 2.*seeds: 3, 1"),
    ],
)
def test_wrong_options(finished_run, photos, options, message):
    with pytest.raises(UserError, match=message):
        predict_files(
            finished_run[0], [str(photos)], **{"topk": 4, "student": "ant"} | options
        )


def test_wrong_inputs(finished_run, tmp_path):
    workdir, _ = finished_run
    text = tmp_path / "renamed.png"
    text.write_text("these are words")
    empty = tmp_path / "empty"
    empty.mkdir()
    for given, message in (
        ([], "--inputs"),
        ([str(tmp_path / "missing.png")], "missing.png does not exist"),
        ([str(text)], "renamed.png cannot be read as an image"),
        ([str(empty)], "empty holds no image files"),
    ):
        with pytest.raises(UserError, match=message):
            predict_files(workdir, given, topk=2, student="zebra")


def test_one_bad_file_never_ends_the_others(finished_run, photos, tmp_path):
    """A row for every input; macOS' and Jupyter's copies are left out, links read."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link").symlink_to(photos)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "words.png").write_text("these are words")
    (folder / "._a.png").write_bytes(b"x")
    (folder / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".ipynb_checkpoints" / "a.png")
    odd = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (8, 8)).save(folder / odd)
    out = tmp_path / "out.csv"
    found = predict_files(
        finished_run[0], [str(folder)], str(out), topk=2, student="ant"
    )
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [p.status for p in found].count("ok") == 4 and len(found) == 6
    status = {Path(row["file"]).name: row["status"] for row in rows}
    assert status == {
        **{"caf\\xe9.png": "ok", "a.PNG": "ok", "b.png": "ok", "c.png": "ok"},
        **{"gone.png": "unreadable", "words.png": "unreadable"},
    }
    assert "no such file" in next(r["error"] for r in rows if "gone" in r["file"])
    with pytest.raises(UserError, match="No input could be read"):
        predict_files(
            finished_run[0],
            [str(folder / "words.png")],
            str(out),
            topk=2,
            student="ant",
        )
    assert "unreadable" in out.read_text(encoding="utf-8")


def test_a_run_that_is_not_finished(tmp_path, squares):
    config = squares_config(squares)
    config.students = ConfigDict()
    workdirs.create(tmp_path, config)
    with pytest.raises(UserError, match=r"results\.json.*finished"):
        predict_files(tmp_path, ["a.png"])
