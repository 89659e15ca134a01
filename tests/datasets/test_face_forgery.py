"""Faces from folders and lists, and drawn ones: what is read, warned of and refused."""

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import face_forgery, forged_faces
from jaxkd.drawing import films
from jaxkd.readers.face_alignment import TEMPLATE, Faces

AGE = "110000100001"


def save(path, mode="RGB", size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color=100 if mode in ("L", "I;16") else None).save(path)


def test_pictures_of_every_kind_from_the_official_folders(tmp_path):
    save(tmp_path / "Train/Real/AVSpeech/v1/0001.png", "L")
    save(tmp_path / "Train/diffae-age/v2_1.png", "RGBA", (33, 20))
    save(tmp_path / "Train/fsgan/v3/1.png", "I;16")
    save(tmp_path / "Train/fsgan/v3/2.jpg", "CMYK")
    save(tmp_path / "Test/Real/v4/1.png")
    save(tmp_path / "Test/Protocol-1/InfoSwap/v5/1.png")
    data = face_forgery.load(str(tmp_path), size=16)
    train, test = data.train(0), data.test
    assert (len(train), len(test)) == (4, 2)
    # The most frequent method of training first, those of the test alone last.
    assert test.names == ("real", "fsgan", "diffae-age", "InfoSwap")
    assert test.trained == 3
    assert sorted(test.keys) == [("InfoSwap", "v5"), ("real", "v4")]
    shapes = data.example(train)
    rng = np.random.default_rng(0)
    for place in range(4):
        example = data.prepare_train(train[place], rng)
        for name, shape in shapes.items():
            assert example[name].shape == shape.shape
            assert example[name].dtype == shape.dtype
    labels = {train.rows[i].method: train[i] for i in range(4)}
    assert "".join(map(str, labels["diffae-age"]["code"])) == AGE
    assert [int(labels[n]["manipulation"]) for n in train.names[:3]] == [0, 1, 2]
    assert int(labels["fsgan"]["label"]) == 1
    assert data.info.class_names[0] == "fake"


