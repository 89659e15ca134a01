import shutil

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import folder
from jaxkd.readers import images


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 12, 3), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(["cat", "ant", "dog"]):
            for i in range(count):
                save(tmp_path / "pets" / split / name / f"{i}.png", 10 * label + i)
    return tmp_path / "pets"


def read(source):
    examples = [source[i] for i in range(len(source))]
    return [(int(e["label"]), int(e["image"][0, 0, 0])) for e in examples]


def test_images_and_labels_by_sorted_class_name(root):
    dataset = folder.load(str(root), size=8)
    assert dataset.info.class_names == ("ant", "cat", "dog")
    assert dataset.info[:3] == ("pets", 3, (8, 8, 3))
    # ant was written with values from 10, cat from 0, dog from 20.
    wanted = [(0, 10), (0, 11), (0, 12), (1, 0), (1, 1), (1, 2)]
    assert read(dataset.train(0))[:6] == wanted
    assert read(dataset.test) == [(0, 10), (0, 11), (1, 0), (1, 1), (2, 20), (2, 21)]
    example = dataset.train(0)[0]
    assert example["image"].shape == (9, 12, 3)
    assert dataset.prepare_test(example)["image"].shape == (8, 8, 3)
    prepared = dataset.prepare_train(example, np.random.default_rng(0))
    np.testing.assert_array_equal(prepared["image"], np.full((8, 8, 3), 10))


def test_classes_in_an_order_of_ones_own(root, tmp_path):
    names = ("dog", "ant", "cat")
    (tmp_path / "names.txt").write_text("\n".join(names))
    for given in (names, str(tmp_path / "names.txt")):
        dataset = folder.load(str(root), size=8, classes=given)
        assert dataset.info.class_names == names
        assert dataset.info.resize == images.CENTER_CROP
        assert read(dataset.test) == [
            *((0, 20), (0, 21), (1, 10), (1, 11), (2, 0), (2, 1)),
        ]
    with pytest.raises(UserError, match=r"differ: cat, cow \(2 in all\)"):
        folder.load(str(root), classes=("dog", "ant", "cow"))


def test_hidden_files_are_left_out(root):
    (root / "train" / ".DS_Store").write_text("")
    (root / "train" / "cat" / "._0.png").write_text("")
    assert len(folder.load(str(root)).train(0)) == 9


def test_other_test_folder(root):
    (root / "val").rename(root / "test")
    assert len(folder.load(str(root)).test) == 6
    save(root / "val" / "cat" / "0.png", 0)
    with pytest.raises(UserError, match=r"has val and test.*test_split"):
        folder.load(str(root))
    assert len(folder.load(str(root), test_split="val").test) == 1


def test_a_share_is_held_out_of_an_undivided_folder(root, tmp_path):
    undivided, other = tmp_path / "pets" / "train", tmp_path / "moved"
    dataset = folder.load(str(undivided), hold_out=0.4)
    train, held = read(dataset.train(0)), read(dataset.test)
    assert [label for label, _ in held] == [0, 1, 2]  # 0.4 of 3 images is one
    assert not set(train) & set(held)
    assert sorted(train + held) == [
        *((0, 10), (0, 11), (0, 12), (1, 0), (1, 1), (1, 2)),
        *((2, 20), (2, 21), (2, 22)),
    ]
    # Neither the place nor a class more changes what is held out of the others.
    undivided.rename(other)
    save(other / "zebu" / "0.png", 30)
    with pytest.raises(UserError, match=r"0.png is the only image of its class"):
        folder.load(str(other), hold_out=0.4)
    save(other / "zebu" / "1.png", 31)
    assert read(folder.load(str(other), hold_out=0.4).test)[:3] == held


def test_a_share_is_held_out_of_train(root):
    with pytest.raises(UserError, match=r"has val to evaluate on.*Leave out hold_out"):
        folder.load(str(root), hold_out=0.4)
    shutil.rmtree(root / "val")
    with pytest.raises(UserError, match=r"neither val nor test.*hold_out=0.2"):
        folder.load(str(root))
    with pytest.raises(UserError, match="hold_out is 2, expected a share"):
        folder.load(str(root), hold_out=2)
    dataset = folder.load(str(root), hold_out=0.9, channels=1)
    assert len(dataset.train(0)) == 3 and len(dataset.test) == 6
    assert dataset.test[0]["image"].shape == (9, 12, 1)


