"""Layouts of CT data sets, their splits, the check command, and the views."""

import csv
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import datasets, views
from jaxkd.aot import fake_data
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.datasets import ct, phantoms
from jaxkd.drawing.ct import parts
from jaxkd.readers.ct import cases as ct_cases
from jaxkd.readers.ct import lungs, volumes
from jaxkd.readers.ct.cases import Case, assign_splits

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

from jaxkd.readers.ct import dicom_writing, nifti

SIZE = (12, 16, 16)


@pytest.fixture(scope="module")
def scans():
    return [phantoms.draw(i % 3, (1, i), (2, i)).image for i in range(3)]


@pytest.fixture
def folders(scans, tmp_path):
    """Class folders: two classes of three patients, a series or a file each."""
    root = tmp_path / "chests"
    for label, name in enumerate(("NCP", "Normal")):
        for patient in range(3):
            scan = scans[label].transpose(2, 1, 0)
            place = root / name / f"p{name}{patient}"
            place.mkdir(parents=True)
            if patient:
                nifti.write(place / "scan.nii.gz", scan, phantoms.affine())
            else:
                dicom_writing.write(place / "scan", scan, phantoms.affine())
    return root


def manifest(path, rows, columns=("case", "path", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def load(root, tmp_path, **options):
    options = {"size": SIZE, "cache": str(tmp_path / "cache"), **options}
    return datasets.load("ct", root=str(root), **options)


def described(example):
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in example.items()
    }


def test_class_folders(scans, folders, tmp_path):
    dataset = load(folders, tmp_path)
    assert dataset.info.class_names == ("NCP", "Normal")
    train = dataset.train(0)
    assert (len(train), len(dataset.test)) == (4, 2)
    patients = [{c.patient for c in s.cases} for s in (train, dataset.test)]
    assert not patients[0] & patients[1]
    example = train[0]
    assert example["image"].shape == SIZE and example["image"].dtype == np.int16
    assert example["label"] == 0
    assert dataset.example(train) == described(example)
    known = fake_data.make("ct", classes=("NCP", "Normal"), size=SIZE)
    assert known.example(known.train(0)) == described(example)
    # The second time it comes from disk, and a changed file is read anew.
    kept = list((tmp_path / "cache").iterdir())
    np.testing.assert_array_equal(train[0]["image"], example["image"])
    assert list((tmp_path / "cache").iterdir()) == kept
    again = {int(one["image"].mean()) for one in (dataset.test[0], dataset.test[1])}
    assert len(again) == 2


def test_manifest_with_splits(folders, tmp_path):
    rows = [
        (f"{label}{i}", f"{label}/p{label}{i}/scan.nii.gz", label, f"{label}{i}", split)
        for label in ("NCP", "Normal")
        for i, split in ((1, "train"), (2, "val"))
    ]
    columns = ("case", "path", "label", "patient", "split")
    path = manifest(folders / "list.csv", rows, columns)
    dataset = load(path, tmp_path, evaluate_on="val", classes=("Normal", "NCP"))
    assert [c.name for c in dataset.test.cases] == ["NCP2", "Normal2"]
    assert [int(dataset.test[i]["label"]) for i in (0, 1)] == [1, 0]
    with pytest.raises(UserError, match="split 'test' has no scans"):
        load(path, tmp_path)
    path = manifest(path, [(*row[:3], "one", row[4]) for row in rows], columns)
    with pytest.raises(UserError, match="its patient is in the splits train, val"):
        load(path, tmp_path)
    load(path, tmp_path, evaluate_on="val", shared_patients=True)
    path = manifest(path, [*rows[:-1], (*rows[-1][:4], "")], columns)
    with pytest.raises(UserError, match="Normal2 has no split, but others have one"):
        load(path, tmp_path)
    path = manifest(path, [*rows[:-1], (*rows[-1][:4], "dev")], columns)
    with pytest.raises(UserError, match="has split 'dev', expected one of train"):
        load(path, tmp_path)


def test_masks_of_lesions(folders, scans, tmp_path):
    lesion = phantoms.draw(0, (1, 0), (2, 0)).lesion.transpose(2, 1, 0)
    nifti.write(folders / "lesion.nii.gz", lesion, phantoms.affine())
    rows = [
        (f"{label}{i}", f"{label}/p{label}{i}/scan.nii.gz", label, split, mask)
        for label, mask in (("NCP", "lesion.nii.gz"), ("Normal", ""))
        for i, split in ((1, "train"), (2, "test"))
    ]
    columns = ("case", "path", "label", "split", "lesion_mask")
    path = manifest(folders / "list.csv", rows, columns)
    dataset = load(path, tmp_path, size=(24, 48, 48))
    sick, well = dataset.test[0], dataset.test[1]
    np.testing.assert_array_equal(sick["lesion"], lesion.transpose(2, 1, 0))
    assert dataset.example(dataset.test) == described(sick)
    assert not well["lesion"].any() and not well["lungs"].any()
    assert not (sick["lesion"] & ~sick["lungs"] & 1).sum() > 0.1 * lesion.sum()
    nifti.write(folders / "lesion.nii.gz", lesion[1:], phantoms.affine())
    with pytest.raises(UserError, match=r"lesion\.nii\.gz: its grid is \(24, 48, 47\)"):
        load(path, tmp_path, size=(24, 48, 48)).test[0]
    (folders / "lesion.nii.gz").unlink()
    with pytest.raises(UserError, match=r"NCP1: .*lesion\.nii\.gz does not exist"):
        load(path, tmp_path)


def test_lungs_are_found(scans):
    for index, scan in enumerate(scans):
        stored = scan.transpose(2, 1, 0)
        volume = volumes.to_frame(stored, phantoms.affine())
        wanted = phantoms.draw(index, (1, index), (2, index)).lungs > 0
        found = lungs.find(volume)
        assert found[wanted].mean() > 0.9 and found.mean() < 1.6 * wanted.mean()
        _, (top, bottom), (left, right) = lungs.box(found)
        assert min(top, 48 - bottom) >= 6 and min(left, 48 - right) >= 1
        assert wanted[:, top:bottom, left:right].sum() > 0.98 * wanted.sum()


def test_lungs_that_are_none():
    full = volumes.to_frame(np.zeros((24, 24, 24), np.int16), phantoms.affine())
    assert lungs.find(full) is None
    air = volumes.to_frame(np.full((24, 24, 24), -1000, np.int16), phantoms.affine())
    assert lungs.find(air) is None


def test_crop_to_the_lungs(folders, scans, tmp_path):
    volume = volumes.to_frame(scans[0].transpose(2, 1, 0), phantoms.affine())
    (first, last), (top, bottom), (left, right) = lungs.box(lungs.find(volume))
    size = (last - first, bottom - top, right - left)
    got, placement = ct.fit(volume, size, None, True)
    wanted = scans[0][first:last, top:bottom, left:right]
    np.testing.assert_array_equal(got, wanted)
    back = volumes.unfit(got.astype(np.float32), placement)
    np.testing.assert_array_equal(back[first:last, top:bottom, left:right], wanted)
    assert back.shape == scans[0].shape and back.sum() == wanted.sum()
    # Without the air around the body.
    cropped, whole = (load(folders, tmp_path, lung_crop=c) for c in (True, False))
    assert cropped.test[0]["image"].mean() > whole.test[0]["image"].mean() + 100


def test_covnet_layout(folders, tmp_path):
    root = tmp_path / "covnet"
    rows = []
    for label in ("NCP", "Normal"):
        for i in (1, 2):
            (root / f"{label}{i}").mkdir(parents=True)
            image = nifti.library().load(folders / label / f"p{label}{i}/scan.nii.gz")
            nifti.library().save(image, root / f"{label}{i}" / "masked_ct.nii")
            rows.append((f"{label}{i}", label))
    manifest(root / "train.csv", rows, ("case", "label"))
    dataset = load(root, tmp_path)
    assert (len(dataset.train(0)), len(dataset.test)) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "columns", "match"),
    [
        ([("a", "x.nii")], ("case", "path"), "lacks label"),
        ([], ("case", "path", "label"), "lists no scans"),
        ([("a", "x.nii", "")], ("case", "path", "label"), "line 2: label is empty"),
        ([("a", "x.nii", "NCP")], ("case", "path", "label"), "x.nii does not exist"),
        ([("a", "x" * 300, "N")], ("case", "path", "label"), "xxx does not exist"),
        ([("a", "~/x.nii", "N")], ("case", "path", "label"), "home/x.nii does not"),
        ([("a", "x", "N", "M")], ("case", "path", "label", "label"), "column twice"),
        ([("a", "x", "y", "N")], ("case", "path", "label"), "more cells than the 3"),
        ([(c, ".", "N") for c in "ab"], ("case", "path", "label"), "more than once"),
    ],
)
def test_wrong_manifests(tmp_path, monkeypatch, rows, columns, match):
    monkeypatch.setenv("HOME", "/home")
    path = manifest(tmp_path / "list.csv", rows, columns)
    with pytest.raises(UserError, match=match):
        ct_cases.list_cases(path, None)


