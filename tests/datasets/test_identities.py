"""Folders of identities and LFW's pairs, and what can be wrong with them."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import identities, lfw
from jaxkd.readers.identity_pairs import draw_pairs, pairs_of
from tests.datasets.recognition_files import first_pixel, save_image, write_identities

COUNTS = {"ann": 5, "bob": 10, "cid": 5, "dot": 4}


@pytest.fixture
def root(tmp_path):
    return write_identities(tmp_path / "people", COUNTS)


def everything(source):
    return {first_pixel(source, i): int(source[i]["label"]) for i in range(len(source))}


def test_split_of_images(root):
    dataset = identities.load(str(root), size=8)
    train, test = everything(dataset.train(0)), everything(dataset.test)
    assert not set(train) & set(test) and len(train) + len(test) == 24
    truth = np.repeat(range(4), list(COUNTS.values()))
    assert all(truth[value] == label for value, label in (train | test).items())
    assert np.bincount(list(test.values())).tolist() == [1, 2, 1, 1]
    again = identities.load(str(root), size=8)
    other = identities.load(str(root), size=8, seed=1)
    assert everything(again.test) == test != everything(other.test)
    assert dataset.info.class_names == ("ann", "bob", "cid", "dot")
    assert dataset.prepare_test(dataset.test[0])["image"].shape == (8, 8, 3)


def test_split_of_identities(root):
    dataset = identities.load(
        str(root), size=8, split="identities", test_share=0.5, pairs=4, folds=1
    )
    train, test = everything(dataset.train(0)), everything(dataset.test)
    assert len(set(train.values())) == len(set(test.values())) == 2
    assert not set(train.values()) & set(test.values())
    pairs = pairs_of(dataset.test)
    labels = dataset.test.labels
    np.testing.assert_array_equal(
        labels[pairs.first] == labels[pairs.second], [1, 1, 0, 0]
    )
    assert pairs_of(dataset.train(0)) is None


def test_identities_with_the_most_images(root):
    dataset = identities.load(str(root), size=8, top=2)
    assert dataset.info.class_names == ("ann", "bob")  # before cid, by name


def test_identity_with_one_image(root):
    write_identities(root, {"eve": 1})
    with pytest.raises(
        UserError, match=r"eve has 1 image\(s\), expected at least 2 .*1 h"
    ):
        identities.load(str(root), size=8)
    dataset = identities.load(str(root), size=8, leave_out_small=True)
    assert "eve" not in dataset.info.class_names
    assert identities.load(str(root), size=8, top=4).info.num_classes == 4


def test_small_image(root):
    save_image(root / "ann" / "0.png", 0, (7, 12))
    dataset = identities.load(str(root), size=8, split="identities", test_share=0.1)
    sources = dataset.train(0), dataset.test
    with pytest.raises(
        UserError, match=r"0.png has 7 x 12 pixels, expected at least 8"
    ):
        [everything(source) for source in sources]
    dataset = identities.load(str(root), size=8, enlarge=True)
    [everything(source) for source in (dataset.train(0), dataset.test)]


def test_truncated_image(root):
    path = root / "ann" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    dataset = identities.load(str(root), size=8)
    with pytest.raises(
        UserError, match=r"1.png cannot be read as an image.*Replace or remove it"
    ):
        [everything(source) for source in (dataset.train(0), dataset.test)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 9}, "top is 9, expected 2 to 4"),
        ({"test_share": 1.0}, "test_share is 1.0, expected between 0 and 1"),
        ({"min_images": 1}, "min_images is 1, expected at least 2"),
        ({"pairs": 10}, "goes with split='identities'"),
        ({"split": "faces"}, "split is 'faces', expected one of images, identities"),
    ],
)
def test_wrong_options(root, options, message):
    with pytest.raises(UserError, match=message):
        identities.load(str(root), **options)


def test_wrong_folders(root, tmp_path):
    (root / "bob" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes.txt is not an image by its name"):
        identities.load(str(root))
    (root / "bob" / "notes.txt").rename(root / "notes.txt")
    with pytest.raises(UserError, match=r"notes.txt is not a folder. Expected"):
        identities.load(str(root))
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        identities.load(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is empty"):
        identities.load(str(tmp_path / "empty"))


def test_drawn_pairs_are_balanced_distinct_and_share_no_identity():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 6))
    pairs = draw_pairs(labels, 200, 10, seed=3)
    first, second = labels[pairs.first], labels[pairs.second]
    np.testing.assert_array_equal(first == second, pairs.same)
    assert len({*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}) == 200
    assert all(pairs.first < pairs.second)
    people = []
    for fold in range(10):
        part = pairs.fold == fold
        assert (part.sum(), pairs.same[part].sum()) == (20, 10)
        people.append(set(first[part]) | set(second[part]))
    assert all(not a & b for i, a in enumerate(people) for b in people[:i])


@pytest.mark.parametrize(
    ("count", "folds", "message"),
    [
        (30, 10, "30 pairs were asked for, expected a positive multiple of 20"),
        (40, 20, "20 identities for 20 folds, expected at least 40"),
        (2000, 10, "Fold 0 has only 30 pairs of one identity, expected 100"),
    ],
)
def test_too_few_for_pairs(count, folds, message):
    with pytest.raises(UserError, match=message):
        draw_pairs(np.repeat(np.arange(20), 6), count, folds, 0)


@pytest.fixture
def wild(tmp_path):
    """Two folds of two pairs of each kind."""
    write_identities(tmp_path / "train", {"x": 3, "y": 2})
    value = 100
    for name, count in {"Ann_A": 3, "Bob_B": 2, "J._K._C": 2, "Dot_D": 2}.items():
        for i in range(1, count + 1):
            save_image(tmp_path / "lfw" / name / f"{name}_{i:04d}.jpg", value)
            value += 10
    lines = [
        "2\t2",
        *("Ann_A\t1\t3", "Bob_B\t1\t2", "Ann_A\t2\tDot_D\t1", "Ann_A\t1\tBob_B\t1"),
        *("J._K._C\t1\t2", "Dot_D\t1\t2", "Bob_B\t2\tDot_D\t2", "Ann_A\t1\tDot_D\t1"),
    ]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def load_wild(root, **options):
    return lfw.load(str(root), **({"train": str(root / "train"), "size": 8} | options))


def test_pairs_of_lfw(wild):
    dataset = load_wild(wild)
    pairs, test = pairs_of(dataset.test), dataset.test
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4
    values = [
        (first_pixel(test, i), first_pixel(test, j))
        for i, j in zip(pairs.first, pairs.second, strict=True)
    ]
    wanted = [(100, 120), (130, 140), (110, 170), (100, 130)]
    wanted += [(150, 160), (170, 180), (140, 180), (100, 170)]
    np.testing.assert_allclose(values, wanted, atol=2)  # JPEG
    names = [dataset.info.class_names[label] for label in test.labels]
    assert names[0] == "lfw/Ann_A" and dataset.info.num_classes == 6
    assert dataset.train(0).labels.tolist() == [0, 0, 0, 1, 1]


def test_missing_image_of_a_pair(wild):
    (wild / "lfw" / "J._K._C" / "J._K._C_0002.jpg").unlink()
    with pytest.raises(UserError, match=r"pairs.txt names 1 image.*J._K._C_0002.jpg"):
        load_wild(wild)


def test_pairs_file_of_another_form(wild):
    path = wild / "pairs.txt"
    text = path.read_text()
    path.write_text(text.replace("Bob_B\t1\t2", "Bob_B\t1\ttwo"))
    with pytest.raises(UserError, match=r"pairs.txt, line 3, is .*expected 'name i j'"):
        load_wild(wild)
    path.write_text(text.replace("Ann_A\t2\tDot_D\t1", "Ann_A\t2\t1"))
    with pytest.raises(UserError, match=r"line 4, is .*expected 'name1 i name2 j'"):
        load_wild(wild)
    path.write_text(text.rsplit("\n", 2)[0])
    with pytest.raises(UserError, match=r"has 7 pairs, expected 8: 2 folds of 2 pairs"):
        load_wild(wild)
    path.write_text("ten\n")
    with pytest.raises(
        UserError, match=r"line 1, is 'ten', expected the numbers of fo"
    ):
        load_wild(wild)
    path.unlink()
    with pytest.raises(UserError, match=r"pairs.txt does not exist"):
        load_wild(wild)


def test_people_of_the_test_in_the_training(wild):
    write_identities(wild / "train", {"Bob_B": 2})
    with pytest.raises(UserError, match=r"has 1 people of LFW's pairs, such as Bob_B"):
        load_wild(wild)
    assert len(load_wild(wild, overlap="drop").train(0)) == 5


def test_no_training_images(wild):
    with pytest.raises(UserError, match=r"LFW is a test and has no training images"):
        load_wild(wild, train="")


def test_pairs_as_other_programs_save_them(wild):
    """With a byte order mark, and images that end in .jpeg."""
    path = wild / "pairs.txt"
    wanted = load_wild(wild).test.pairs
    path.write_text(path.read_text(), encoding="utf-8-sig")
    image = wild / "lfw" / "J._K._C" / "J._K._C_0002.jpg"
    image.rename(image.with_name("J._K._C_0002.jpeg"))
    np.testing.assert_array_equal(load_wild(wild).test.pairs.first, wanted.first)
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text.replace("Ann_A\t2\tDot_D\t1", "Ann_A\t2\tAnn_A\t1"))
    with pytest.raises(UserError, match="a pair of two people names 'Ann_A' twice"):
        load_wild(wild)
    path.write_text(text.replace("Ann_A\t2\tDot_D\t1", f"{'A' * 300}\t2\tDot_D\t1"))
    with pytest.raises(UserError, match="image\\(s\\) that are not there"):
        load_wild(wild)
    name, first, _ = text.splitlines()[1].split()
    path.write_text(text.replace(text.splitlines()[1], f"{name}\t{first}\t{first}"))
    with pytest.raises(UserError, match=f"image {first} of '{name}' twice"):
        load_wild(wild)
