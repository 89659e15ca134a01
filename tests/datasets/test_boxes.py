"""COCO annotations: what is read, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import boxes, detection_scenes

IMAGES = [{"id": 7, "file_name": "a.png", "width": 40, "height": 21}]
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]


def annotation(box=(4, 2, 20, 10), image=7, label=9, **more):
    return {"id": 1, "image_id": image, "category_id": label, "bbox": list(box)} | more


def write(root, annotations, images=IMAGES, categories=CATEGORIES):
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (21, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        (root / "annotations").mkdir(exist_ok=True)
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path = root / f"annotations/instances_{split}2017.json"
        path.write_text(json.dumps(content))
    return str(root)


def test_images_and_boxes_are_fitted_into_a_square(tmp_path):
    rows = [annotation(), annotation((0, 0, 40, 21), label=3), annotation(iscrowd=1)]
    data = boxes.load(write(tmp_path, rows), size=20, most=3)
    assert data.info.class_names == ("cat", "dog")  # by their id
    found = data.prepare_test(data.test[0])
    assert found["image"].shape == (20, 20, 3)
    np.testing.assert_array_equal(found["classes"], [1, 0, -3])  # a crowd of dogs
    learnt = data.prepare_train(data.train(0)[0], np.random.default_rng(0))
    np.testing.assert_array_equal(learnt["classes"], [1, 0, -1])
    np.testing.assert_allclose(
        found["boxes"][0], np.array([4, 2, 24, 12]) / 2, atol=0.6
    )
    np.testing.assert_allclose(found["boxes"][1], [0, 0, 20, 10], atol=1e-4)
    assert (found["image"][10:] == found["image"][-1, -1]).all()  # an odd side: padded
    assert {k: v.shape for k, v in data.fields.items()} == {
        k: v.shape for k, v in found.items()
    }


def test_images_without_objects_are_kept(tmp_path):
    data = boxes.load(write(tmp_path, []), size=20, most=2)
    found = data.prepare_test(data.test[0])
    assert len(data.test) == 1 and (found["classes"] == -1).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (annotation((30, 2, 20, 10)), r"leaves its image of 40 x 21 pixels by 10"),
        (annotation((4, 2, 0, 10)), "expected .*with a positive size"),
        (annotation(label=8), "has class 8, expected one of the ids 3, 9"),
        (annotation(image=8), "is of image 8, which the file does not list"),
    ],
)
def test_bad_annotations(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        boxes.load(write(tmp_path, [annotation(), row]))


def test_bad_files(tmp_path):
    root = write(tmp_path, [annotation()] * 3)
    with pytest.raises(UserError, match="1 images have more than 2 objects, up to 3"):
        boxes.load(root, most=2)
    with pytest.raises(UserError, match="names no image"):
        boxes.load(write(tmp_path, [], images=[]))
    (tmp_path / "annotations/instances_train2017.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a COCO annotation file"):
        boxes.load(root)
    gone = [*IMAGES, IMAGES[0] | {"id": 8, "file_name": "gone.png"}]
    with pytest.raises(UserError, match=r"1 of 2 images .* such as .*gone\.png"):
        boxes.load(write(tmp_path, [], images=gone))
    wrong = [IMAGES[0] | {"width": 41}]
    data = boxes.load(write(tmp_path, [], images=wrong))
    with pytest.raises(UserError, match="Boxes would be misplaced"):
        data.test[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": IMAGES * 2}, "has the image id 7 more than once"),
        ({"categories": CATEGORIES * 2}, "has the class id 3 more than once"),
        ({"categories": [CATEGORIES[0], CATEGORIES[0] | {"id": 4}]}, "name 'dog' more"),
        ({"categories": []}, "names no class"),
        ({"annotations": [annotation((0, 0, 10**400, 1))]}, "too large"),
    ],
)
def test_files_that_could_be_read_in_two_ways(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        boxes.load(write(tmp_path, **{"annotations": []} | content))


def test_drawn_scenes_have_tight_boxes():
    data = detection_scenes.load(side=64, train=6, test=2, most=3)
    arrays = data.train(0).arrays
    assert arrays["boxes"].shape == (6, 3, 4)
    for image, rows, labels in zip(
        arrays["image"].astype(float), arrays["boxes"], arrays["classes"], strict=True
    ):
        assert (labels >= 0).any()
        for left, top, right, bottom in rows[labels >= 0].astype(int):
            assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64
            inside = image[top:bottom, left:right].std((0, 1)).max()
            assert inside > 10  # ink on the background
    again = detection_scenes.load(side=64, train=9, test=2, most=3).train(0).arrays
    np.testing.assert_array_equal(again["image"][:6], arrays["image"])


def test_drawn_scenes_of_fewer_classes():
    data = detection_scenes.load(side=64, classes=2, train=20, test=1)
    found = data.train(0).arrays["classes"]
    assert data.info.class_names == ("0", "1") and data.info.num_classes == 2
    assert set(found[found >= 0]) == {0, 1}
    with pytest.raises(UserError, match="classes=11"):
        detection_scenes.load(classes=11)