def test_missing_folders(root, tmp_path):
    with pytest.raises(UserError, match=r"has neither val nor test"):
        folder.load(str(tmp_path))
    with pytest.raises(UserError, match=r"nowhere does not exist, expected a folder"):
        folder.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"config.data.root is empty"):
        folder.load("")


def test_a_labelled_folder_without_train(root):
    """It is read for evaluation: ``val`` beside no ``train``, and class folders."""
    wanted = read(folder.load(str(root)).test)
    (root / "train").rename(root.parent / "elsewhere")
    for top in (root, root / "val"):
        dataset = folder.load(str(top), size=8)
        assert read(dataset.test) == wanted and len(dataset.train(0)) == 0
        assert dataset.info.class_names == ("ant", "cat", "dog")
        assert dataset.prepare_test(dataset.test[0])["image"].shape == (8, 8, 3)
    (root / "readme.md").write_text("")
    assert read(folder.load(str(root)).test) == wanted
    (root / "val" / "readme.md").write_text("")
    with pytest.raises(UserError, match=r"readme.md is not a folder"):
        folder.load(str(root / "val"))


def test_some_of_the_classes_without_train(root):
    names = ("dog", "eel", "cat", "ant")
    dataset = folder.load(str(root / "val"), classes=names)
    assert dataset.info.class_names == names
    assert read(dataset.test) == [(0, 20), (0, 21), (2, 0), (2, 1), (3, 10), (3, 11)]
    with pytest.raises(UserError, match=r"and the folders in .*val differ: cat"):
        folder.load(str(root / "val"), classes=("dog", "ant"))


def test_a_list_without_train(root):
    wanted = read(folder.load(str(root)).test)
    rows = [",".join(row) for row in flat(root)]
    (root / "val.csv").write_text("\n".join(rows))
    assert read(folder.load(str(root / "val")).test) == wanted


def test_channels_are_kept_by_option(root):
    """Grey is decoded as grey, resized as one layer and described as such."""
    dataset = folder.load(str(root), size=8, channels=1)
    example = dataset.test[2]
    assert example["image"].shape == (9, 12, 1) and dataset.info.image_shape[2] == 1
    np.testing.assert_array_equal(example["image"], np.zeros((9, 12, 1)))
    np.testing.assert_allclose(dataset.info.mean, np.mean(images.IMAGENET_MEAN), 1e-3)
    assert len(dataset.info.std) == 1
    rng = np.random.default_rng(0)
    assert dataset.prepare_train(example, rng)["image"].shape == (8, 8, 1)
    four = folder.load(str(root), size=8, channels=4, mean=(0.1, 0.2, 0.3, 0.4))
    assert four.info.mean == (0.1, 0.2, 0.3, 0.4) and four.info.std == (0.5,) * 4
    layers = four.prepare_test(four.test[4])["image"]
    np.testing.assert_array_equal(layers[..., 3], np.full((8, 8), 255))
    with pytest.raises(UserError, match="mean has 3 numbers, expected one for each of"):
        folder.load(str(root), channels=4, mean=images.IMAGENET_MEAN)
    with pytest.raises(UserError, match="channels is 0, expected 1"):
        folder.load(str(root), channels=0)


def test_test_class_without_training_images(root):
    save(root / "val" / "eel" / "0.png", 0)
    with pytest.raises(UserError, match=r"val has classes that .*train has not: eel"):
        folder.load(str(root))


def test_training_class_without_test_images(root):
    save(root / "train" / "bee" / "0.png", 0)
    dataset = folder.load(str(root))
    assert dataset.info.class_names == ("ant", "bee", "cat", "dog")
    assert [label for label, _ in read(dataset.test)] == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("split", ["train", "val"])
def test_empty_class_folder(root, split):
    for path in (root / split / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=rf"{split}/cat is empty"):
        folder.load(str(root))


def test_empty_split(root):
    for name in ("cat", "ant", "dog"):
        for path in (root / "val" / name).iterdir():
            path.unlink()
        (root / "val" / name).rmdir()
    with pytest.raises(UserError, match=r"val is empty. Expected"):
        folder.load(str(root))


