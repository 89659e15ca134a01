"""Pairs of images and masks: every way in which they come, and every way they fail."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.aot import fake_data
from jaxkd.core.errors import UserError
from jaxkd.datasets import mask_images
from jaxkd.readers.masks import files
from jaxkd.readers.masks import pairs as mask_pairs

SIZE = (48, 56)  # height, width


def picture(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def hole(size=SIZE):
    mask = np.zeros(size, np.uint8)
    mask[10:30, 5:25] = 255
    return mask


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def split(top, masks=("labels", "{}.png"), images="images", count=3, start=0):
    """Writes images ``a0.png`` ... and their masks."""
    for i in range(start, start + count):
        save(top / images / f"a{i}.png", picture(i))
        save(top / masks[0] / masks[1].format(f"a{i}"), hole())
    return top


def names(pairs):
    return [(p.image.name, p.mask and p.mask.name) for p in pairs]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", ("labels", "{}.png")),
        ("images", ("masks", "{}_mask.png")),
        ("images", ("labels", "{}_gt.bmp")),
        ("Tp", ("Gt", "{}_gt.png")),
    ],
)
def test_layouts(tmp_path, images, masks):
    split(tmp_path, masks, images)
    (tmp_path / "edges").mkdir()  # left alone
    save(tmp_path / "authentic" / "b.jpg", picture())
    pairs = mask_pairs.find(tmp_path)
    wanted = [(f"a{i}.png", masks[1].format(f"a{i}")) for i in range(3)]
    assert names(pairs) == [*wanted, ("b.jpg", None)]


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_lists(tmp_path, kind):
    split(tmp_path)
    rows = [["images/a0.png", "labels/a0.png"], ["images/a1.png", None]]
    rows += [["images/a2.png", "Negative"]]
    path = tmp_path / f"train.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["image", "mask"], *rows])
    wanted = [("a0.png", "a0.png"), ("a1.png", None), ("a2.png", None)]
    assert names(mask_pairs.find(path)) == wanted


@pytest.mark.parametrize("more", ["masks", "Tp", "Authentic", "originals"])
def test_folders_that_would_not_be_read_are_refused(tmp_path, more):
    split(tmp_path)
    (tmp_path / "edges").mkdir()
    assert len(mask_pairs.find(tmp_path)) == 3
    save(tmp_path / more / "a.png", picture())
    with pytest.raises(UserError, match=f"nothing is read from: {more}"):
        mask_pairs.find(tmp_path)


def test_lists_name_files_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    image = save(tmp_path / "home" / "a.png", picture())
    (tmp_path / "train.csv").write_text("~/a.png,\n")
    assert mask_pairs.find(tmp_path / "train.csv") == [mask_pairs.Pair(image, None)]
    (tmp_path / "train.csv").write_text(f"~/a.png,{'m' * 300}.png\n")
    with pytest.raises(UserError, match=r"names 1 files that are not there"):
        mask_pairs.find(tmp_path / "train.csv")


def test_all_files_without_partner_are_named_at_once(tmp_path):
    split(tmp_path)
    (tmp_path / "labels" / "a1.png").rename(tmp_path / "labels" / "z1.png")
    (tmp_path / "images" / "a2.png").unlink()
    with pytest.raises(UserError) as error:
        mask_pairs.find(tmp_path)
    text = str(error.value)
    assert "1 images have no mask" in text and "2 masks" in text
    assert "images/a1.png" in text
    assert "labels/z1.png" in text and "labels/a2.png" in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda top: [p.unlink() for p in (top / "labels").iterdir()], "is empty"),
        (lambda top: (top / "labels").rename(top / "gone"), "labels .*missing"),
        (lambda top: (top / "images").rename(top / "gone"), "holds no images"),
        (lambda top: (top / "images" / "notes.txt").write_text("x"), "notes.txt"),
        (lambda top: save(top / "labels" / "a0_gt.png", hole()), "several masks"),
        (lambda top: save(top / "images" / "a0.jpg", picture()), "share a mask"),
    ],
)
def test_bad_folders(tmp_path, spoil, message):
    spoil(split(tmp_path))
    with pytest.raises(UserError, match=message):
        mask_pairs.find(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as a list"),
        ('{"a": 1}', "dict"),
        ("[]", "is empty"),
        ('[["images/a0.png"]]', "entry 1"),
        ('[["images/a0.png", 3]]', "entry 1"),
        ('[["images/a9.png", null]]', "a9.png"),
        ('[["images/a0.png", null], ["images/a0.png", null]]', "more than once"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    split(tmp_path)
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        mask_pairs.find(path)


def read_image(path):
    notes = []
    return files.read_image(path, notes.append), notes


def read_mask(path, **options):
    notes = []
    return files.read_mask(path, notes.append, **options), notes


def test_deep_grey_is_scaled_and_not_cut(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image, notes = read_image(save(tmp_path / "deep.png", ramp))
    wanted = np.round(ramp * (255 / 65535))
    np.testing.assert_array_equal(image.pixels, np.repeat(wanted[..., None], 3, -1))
    assert not notes and len(np.unique(image.pixels)) > 250
    image, notes = read_image(save(tmp_path / "twelve.png", ramp >> 4))
    assert image.pixels.max() == 255 and "at most 4095" in notes[0]


def test_transparency_is_dropped(tmp_path):
    colours = picture()
    alpha = np.full(SIZE, 255, np.uint8)
    constant = np.dstack([colours, alpha])
    image, notes = read_image(save(tmp_path / "a.png", constant))
    np.testing.assert_array_equal(image.pixels, colours)
    assert not notes
    constant[5:9, 5:9, 3] = 0
    image, notes = read_image(save(tmp_path / "b.png", constant))
    np.testing.assert_array_equal(image.pixels, colours)  # not composed
    assert "transparency is dropped" in notes[0]
    grey = Image.merge(
        "LA", [Image.fromarray(colours[..., 0]), Image.new("L", (56, 48))]
    )
    image, _ = read_image(save(tmp_path / "c.png", grey))
    np.testing.assert_array_equal(image.pixels[..., 1], colours[..., 0])


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("L", "png")]
)
def test_other_colours_become_rgb(tmp_path, mode, suffix):
    image = Image.fromarray(picture()).convert(mode)
    decoded, _ = read_image(save(tmp_path / f"x.{suffix}", image))
    assert decoded.pixels.shape == (*SIZE, 3) and decoded.pixels.dtype == np.uint8
    if mode != "CMYK":
        np.testing.assert_array_equal(decoded.pixels, np.array(image.convert("RGB")))


def test_masks_of_every_kind(tmp_path):
    mask = hole()
    grey = Image.fromarray(mask)
    kinds = {
        "grey.png": grey,
        "colour.png": Image.merge("RGB", [grey] * 3),
        "palette.png": grey.convert("P"),
        "bits.png": grey.convert("1"),
        "deep.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "jpeg.jpg": grey,
    }
    for name, image in kinds.items():
        found, notes = read_mask(save(tmp_path / name, image))
        np.testing.assert_array_equal(found, mask, err_msg=name)
        assert not notes


def test_doubtful_masks_are_told(tmp_path):
    found, notes = read_mask(save(tmp_path / "one.png", hole() // 255))
    np.testing.assert_array_equal(found, hole())
    assert "0 and 1" in notes[0]
    found, notes = read_mask(save(tmp_path / "inverted.png", 255 - hole()))
    assert "invert_masks" in notes[0] and (found == 255 - hole()).all()
    found, notes = read_mask(tmp_path / "inverted.png", invert=True)
    np.testing.assert_array_equal(found, hole())
    assert not notes
    _, notes = read_mask(save(tmp_path / "white.png", np.full(SIZE, 255, np.uint8)))
    assert "100% of it is foreground" in notes[0]
    soft = np.full(SIZE, 100, np.uint8)
    with pytest.raises(UserError, match="has the values 100, expected two"):
        read_mask(save(tmp_path / "soft.png", soft))


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize(
    ("ground", "inside"),
    [
        *(((0, 0, 0), RED), ((0, 0, 0), BLUE), (WHITE, RED), (WHITE, BLUE)),
        *(((0,), (2,)), ((0,), (100,)), ((0,), (1,)), ((100,), (101,))),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "palette", "deep"])
def test_two_values_are_a_mask_whatever_they_are(tmp_path, ground, inside, kind):
    values = np.where(hole()[..., None] > 0, inside, ground).astype(np.uint8)
    image = Image.fromarray(values if len(inside) == 3 else values[..., 0])
    if kind == "palette":
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    if kind == "deep" and len(inside) == 1:
        image = Image.fromarray(values[..., 0].astype(np.uint16))
    found, _ = read_mask(save(tmp_path / "m.png", image))
    np.testing.assert_array_equal(found, hole())


def test_a_mask_in_the_transparency(tmp_path):
    layers = np.zeros((*SIZE, 4), np.uint8)
    layers[..., 3] = hole()
    found, notes = read_mask(save(tmp_path / "m.png", layers))
    np.testing.assert_array_equal(found, hole())
    assert "its transparency is the mask" in notes[0]


def test_more_values_have_to_be_named(tmp_path):
    labels = hole() // 255
    labels[40:, 40:] = 2
    path = save(tmp_path / "labels.png", labels)
    with pytest.raises(UserError, match="has the values 0, 1, 2, expected two"):
        read_mask(path)
    for foreground, wanted in (("1", labels == 1), ("1,2", labels > 0)):
        found, _ = read_mask(path, foreground=foreground)
        np.testing.assert_array_equal(found > 0, wanted)
    np.testing.assert_array_equal(
        read_mask(path, foreground="nonzero")[0] > 0, labels > 0
    )
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[labels == 1], colours[labels == 2] = RED, BLUE
    path = save(tmp_path / "colours.png", colours)
    with pytest.raises(UserError, match="#000000, #0000ff, #ff0000"):
        read_mask(path)
    found, _ = read_mask(path, foreground="#0000ff")
    np.testing.assert_array_equal(found > 0, labels == 2)
    with pytest.raises(UserError, match="foreground is 'red', expected"):
        files.check_foreground("red")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_labels_of_sixteen_bits_are_not_joined(tmp_path, suffix):
    inside = hole() > 0
    labels = np.where(inside, 300, 0).astype(np.uint16)
    path = save(tmp_path / f"m.{suffix}", labels)
    np.testing.assert_array_equal(read_mask(path)[0] > 0, inside)
    labels[0, 0] = 1  # 0 as well, of 8 bits
    save(path, labels)
    with pytest.raises(UserError, match="values 0, 1, 300, expected two"):
        read_mask(path)
    for foreground, wanted in (("nonzero", labels > 0), ("300", inside)):
        found, _ = read_mask(path, foreground=foreground)
        np.testing.assert_array_equal(found > 0, wanted)


def test_a_third_value_is_a_label_and_no_soft_edge(tmp_path):
    mask = hole()
    mask[0, 0] = 128
    with pytest.raises(UserError, match="values 0, 128, 255, expected two"):
        read_mask(save(tmp_path / "m.png", mask))
    assert read_mask(tmp_path / "m.png", foreground="bright")[0][0, 0] == 255


def test_further_pictures_in_a_file_are_told(tmp_path):
    first, second = (Image.fromarray(each) for each in (hole(), 255 - hole()))
    path = tmp_path / "m.tif"
    first.save(path, save_all=True, append_images=[second])
    found, notes = read_mask(path)
    np.testing.assert_array_equal(found, hole())
    assert "holds 2 pictures, of which the first is read" in notes[0]


def test_empty_masks_are_refused(tmp_path, capsys):
    for name in ("train", "val"):
        split(tmp_path / name, count=2, start=10 * (name == "val"))
    save(tmp_path / "train" / "labels" / "a1.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError, match=r"a1\.png: nothing in it is foreground"):
        mask_images.load(str(tmp_path), size=32)
    dataset = mask_images.load(str(tmp_path), size=32, empty_masks="authentic")
    assert [int(dataset.train(0)[i]["label"]) for i in (0, 1)] == [1, 0]
    assert "taken for authentic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "mask", "endings"),
    [
        ("a", "a_edgemask", ("_edgemask",)),
        ("a", "a-mask", ("-mask",)),
        ("1t", "1forged", ("t", "forged")),
    ],
)
def test_endings_of_masks(tmp_path, image, mask, endings):
    save(tmp_path / "images" / f"{image}.png", picture())
    save(tmp_path / "masks" / f"{mask}.png", hole())
    pairs = mask_pairs.find(tmp_path, endings)
    assert names(pairs) == [(f"{image}.png", f"{mask}.png")]
    with pytest.raises(UserError, match="have no mask"):
        mask_pairs.find(tmp_path)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(2, 9))
def test_masks_in_either_frame(tmp_path, orientation):
    """A mask fits the image as it is shown, or as it is stored where only that fits."""
    bright = np.full((*SIZE, 3), 30, np.uint8)
    bright[hole() > 0] = 220
    path = save(tmp_path / "x.png", bright, exif=exif(orientation))
    image, _ = read_image(path)
    assert image.orientation == orientation and image.stored == SIZE
    notes = []
    shown = (image.pixels[..., 0] > 128).astype(np.uint8) * 255
    fitted = files.fit_mask(shown, image, "x", notes.append)
    np.testing.assert_array_equal(fitted, shown)
    if orientation >= 5:  # the sizes tell the frames apart
        assert not notes
        fitted = files.fit_mask(hole(), image, "x", notes.append)
        np.testing.assert_array_equal(fitted, shown)
        assert "turned" in notes[0]
    else:
        assert "as it is shown" in notes[0]


def test_masks_of_another_size(tmp_path):
    image, _ = read_image(save(tmp_path / "x.png", picture()))
    with pytest.raises(UserError, match=r"image is 56x48 pixels, the mask 28x24"):
        files.fit_mask(hole((24, 28)), image, "x", print)
    with pytest.raises(UserError, match="turned on its side"):
        files.fit_mask(hole().T, image, "x", print)
    small = np.zeros((24, 28), np.uint8)
    small[:12] = 255
    fitted = files.fit_mask(small, image, "x", print, resize="nearest")
    np.testing.assert_array_equal(fitted, np.repeat(np.repeat(small, 2, 0), 2, 1))


def damaged(tmp_path):
    whole = save(tmp_path / "whole.png", picture()).read_bytes()
    photo = save(tmp_path / "whole.jpg", picture()).read_bytes()
    return {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": photo[: len(photo) // 2],
        "empty.png": b"",
        "text.png": b"no image at all",
    }


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "empty.png", "text.png"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(damaged(tmp_path)[name])
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            read(path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "large.png", picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="cannot be read"):
        read_image(path)


@pytest.fixture
def root(tmp_path):
    split(tmp_path / "train", count=4)
    split(tmp_path / "val", start=10, count=2)
    return tmp_path


def test_loading(root, capsys):
    save(root / "train" / "authentic" / "b.png", picture(9))
    dataset = mask_images.load(str(root), size=32)
    assert (len(dataset.train(0)), len(dataset.test)) == (5, 2)
    assert "5 images, 1 of them authentic; 0 bad" in capsys.readouterr().err
    example = dataset.prepare_train(dataset.train(0)[0], np.random.default_rng(0))
    for name, field in dataset.example(dataset.train(0)).items():
        assert example[name].shape == field.shape and example[name].dtype == field.dtype
    middle = dataset.prepare_test(dataset.test[0])
    np.testing.assert_array_equal(middle["target_mask"], hole()[8:40, 12:44])
    np.testing.assert_array_equal(middle["image"], picture(10)[8:40, 12:44])
    assert dataset.train(0)[4]["label"] == 0 and dataset.train(0)[0]["label"] == 1


def test_the_outline_is_like_the_data(root):
    real, known = (
        mask_images.load(str(root), size=32),
        fake_data.make("mask_images", size=32),
    )
    assert known.info.image_shape == real.info.image_shape
    assert known.example(known.train(0)) == real.example(real.train(0))


def test_crops_hold_what_they_say(root):
    dataset = mask_images.load(str(root), size=16)
    example = dataset.train(0)[0]
    labels = []
    for seed in range(40):
        crop = dataset.prepare_train(example, np.random.default_rng(seed))
        assert crop["label"] == (crop["target_mask"].max() > 0)
        places = np.lib.stride_tricks.sliding_window_view(example["image"], (16, 16, 3))
        assert (places == crop["image"]).all((3, 4, 5)).any()
        labels.append(int(crop["label"]))
    assert 0 < sum(labels) < 40


def test_small_images_are_mirrored(root):
    dataset = mask_images.load(str(root), size=64)
    crop = dataset.prepare_test(dataset.test[0])
    np.testing.assert_array_equal(crop["image"][:48, :56], picture(10))
    np.testing.assert_array_equal(crop["image"][48:, :56], picture(10)[:31:-1])


def test_squeezing_is_that_of_the_official_code(root):
    dataset = mask_images.load(str(root), size=24, fit="resize")
    crop = dataset.prepare_test(dataset.test[0])
    wanted = Image.fromarray(hole()).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(crop["target_mask"], np.array(wanted))


def test_bad_files_end_a_run_or_are_left_out(root, capsys):
    save(root / "train" / "labels" / "a1.png", hole((40, 40)))
    (root / "train" / "images" / "a2.png").write_bytes(b"")
    with pytest.raises(UserError, match="2 bad images") as error:
        mask_images.load(str(root), size=32)
    assert "a1.png" in str(error.value) and "a2.png" in str(error.value)
    dataset = mask_images.load(str(root), size=32, strict=False)
    assert len(dataset.train(0)) == 2
    assert capsys.readouterr().err.count("bad: ") == 4
    resized = mask_images.load(str(root), size=32, strict=False, resize_masks="nearest")
    assert len(resized.train(0)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 30}, "multiple of 8"),
        ({"fit": "stretch"}, "expected one of"),
        ({"resize_masks": "cubic"}, "expected one of"),
        ({"test_split": "other"}, "has no other"),
    ],
)
def test_impossible_options(root, options, message):
    with pytest.raises(UserError, match=message):
        mask_images.load(str(root), **{"size": 32, **options})


def test_images_of_both_splits_are_refused(root):
    rows = json.dumps([["train/images/a0.png", None]])
    (root / "test.json").write_text(rows)
    with pytest.raises(UserError, match="for training and for testing"):
        mask_images.load(str(root), size=32, test_split="test")


def test_a_folder_is_checked_by_one_command(root, capsys):
    assert mask_images.main([str(root)]) == 0
    assert "4 images" in capsys.readouterr().out
    (root / "val" / "images" / "a10.png").write_bytes(b"x")
    assert mask_images.main([str(root)]) == 2
    assert "a10.png cannot be read" in capsys.readouterr().out
    assert mask_images.main([str(root / "nothing")]) == 2
