import numpy as np
import pytest
import scipy.io

from jaxkd.core.errors import UserError
from jaxkd.datasets import svhn


def write(path, labels, seed=0, **changes):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (32, 32, 3, len(labels)), np.uint8)
    content = {"X": images, "y": np.asarray(labels, np.uint8)[:, None]} | changes
    scipy.io.savemat(path, content, do_compression=True)
    return images


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "train_32x32.mat", [1, 10, 9, 2])
    write(tmp_path / "test_32x32.mat", [10, 3], seed=1)
    return tmp_path


def test_images_and_labels(root):
    dataset = svhn.read(root, (4, 2))
    train = dataset.train(0)
    assert train.arrays["label"].tolist() == [1, 0, 9, 2]
    assert dataset.test.arrays["label"].tolist() == [0, 3]
    images = write(root / "train_32x32.mat", [1, 10, 9, 2])
    for i in range(4):
        np.testing.assert_array_equal(train[i]["image"], images[..., i])
    wanted = images.astype(float).mean((0, 1, 3)) / 255
    np.testing.assert_allclose(dataset.info.mean, wanted, 1e-12)
    assert dataset.info.num_classes == 10 and dataset.info.class_names[0] == "0"


def test_official_counts_are_wanted(root):
    with pytest.raises(UserError, match=r"X is uint8 .*, expected uint8 .* 73257"):
        svhn.load(str(root))


def test_missing_file(root):
    (root / "test_32x32.mat").unlink()
    with pytest.raises(UserError, match=r"test_32x32.mat does not exist. Download"):
        svhn.read(root, (4, 2))


@pytest.mark.parametrize("kept", [0, 100, 900])
def test_truncated_file(root, kept):
    path = root / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train_32x32.mat .*Download train_32x32"):
        svhn.read(root, (4, 2))


def test_labels_out_of_range(root):
    for labels in ([0, 1, 2, 3], [11, 1, 2, 3]):
        write(root / "train_32x32.mat", labels)
        with pytest.raises(UserError, match=r"image 0 has label \d+, expected 1 to 10"):
            svhn.read(root, (4, 2))


def test_other_variables(root):
    write(root / "train_32x32.mat", [1] * 4, y=np.ones((3, 1), np.uint8))
    with pytest.raises(UserError, match=r"y is \(3, 1\), expected \(4, 1\)"):
        svhn.read(root, (4, 2))
    scipy.io.savemat(root / "train_32x32.mat", {"images": np.zeros(3)})
    with pytest.raises(UserError, match=r"has no variable 'X'"):
        svhn.read(root, (4, 2))
