"""The official layouts of CUB-200-2011 and Cars196, written small."""

import numpy as np
import pytest
import scipy.io

from jaxkd.core.errors import UserError
from jaxkd.datasets import cars196, cub
from tests.datasets.recognition_files import first_pixel, save_image


@pytest.fixture
def birds(tmp_path):
    """One image of each kind, its number modulo 3 deciding the official split."""
    top = tmp_path / "CUB_200_2011"
    names, labels, flags = [], [], []
    for kind in range(1, 201):
        file = f"{kind:03d}.Bird/{kind}.png"
        save_image(top / "images" / file, kind)
        names.append(f"{kind} {file}")
        labels.append(f"{kind} {kind}")
        flags.append(f"{kind} {int(kind % 3 == 0)}")
    kinds = [f"{kind} {kind:03d}.Bird" for kind in range(1, 201)]
    for name, lines in (
        ("images", names),
        ("image_class_labels", labels),
        ("train_test_split", flags),
        ("classes", kinds),
    ):
        (top / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def cars(tmp_path):
    dtype = [("relative_im_path", "O"), ("class", "O"), ("test", "O")]
    rows = np.empty((1, 196), dtype)
    for kind in range(1, 197):
        file = f"car_ims/{kind:06d}.png"
        save_image(tmp_path / file, kind)
        rows[0, kind - 1] = (file, np.uint8(kind), np.uint8(kind % 4 == 0))
    names = np.array([[f"car {kind}" for kind in range(1, 197)]], object)
    scipy.io.savemat(
        tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names}
    )
    return tmp_path


def kinds(source):
    """Reads the kinds, counted from 1, from the labels; the pixels must agree."""
    places = range(0, len(source), 17)
    assert [first_pixel(source, i) for i in places] == [
        int(source[i]["label"]) + 1 for i in places
    ]
    return (source.labels + 1).tolist()


def test_splits_of_birds(birds):
    dataset = cub.load(str(birds))
    assert kinds(dataset.train(0)) == list(range(3, 201, 3))
    assert kinds(dataset.test) == [kind for kind in range(1, 201) if kind % 3]
    dataset = cub.load(str(birds), split="metric")
    assert kinds(dataset.train(0)) == list(range(1, 101))
    assert kinds(dataset.test) == list(range(101, 201))
    dataset = cub.load(str(birds), split="metric_validation")
    assert kinds(dataset.train(0)) == list(range(1, 81))
    assert kinds(dataset.test) == list(range(81, 101))
    assert dataset.info.num_classes == 200
    assert dataset.info.class_names[0] == "001.Bird"


def test_splits_of_cars(cars):
    dataset = cars196.load(str(cars))
    assert kinds(dataset.test) == list(range(4, 197, 4))
    assert len(dataset.train(0)) == 147
    dataset = cars196.load(str(cars), split="metric")
    assert kinds(dataset.train(0)) == list(range(1, 99))
    assert kinds(dataset.test) == list(range(99, 197))
    assert dataset.info.class_names[195] == "car 196"


def test_prepared_size(birds):
    dataset = cub.load(str(birds), size=28)
    example = dataset.train(0)[0]
    assert dataset.prepare_test(example)["image"].shape == (28, 28, 3)
    prepared = dataset.prepare_train(example, np.random.default_rng(0))
    assert prepared["image"].shape == (28, 28, 3)


def test_missing_bird(birds):
    (birds / "CUB_200_2011" / "images" / "007.Bird" / "7.png").unlink()
    with pytest.raises(UserError, match=r"images.txt names 1 image.*first is .*7.png"):
        cub.load(str(birds))


def test_lists_of_birds_that_contradict(birds):
    path = birds / "CUB_200_2011" / "train_test_split.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"train_test_split.txt describes 199 images"):
        cub.load(str(birds))
    path.write_text("1 1\n2 one\n")
    with pytest.raises(UserError, match=r"line 2, is '2 one', expected a number and"):
        cub.load(str(birds))
    path.unlink()
    with pytest.raises(UserError, match=r"train_test_split.txt does not exist"):
        cub.load(str(birds))


def test_bird_out_of_range(birds):
    path = birds / "CUB_200_2011" / "image_class_labels.txt"
    path.write_text(path.read_text().replace("200 200", "200 201"))
    with pytest.raises(UserError, match=r"image 200 has class 201, expected 1 to 200"):
        cub.load(str(birds))


def test_missing_and_damaged_cars(cars):
    (cars / "car_ims" / "000009.png").unlink()
    with pytest.raises(UserError, match=r"cars_annos.mat names 1 image.*000009.png"):
        cars196.load(str(cars))
    path = cars / "cars_annos.mat"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cannot be read as a MATLAB file"):
        cars196.load(str(cars))
    path.unlink()
    with pytest.raises(UserError, match=r"cars_annos.mat does not exist"):
        cars196.load(str(cars))
    scipy.io.savemat(path, {"annotations": np.zeros(2), "class_names": np.zeros(2)})
    with pytest.raises(UserError, match=r"the annotations have the fields none"):
        cars196.load(str(cars))


def test_unknown_split(birds):
    with pytest.raises(UserError, match=r"split is 'retrieval', expected one of"):
        cub.load(str(birds), split="retrieval")