def test_files_that_are_not_images(root):
    (root / "train" / "dog" / "notes.txt").write_text("good dog")
    with pytest.raises(UserError, match=r"dog/notes.txt is not an image by its name"):
        folder.load(str(root))
    (root / "train" / "dog" / "notes.txt").rename(root / "train" / "dog" / "notes.png")
    source = folder.load(str(root)).train(0)
    with pytest.raises(UserError, match=r"dog/notes.png cannot be read as an image"):
        source[len(source) - 1]


def test_files_between_the_class_folders(root):
    (root / "train" / "readme.md").write_text("")
    with pytest.raises(UserError, match=r"readme.md is not a folder"):
        folder.load(str(root))


def test_find_takes_files_as_they_come_and_folders_in_order(root, tmp_path):
    named = tmp_path / "no_suffix"
    named.touch()
    below = sorted(p for p in (root / "train").rglob("*.png"))
    assert len(below) > 1
    assert list(images.find([named, str(root / "train")])) == [named, *below]


def flat(root):
    """Moves the test images into one folder; returns (file, class) of each."""
    moved = []
    for name in ("ant", "cat", "dog"):
        for path in sorted((root / "val" / name).iterdir()):
            path.rename(root / "val" / f"{name}{path.name}")
            moved.append((f"{name}{path.name}", name))
        (root / "val" / name).rmdir()
    return moved


@pytest.mark.parametrize(
    ("file", "separator", "heading"),
    [("val.csv", ",", "path,label\n"), ("val.txt", " ", ""), ("val.txt", "\t", "")],
)
def test_a_flat_folder_with_a_list(root, file, separator, heading):
    wanted = read(folder.load(str(root)).test)
    rows = [separator.join(row) for row in flat(root)]
    (root / file).write_text(heading + "\n".join(rows))
    assert read(folder.load(str(root)).test) == wanted
    (root / file).write_text(heading + "\n".join([*rows, rows[0]]))
    with pytest.raises(UserError, match=r"ant0\.png is listed twice"):
        folder.load(str(root))
    for gone in ("gone.png", f"{'x' * 300}.png"):
        (root / file).write_text(f"{gone}{separator}ant")
        with pytest.raises(UserError, match=rf"line 1: {gone} is not there"):
            folder.load(str(root))


def test_headings_tell_the_columns(root, capsys):
    wanted = read(folder.load(str(root)).test)
    rows = flat(root)
    for heading, form in (
        ("label,width,path", "{1},8,{0}"),
        ("file_name,split,class", "{0},val,{1}"),
    ):
        lines = [heading, *(form.format(*row) for row in rows)]
        (root / "val.csv").write_text("\n".join(lines))
        assert read(folder.load(str(root)).test) == wanted
    assert not capsys.readouterr().err
    (root / "val.csv").write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match="heading such as path,label tells them"):
        folder.load(str(root))


def test_images_that_a_list_does_not_name_are_told(root, capsys):
    *rows, (last, _) = flat(root)
    (root / "val.csv").write_text("\n".join(map(",".join, rows)))
    assert len(folder.load(str(root)).test) == len(rows)
    assert f"does not list 1 images in {root / 'val'}, such as {last}" in (
        capsys.readouterr().err
    )
    (root / "val" / "notes.txt").write_text("")
    (root / "val.csv").write_text("notes.txt,ant")
    with pytest.raises(UserError, match=r"notes\.txt is not an image by its name"):
        folder.load(str(root))


def test_tiny_imagenet(root):
    wanted = read(folder.load(str(root)).test)
    rows = flat(root)
    (root / "val" / "images").mkdir()
    for name, _ in rows:
        (root / "val" / name).rename(root / "val" / "images" / name)
    lines = [f"{name}\t{label}\t0\t0\t8\t8" for name, label in rows]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    for each in ("ant", "cat", "dog"):
        inside = root / "train" / each / "images"
        inside.mkdir()
        for path in list((root / "train" / each).glob("*.png")):
            path.rename(inside / path.name)
        (root / "train" / each / f"{each}_boxes.txt").write_text("")
    dataset = folder.load(str(root))
    assert read(dataset.test) == wanted and len(dataset.train(0)) == 9
