import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.readers import edit_benchmarks as benchmarks
from jaxkd.readers import tiil


def png(colour, size=(512, 512)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def test_masks_by_hand():
    mask = benchmarks.decode_mask([6, 2, 23, 99], side=5)
    expected = np.zeros((5, 5), bool)
    expected[1, 1:3] = True  # pixels 6 and 7
    expected[4, 3:] = True  # cut at the end
    expected[[0, -1]] = expected[:, [0, -1]] = True
    expected[:, -1] = True
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(UserError, match="pairs of a start and a length"):
        benchmarks.decode_mask([1, 2, 3])


def test_pie_bench(tmp_path):
    (tmp_path / "annotation_images").mkdir()
    (tmp_path / "annotation_images" / "a.png").write_bytes(png((10, 20, 30)))
    entry = {
        "image_path": "a.png",
        "original_prompt": "a [red] fox",
        "editing_prompt": "a [blue] fox",
        "blended_word": "red blue",
        "editing_type_id": "6",
        "mask": [600, 3],
    }
    (tmp_path / benchmarks.MAPPING).write_text(json.dumps({"000": entry}))
    (one,) = benchmarks.read_pie_bench(tmp_path)
    assert (one.source, one.target) == ("a red fox", "a blue fox")
    assert one.local_words == ("blue",) and one.edit_type == 6
    assert one.image.shape == (512, 512, 3) and one.image[5, 5].tolist() == [10, 20, 30]
    assert one.mask[1, 88:91].all() and not one.mask[1, 91]
    (tmp_path / "annotation_images" / "a.png").write_bytes(png((1, 2, 3), (256, 512)))
    with pytest.raises(UserError, match=r"a\.png: an image of 512 x 256 pixels; exp"):
        list(benchmarks.read_pie_bench(tmp_path))
    for content, message in (
        ({}, "has no entries"),
        ({"000": {**entry, "blended_word": ["red"]}}, "blended_word is .* or null"),
        ({"000": {**entry, "mask": None}}, "expected a list"),
    ):
        (tmp_path / benchmarks.MAPPING).write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            list(benchmarks.read_pie_bench(tmp_path))
    del entry["mask"]
    (tmp_path / benchmarks.MAPPING).write_text(json.dumps({"000": entry}))
    with pytest.raises(UserError, match="000 lacks mask"):
        list(benchmarks.read_pie_bench(tmp_path))
    with pytest.raises(UserError, match="has no mapping_file"):
        list(benchmarks.read_pie_bench(tmp_path / "annotation_images"))


def test_pie_bench_pp(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = {
        "id": "7",
        "image": {"bytes": png((1, 2, 3)), "path": "x.png"},
        "source_prompt": "a [red] fox",
        "target_prompt": "a [blue] fox",
        "edit_action": json.dumps(
            {"blue": {"position": 1, "edit_type": 6, "action": "red"}}
        ),
        "aspect_mapping": json.dumps({"fox": ["blue"]}),
        "blended_words": json.dumps(["red,blue"]),
        "mask": "600 3",
        "note": "x",
    }
    path = tmp_path / "V1.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    with pytest.warns(UserWarning, match=r"unused fields \['note'\]"):
        (one,) = benchmarks.read_pie_bench_pp(tmp_path)
    assert one.actions["blue"]["action"] == "red" and one.mapping == {"fox": ["blue"]}
    assert one.name == "7" and one.local_words == ("blue",) and one.edit_type == 6
    assert one.mask[1, 88:91].all()
    demo = {k: v for k, v in row.items() if k not in ("edit_action", "aspect_mapping")}
    demo |= {"editing": row["edit_action"], "obj-adj-pair": row["aspect_mapping"]}
    del demo["note"]
    parquet.write_table(pyarrow.Table.from_pylist([demo]), path)
    (again,) = benchmarks.read_pie_bench_pp(path)
    assert again.actions == one.actions
    del demo["mask"]
    parquet.write_table(pyarrow.Table.from_pylist([demo]), path)
    with pytest.raises(UserError, match="lacks mask"):
        list(benchmarks.read_pie_bench_pp(path))
    parquet.write_table(pyarrow.Table.from_pylist([demo | {"mask": "600 3"}]), path)
    whole = path.read_bytes()
    for damaged in (whole[:200], b"PAR1" + bytes(300) + whole[304:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"V1\.parquet cannot be read as a Parq"):
            list(benchmarks.read_pie_bench_pp(path))
    small = demo | {"mask": "600 3", "image": {"bytes": png((1, 2, 3), (8, 8))}}
    parquet.write_table(pyarrow.Table.from_pylist([small]), path)
    with pytest.raises(UserError, match="an image of 8 x 8 pixels"):
        list(benchmarks.read_pie_bench_pp(path))
    parquet.write_table(pyarrow.Table.from_pylist([small]).slice(0, 0), path)
    with pytest.raises(UserError, match="has no rows"):
        list(benchmarks.read_pie_bench_pp(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.parquet"):
        list(benchmarks.read_pie_bench_pp(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"nothing cannot be opened: No such file"):
        list(benchmarks.read_pie_bench_pp(tmp_path / "nothing"))


def test_a_damaged_row_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = {"image": png((1, 2, 3)), "source_prompt": "a", "target_prompt": "b"}
    row |= {"edit_action": "{}", "aspect_mapping": "{}", "mask": "600 3"}
    rows = [row, row | {"edit_action": '{"blue'}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = benchmarks.read_pie_bench_pp(tmp_path)
    assert next(found).source == "a"
    with pytest.raises(UserError, match=r"row 1 cannot be read as an edit: Unterm"):
        next(found)


def test_tiil(tmp_path):
    (tmp_path / "a.png").write_bytes(png((0, 0, 0), (6, 4)))
    images = [{"id": 1, "file_name": "a.png"}]

    def write(name, annotations):
        content = {"images": images, "annotations": annotations}
        (tmp_path / name).write_text(json.dumps(content))

    write("consistent.json", [{"image_id": 1, "caption": "a cat"}])
    wrong = {
        "image_id": 1,
        "caption": "a dog",
        "ori_word": "cat",
        "segmentation": {"size": [4, 6], "counts": [5, 2, 17]},
        "source": "x",
    }
    write("inconsistent.json", [wrong])
    with pytest.warns(UserWarning, match="not known and not used: source"):
        first, second = tiil.read(tmp_path)
    assert not first.inconsistent and not first.mask.any()
    assert second.inconsistent and second.old_word == "cat"
    # Columns first: pixels 5 and 6 are rows 1 and 2 of column 1.
    assert np.argwhere(second.mask).tolist() == [[1, 1], [2, 1]]
    del wrong["source"]
    wrong["segmentation"] = [[1, 1, 4, 1, 4, 2, 1, 2]]
    write("inconsistent.json", [wrong])
    _, second = tiil.read(tmp_path)
    assert second.mask.shape == (4, 6) and second.mask.sum() == 8
    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match="There is no mask"):
        list(tiil.read(tmp_path, tmp_path / "m"))
    write("inconsistent.json", [{"image_id": 2, "caption": "x"}])
    with pytest.raises(UserError, match="no image 2"):
        list(tiil.read(tmp_path))
    for annotation, message in (
        (wrong | {"segmentation": {"size": [3, 8], "counts": [24]}}, "a mask of 3 x 8"),
        (wrong | {"new_word": 3}, "new_word is 3, expected a string or null"),
    ):
        write("inconsistent.json", [annotation])
        with pytest.raises(UserError, match=message):
            list(tiil.read(tmp_path))
    Image.new("L", (6, 5)).save(tmp_path / "m" / "a.png")
    write("inconsistent.json", [wrong])
    with pytest.raises(UserError, match="a mask of 5 x 6"):
        list(tiil.read(tmp_path, tmp_path / "m"))
    for content, message in (
        ({}, "lacks 'images'"),
        ({"images": images}, "lacks 'annotations'"),
        ({"images": images, "annotations": []}, "has no annotations"),
        ({"images": images * 2, "annotations": [wrong]}, "two images have one id"),
    ):
        (tmp_path / "consistent.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            list(tiil.read(tmp_path))
    write("consistent.json", [{"image_id": 1, "caption": "a cat"}])
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"There is no image .*a\.png"):
        list(tiil.read(tmp_path))
    with pytest.raises(UserError, match="Runs of 3 pixels"):
        tiil.run_length_mask([1, 2], (4, 6))