def test_wrong_labels(folders, tmp_path):
    with pytest.raises(UserError, match=r"has label 'Normal', expected one of NCP, CP"):
        load(folders, tmp_path, classes=("NCP", "CP"))
    with pytest.raises(UserError, match="no scan has label CP"):
        load(folders, tmp_path, classes=("NCP", "CP", "Normal"))
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere", tmp_path)
    shutil.rmtree(folders / "NCP")
    with pytest.raises(UserError, match="all scans have label 'Normal'"):
        load(folders, tmp_path)


def test_bad_scans_end_the_run_or_are_left_out(folders, tmp_path, capsys):
    bad = folders / "NCP/pNCP1/scan.nii.gz"
    bad.write_bytes(bad.read_bytes()[:500])
    dataset = load(folders, tmp_path, skip_bad=True)
    names = {c.name for s in (dataset.train(0), dataset.test) for c in s.cases}
    assert len(names) == 5 and "NCP/pNCP1/scan.nii.gz" not in names
    assert f"left out NCP/pNCP1/scan.nii.gz: {bad}" in capsys.readouterr().err
    strict = load(folders, tmp_path)
    with pytest.raises(UserError, match="damaged or cut short"):
        [
            source[i]
            for source in (strict.train(0), strict.test)
            for i in range(len(source))
        ]