def test_frames_of_films_train_and_test_beside_images(tmp_path, capsys):
    pytest.importorskip("av")
    shades = np.linspace(20, 240, 40).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-15, 16, (40, 48, 64, 3))
    frames = (shades[:, None, None, None] + noise).astype(np.uint8)
    for split in ("train", "test"):
        save(tmp_path / split / "Real/v0/1.png")
        for method in ("fsgan", "simswap"):  # two methods, one name
            (tmp_path / split / method).mkdir()
            films.write(tmp_path / split / method / "v_1.mp4", frames, faststart=True)
    cut = tmp_path / "train/fsgan/v_1.mp4"
    cut.write_bytes(cut.read_bytes()[: -len(cut.read_bytes()) // 3])
    options = {"frames": 5, "cache": str(tmp_path / "cache")}
    data = face_forgery.load(str(tmp_path), size=16, **options)
    train, test = data.train(0), data.test
    assert len(test) == 1 + 2 * 5
    rows = [i for i, key in enumerate(test.keys) if key == ("fsgan", "v_1")]
    seen = [test[i]["image"] for i in rows]
    assert all(image.shape == (16, 16, 3) for image in seen)
    expected = shades[[0, 9, 19, 29, 39]].astype(int)
    np.testing.assert_allclose([image.mean() for image in seen], expected, atol=6)
    assert [int(test[i]["label"]) for i in rows] == [1] * 5
    assert len({key for key in test.keys if key[0] != "real"}) == 2
    # Kept on disk: what was decoded is not decoded again.
    kept = sorted((tmp_path / "cache").glob("*.npy"))
    assert len(kept) == 1
    again = face_forgery.load(str(tmp_path), size=16, **options).test
    np.testing.assert_array_equal(again[rows[3]]["image"], seen[3])
    kept[0].write_bytes(kept[0].read_bytes()[:40])  # a damaged one is made anew
    np.testing.assert_array_equal(again[rows[3]]["image"], seen[3])
    # Of a cut film, what is there is spread over its rows.
    assert "damaged" not in capsys.readouterr().err
    rows = [i for i, row in enumerate(train.rows) if row.method == "fsgan"]
    means = [float(train[i]["image"].mean()) for i in rows]
    assert len(means) == 5 and means == sorted(means)
    assert means[0] < 30 and 100 < means[-1] < 210
    assert "v_1.mp4 is damaged; 5 frames" in capsys.readouterr().err


def test_faces_are_found_in_films_if_there_is_a_model(tmp_path, monkeypatch):
    pytest.importorskip("av")
    frames = np.zeros((6, 96, 96, 3), np.uint8)
    frames[2:, 30:66, 30:66] = 200  # a face that comes late
    for split in ("train", "test"):
        (tmp_path / split / "Real").mkdir(parents=True)
        films.write(tmp_path / split / "Real/v.mp4", frames, faststart=True)
    where = np.array([[30.0, 30.0, 36.0, 36.0]])
    points = (TEMPLATE - 56) * 36 / 112 / 1.4 + 48

    def find(image):
        count = int(image.max() > 100)
        return Faces(where[:count], points[None][:count])

    asked = []
    monkeypatch.setattr(
        face_forgery.face_alignment, "yunet", lambda model: asked.append(model) or find
    )
    options = {"frames": 3, "cache": str(tmp_path / "cache"), "size": 16}
    data = face_forgery.load(str(tmp_path), face_model="model.onnx", **options)
    means = [data.test[i]["image"].mean() for i in range(3)]
    assert min(means) > 150 and str(asked[0]) == "model.onnx"
    plain = face_forgery.load(str(tmp_path), **options)  # kept apart
    assert plain.test[0]["image"].max() < 20 and plain.test[2]["image"].mean() < 60
    monkeypatch.setattr(face_forgery, "VERSION", 0)  # nothing is kept of it
    monkeypatch.setattr(
        face_forgery.face_alignment, "largest", lambda image, find: (None, 0, 0.0)
    )
    with pytest.raises(UserError, match=r"v\.mp4: no face was found"):
        data.test[0]


def test_a_file_that_is_no_film_is_named(tmp_path):
    pytest.importorskip("av")
    for split in ("train", "test"):
        save(tmp_path / split / "Real/1.png")
    (tmp_path / "train/Real/2.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"2\.mp4 cannot be read as a film"):
        face_forgery.load(str(tmp_path), size=16)


def test_a_csv_with_quoted_names_of_columns_is_no_list(tmp_path):
    save(tmp_path / "a.png")
    path = tmp_path / "labels.csv"
    path.write_text('"Path","Fake"\n"a.png","1"\n')
    (row,) = face_forgery.read(path, face_forgery.GRAPHS["ffsc"](), {})
    assert row.path == tmp_path / "a.png" and row.code[0] == 1


def test_lists_say_which_images_are_missing_and_shared(tmp_path, capsys):
    save(tmp_path / "real/1.png")
    save(tmp_path / "mine/2.png")
    (tmp_path / "train.txt").write_text(f"real/1.png {'0' * 12}\nmine/2.png {AGE}\n")
    (tmp_path / "test.csv").write_text("path,fake,age\nreal/1.png,0,\nmine/2.png,1,1\n")
    data = face_forgery.load(str(tmp_path), size=16)
    assert data.test[1]["code"].tolist() == [1, 1, *[2] * 10]
    assert "2 files are for training and for testing" in capsys.readouterr().err
    (tmp_path / "mine/2.png").unlink()
    with pytest.raises(UserError, match="names 1 files that are not there"):
        face_forgery.load(str(tmp_path), size=16)


def test_a_truncated_image_is_named(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "Real/1.png")
        save(tmp_path / split / "fsgan/2.png")
    path = tmp_path / "train/fsgan/2.png"
    path.write_bytes(path.read_bytes()[:40])
    data = face_forgery.load(str(tmp_path), size=16)
    rows = [row.path.name for row in data.test.rows]
    with pytest.raises(UserError, match=r"2\.png cannot be read as an image"):
        data.train(0)[rows.index("2.png")]


def test_a_missing_split_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"expected a folder with one of train, Train"):
        face_forgery.load(str(tmp_path))
    with pytest.raises(UserError, match=r"nothing does not exist"):
        face_forgery.load(train=str(tmp_path / "nothing"))


def test_the_rarest_methods_share_the_last_class(tmp_path, capsys):
    lines = [f"m{i}/{i}.png {AGE}" for i in range(13)] + [f"r/r.png {'0' * 12}"]
    for line in lines:
        save(tmp_path / line.split()[0], size=(4, 4))
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    data = face_forgery.load(str(tmp_path), size=4)
    classes = [int(data.test[i]["manipulation"]) for i in range(14)]
    assert max(classes) == 11 and classes.count(11) == 3 and classes.count(0) == 1
    assert "the 3 rarest of 13 methods" in capsys.readouterr().err


def test_drawn_faces_keep_methods_for_the_test():
    data = forged_faces.load(size=16, train=100, test=2, weak=0.2, filtered=0.4)
    train, test = data.train(1).arrays, data.test.arrays
    assert set(train["manipulation"].tolist()) <= set(range(4))
    assert data.test.names[4:] == ("sharpen", "tone", "denoise")
    assert data.test.trained == 4
    assert train["label"].sum() == 50
    counts = np.bincount(test["manipulation"])
    assert counts.tolist() == [30, *[10] * 6]
    np.testing.assert_array_equal(test["label"], test["code"][:, 0])
    assert not test["code"][test["label"] == 0].any()
    # Two of the training methods forge each attribute.
    for attribute in range(5):
        used = train["manipulation"][train["attribute"] == attribute]
        assert len(set(used.tolist())) == 2
    again = forged_faces.load(size=16, train=100, test=2, weak=0.2, filtered=0.4)
    np.testing.assert_array_equal(again.test.arrays["image"], test["image"])
    other = forged_faces.load(
        size=16, train=100, test=2, weak=0.2, filtered=0.4, evaluate_on="validation"
    )
    assert np.any(other.test.arrays["image"] != test["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size is 15"),
        ({"train": 1}, "train is 1"),
        ({"train_methods": ("blur", "magic")}, "expected at least two of"),
        ({"weak": 0.7, "filtered": 0.5}, "expected parts"),
        ({"evaluate_on": "train"}, "expected test or validation"),
    ],
)
def test_options_of_drawn_faces(options, message):
    with pytest.raises(UserError, match=message):
        forged_faces.load(**options)