def test_splits_by_patient_and_by_scan(capsys):
    cases = [
        Case(f"{label}{p}-{s}", None, label, f"{label}{p}")
        for label in "ab"
        for p in range(10)
        for s in range(3)
    ]
    split = assign_splits(cases, "ab", "patient", 0.2, 0)
    held_out = {c.patient for c in split if c.split == "test"}
    assert sum(c.split == "test" for c in split) == 12
    assert sorted(p[0] for p in held_out) == ["a", "a", "b", "b"]
    assert not held_out & {c.patient for c in split if c.split == "train"}
    assert split != assign_splits(cases, "ab", "patient", 0.2, 1)
    assert not capsys.readouterr().err
    by_scan = assign_splits(cases, "ab", "scan", 0.2, 0)
    assert sum(c.split == "test" for c in by_scan) == 12
    assert "warning" in capsys.readouterr().err
    with pytest.raises(UserError, match="split_by is 'day'"):
        assign_splits(cases, "ab", "day", 0.2, 0)
    with pytest.raises(UserError, match="Class 'b' has 1 patients"):
        assign_splits(cases[:33], "ab", "patient", 0.2, 0)


def test_check_command(folders, capsys):
    assert ct.main([str(folders)]) == 0
    text = capsys.readouterr().out
    assert "ok   NCP/pNCP0/scan: 24 x 48 x 48 voxels of 10 x 7.5 x 7.5 mm" in text
    assert "6 scans, 0 bad" in text
    (folders / "NCP/pNCP0/scan/0007.dcm").unlink()
    assert ct.main([str(folders)]) == 1
    text = capsys.readouterr().out
    assert "BAD  NCP/pNCP0/scan: " in text and "1 missing" in text
    assert ct.main([str(folders), "--fill-gaps", "1"]) == 0
    assert "1 slices interpolated" in capsys.readouterr().out
    assert ct.main([str(folders / "NCP/pNCP0/scan")]) == 1
    assert ct.main([str(folders / "Normal")]) == 0
    assert "ok   pNormal1/scan.nii.gz" in capsys.readouterr().out
    assert ct.main([str(folders / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


# --- views -------------------------------------------------------------------

INFO = Info("test", 3, (6, 8, 10), (0.0,), (1.0,), ("a", "b", "c"))
STILL = {"shift": 0, "depth_shift": 0, "rotation": 0, "zoom": 0}
PLAIN = {"intensity": 0, "noise": 0}


def batch(count=3):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(-1000, 400, (count, 6, 8, 10)), jnp.int16),
        "label": jnp.arange(count),
        "lesion": jnp.ones((count, 6, 8, 10), jnp.uint8),
    }


def test_view_for_evaluation():
    view = views.build("ct", INFO, window="lung")
    seen = view.evaluate(batch())
    wanted = np.clip((np.asarray(batch()["image"]) + 1350.0) / 1500, 0, 1)
    np.testing.assert_allclose(seen["image"][..., 0], wanted, atol=1e-6)
    trained = jax.eval_shape(view.train, jax.random.key(0), batch())
    assert "lesion" in seen and "lesion" not in trained
    assert trained["image"].shape == seen["image"].shape
    with pytest.raises(UserError, match="window is 'bone'"):
        views.build("ct", INFO, window="bone")


def test_left_and_right_are_not_exchanged_where_they_are_the_classes():
    sides = INFO._replace(num_classes=2, class_names=("Left lung", "Right lung"))
    with pytest.raises(UserError, match=r"Left lung, Right lung.*view\.flip = False"):
        views.build("ct", sides)
    views.build("ct", sides, flip=False)
    views.build("ct", sides._replace(class_names=("Upright", "Leftover")))


def test_view_that_only_flips():
    view = views.build("ct", INFO, **STILL, **PLAIN)
    seen = np.asarray(view.train(jax.random.key(1), batch(16))["image"])
    plain = np.asarray(view.evaluate(batch(16))["image"])
    flipped = [
        np.array_equal(a, b[:, :, ::-1]) for a, b in zip(seen, plain, strict=True)
    ]
    same = [np.array_equal(a, b) for a, b in zip(seen, plain, strict=True)]
    assert all(f != s for f, s in zip(flipped, same, strict=True))
    assert 3 <= sum(flipped) <= 13


def test_view_that_shifts_slices():
    options = STILL | PLAIN | {"depth_shift": 2, "flip": False}
    view = views.build("ct", INFO, **options)
    seen = np.asarray(view.train(jax.random.key(2), batch(16))["image"])
    plain = np.asarray(view.evaluate(batch(16))["image"])
    found = set()
    for a, b in zip(seen, plain, strict=True):
        for shift in range(-2, 3):
            if np.array_equal(a, b[np.clip(np.arange(6) + shift, 0, 5)]):
                found.add(shift)
    assert found == {-2, -1, 0, 1, 2}


def test_view_moves_all_slices_alike():
    ramp = jnp.broadcast_to(jnp.arange(10) * 100 - 900, (2, 6, 8, 10)).astype(jnp.int16)
    options = STILL | PLAIN | {"shift": 2.0, "flip": False}
    view = views.build("ct", INFO, **options)
    seen = np.asarray(jax.jit(view.train)(jax.random.key(3), {"image": ramp})["image"])[
        ..., 0
    ]
    plain = np.asarray(view.evaluate({"image": ramp})["image"])[..., 0]
    moved = (seen - plain)[:, :, 3:5, 4:6]
    assert np.ptp(moved[0]) < 1e-5 and 0.001 < abs(moved[0, 0, 0, 0]) < 0.15
    assert abs(moved[0, 0, 0, 0] - moved[1, 0, 0, 0]) > 1e-4


@pytest.mark.slow
def test_view_changes_brightness_and_adds_noise():
    grey = {"image": jnp.full((4, 6, 8, 10), -300, jnp.int16)}
    view = views.build("ct", INFO, **STILL, intensity=0.1, noise=0.0)
    seen = np.asarray(jax.jit(view.train)(jax.random.key(4), grey)["image"])
    assert np.ptp(seen, (1, 2, 3, 4)).max() < 1e-6
    assert len(set(seen[:, 0, 0, 0, 0].tolist())) == 4
    assert abs(seen - 0.5).max() <= 0.15 + 1e-6
    view = views.build("ct", INFO, **STILL, intensity=0.0, noise=0.03)
    seen = np.asarray(jax.jit(view.train)(jax.random.key(4), grey)["image"])
    assert 0 < seen.std() < 0.03 and abs(seen.mean() - 0.5) < 0.005


# --- phantoms ----------------------------------------------------------------


def test_phantoms_are_as_described():
    scans = [phantoms.draw(i % 3, (3, i), (4, i)) for i in range(9)]
    for index, (image, lesion, chest, distractors) in enumerate(scans):
        assert distractors is None
        assert image.dtype == np.int16 and -1024 <= image.min() < -900
        assert image.max() > 350 and 0.1 < chest.mean() < 0.25
        sick = phantoms.CLASSES[index % 3] != "Normal"
        assert lesion.any() == sick and not (lesion & ~chest & 1).any()
    fine, smooth = (scans[k] for k in (0, 1))
    assert not np.array_equal(fine.image, smooth.image)
    again = phantoms.draw(0, (3, 0), (4, 0))
    np.testing.assert_array_equal(again.image, fine.image)


def test_lesions_of_both_kinds_are_alike_in_size_and_differ_in_place():
    sizes, radii = {0: [], 1: []}, {0: [], 1: []}
    for index in range(24):
        scan = phantoms.draw(index % 2, (5, index), (6, index))
        _, body = parts.body(np.random.default_rng((5, index)), phantoms.SHAPE)
        sizes[index % 2].append(scan.lesion.sum())
        radii[index % 2].append(body.radius[scan.lesion > 0].mean())
    assert np.mean(radii[0]) > np.mean(radii[1]) + 0.1
    assert 0.5 < np.mean(sizes[0]) / np.mean(sizes[1]) < 1.5


def test_phantom_data_set(tmp_path):
    options = {"train": 12, "test": 6, "crop": (20, 32, 40), "cache": str(tmp_path)}
    dataset = datasets.load("phantoms", **options)
    arrays = dataset.train(0).arrays
    assert arrays["image"].shape == (12, 20, 32, 40) == arrays["lungs"].shape
    assert np.bincount(arrays["label"]).tolist() == [4, 4, 4]
    assert not set(arrays["patient"]) & set(dataset.test.arrays["patient"])
    for patient in set(arrays["patient"].tolist()):
        assert len(set(arrays["label"][arrays["patient"] == patient].tolist())) == 1
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = datasets.load("phantoms", **options).train(0).arrays
    np.testing.assert_array_equal(again["image"], arrays["image"])
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    # The middle is kept, and a smaller set is the beginning of a larger one.
    whole = datasets.load("phantoms", **options | {"crop": None, "train": 6})
    part = whole.train(0).arrays["image"][:, 2:22, 8:40, 4:44]
    np.testing.assert_array_equal(part, arrays["image"][:6])
    validation = datasets.load("phantoms", **options, evaluate_on="validation")
    assert (validation.test.arrays["image"] != dataset.test.arrays["image"]).any()


def test_a_damaged_cache_is_drawn_again(tmp_path):
    options = {"train": 6, "test": 6, "cache": str(tmp_path)}
    wanted = datasets.load("phantoms", **options).test.arrays["image"]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    got = datasets.load("phantoms", **options).test.arrays["image"]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"train": 10}, "train is 10, expected a positive multiple of 6"),
        ({"crop": (24, 64, 40)}, "crop is"),
        ({"evaluate_on": "train"}, "evaluate_on is 'train'"),
        ({"law": "distributed"}, "law is 'distributed'"),
    ],
)
def test_wrong_options_of_phantoms(tmp_path, options, match):
    options = {"train": 6, "test": 6, "cache": str(tmp_path), **options}
    with pytest.raises(UserError, match=match):
        datasets.load("phantoms", **options)


def test_phantoms_written_as_files(tmp_path, capsys):
    phantoms.main([str(tmp_path / "scans")])
    assert "6 scans" in capsys.readouterr().out
    scan = phantoms.draw(1, (0, phantoms.EXAMPLES, 4), (0, phantoms.EXAMPLES, 4, 1))
    from jaxkd.readers.ct import dicom

    volume = dicom.read(tmp_path / "scans" / "cp-4")
    np.testing.assert_array_equal(volume.voxels, scan.image)
    assert volume.spacing == pytest.approx(phantoms.SPACING)
