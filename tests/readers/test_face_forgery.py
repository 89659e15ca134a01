"""Lists of faces in every form, and the errors of wrong ones."""

import json
import re

import pytest

from jaxkd.core.errors import UserError
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.readers import face_forgery as reader

FFSC, FFPP = LabelGraph.ffsc(), LabelGraph.ffpp()
AGE = "110000100001"


def text_of(row):
    return "".join(map(str, row.code))


def test_list(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(
        "# faces\n\nReal/CDF/id0/0001.png 000000000000\n"
        f"diffae-age/a b_3.png {AGE}\nsimswap/v1/0002.png 120010111111\n"
    )
    rows = reader.read_list(path, FFSC)
    assert [text_of(row) for row in rows] == ["0" * 12, AGE, "120010111111"]
    assert [row.method for row in rows] == ["real", "diffae-age", "simswap"]
    assert rows[1].path == tmp_path / "diffae-age" / "a b_3.png"
    assert [row.video for row in rows[1:]] == ["diffae-age/a b", "simswap/v1/v1"]
    elsewhere = reader.read_list(path, FFSC, root="/faces")
    assert str(elsewhere[0].path) == "/faces/Real/CDF/id0/0001.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 1100", "line 2: The label code '1100' has 4 entries, expected 12"),
        ("a.png 110000000000", "line 2: The label code '110000000000' is not consi"),
        ("a.png 11000010000x", "line 2: The label code '11000010000x' has 'x' for"),
        ("a.png", "line 2: got 'a.png', expected the path"),
    ],
)
def test_wrong_lines_are_refused_by_number_and_rule(tmp_path, line, message):
    path = tmp_path / "list.txt"
    path.write_text(f"b.png {AGE}\n{line}\n")
    with pytest.raises(UserError, match=re.escape(message)):
        reader.read_list(path, FFSC)


def test_csv(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "path,fake,age,eye,method,video\na.png,0,,,,\nb.png,1,1,,diffae,v7\n"
    )
    real, fake = reader.read_csv(path, FFSC)
    assert text_of(real) == "0" * 12
    assert text_of(fake) == "112222222222"
    assert (fake.method, fake.video, real.method) == ("diffae", "v7", "real")
    path.write_text("path,fake,age\na.png,0,1\n")
    with pytest.raises(UserError, match=r"line 2: .*'age' is on, so 'fake' must be on"):
        reader.read_csv(path, FFSC)
    path.write_text("path,fake,beard\n")
    with pytest.raises(UserError, match="beard, which are no nodes"):
        reader.read_csv(path, FFSC)
    path.write_text("file,label\n")
    with pytest.raises(UserError, match="expected path, fake"):
        reader.read_csv(path, FFSC)


def test_csv_as_other_programs_write_it(tmp_path):
    """A byte order mark, quotation marks, capitals, fractions, lines within cells."""
    path = tmp_path / "labels.csv"
    path.write_text(
        '\ufeff"Path","Fake","Age","Method"\r\n'
        '"a,1.png",1.0,1.0,"two\r\nlines"\r\n"b.png",0.0,,original\r\n'
    )
    fake, real = reader.read_csv(path, FFSC)
    assert fake.path == tmp_path / "a,1.png"
    assert (text_of(fake), text_of(real)) == ("112222222222", "0" * 12)
    # What a list calls the method of a real image is no forgery.
    assert (fake.method, real.method) == ("two\nlines", "real")
    path.write_text("path,fake\na,1.png,1\n")
    with pytest.raises(UserError, match="line 2: 3 cells, expected 2"):
        reader.read_csv(path, FFSC)
    path.write_text("path,fake\n,1\n")
    with pytest.raises(UserError, match="line 2: path is empty"):
        reader.read_csv(path, FFSC)


def test_images_are_frames_of_one_video_only_where_that_is_known(tmp_path):
    path = tmp_path / "labels.csv"
    names = ("IMG_1.png", "IMG_2.png", "swap/v/0001.png", "swap/v/0002.png")
    path.write_text("path,fake\n" + "".join(f"{name},1\n" for name in names))
    rows = reader.read_csv(path, FFSC)
    assert len({(row.method, row.video) for row in rows}) == 3
    assert rows[2].video == rows[3].video


def test_whether_an_image_is_fake_is_always_known(tmp_path):
    """An unknown root would be taken for real by what knows two classes alone."""
    path = tmp_path / "labels.csv"
    path.write_text("path,fake,age\na.png,,1\n")
    (row,) = reader.read_csv(path, FFSC)
    assert text_of(row) == "112222222222"
    path.write_text("path,fake,age\na.png,,0\n")
    with pytest.raises(UserError, match="line 2: nothing tells whether the image is"):
        reader.read_csv(path, FFSC)
    path.write_text(f"a.png {'2' * 12}\n")
    with pytest.raises(UserError, match="line 1: nothing tells"):
        reader.read_list(path, FFSC)


def test_a_fake_whose_method_is_called_real_is_refused(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"real/a.png {AGE}\n")
    with pytest.raises(UserError, match=r"line 1: .*a\.png is fake, but its method"):
        reader.read_list(path, FFSC)
    path.write_text("path,fake,method\na.png,1,real\n")
    with pytest.raises(UserError, match=r"line 2: .* is fake, but its method"):
        reader.read_csv(path, FFSC)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_official_folders(tmp_path):
    touch(
        tmp_path,
        *("Train/Real/AVSpeech/v1/0001.png", "Train/diffae-age/v2_17_x.png"),
        *("Test/Protocol-1/HFGI-smile/v3/0.png", "Train/fomm-expr/v4/1.png"),
    )
    rows = {
        r.method: r for r in reader.read_folder(tmp_path, FFSC, reader.FFSC_METHODS)
    }
    assert rows["real"].video == "AVSpeech/v1"
    assert (text_of(rows["diffae-age"]), rows["diffae-age"].video) == (AGE, "v2")
    assert text_of(rows["HFGI-smile"]) == "101000001100"
    assert 2 in rows["fomm-expr"].code  # smile or surprise: nobody knows
    touch(tmp_path, "Train/mystery/v/1.png")
    with pytest.raises(UserError, match="no method is known for images in Train/myst"):
        reader.read_folder(tmp_path, FFSC, reader.FFSC_METHODS)


def test_faceforensics_folders(tmp_path):
    touch(
        tmp_path,
        "original_sequences/youtube/c23/faces/000/0001.png",
        "manipulated_sequences/Face2Face/c23/faces/000_003/0001.png",
    )
    fake, real = reader.read_folder(tmp_path, FFPP, reader.FFPP_METHODS)
    assert (real.method, fake.method) == ("real", "Face2Face")
    assert text_of(fake) == "1101001100"


def test_yaml_codes_stay_text(tmp_path):
    methods = tmp_path / "methods.yaml"
    methods.write_text("real: 000000000000\nmine: 110000100001\n")
    touch(tmp_path / "set", "mine/1.png", "real/1.png")
    rows = reader.read_folder(tmp_path / "set", FFSC, methods)
    assert [text_of(row) for row in rows] == [AGE, "0" * 12]
    methods.write_text("mine: 1100\n")
    with pytest.raises(UserError, match=r"methods\.yaml, mine: .* has 4 entries"):
        reader.read_folder(tmp_path / "set", FFSC, methods)
    methods.write_text("- mine\n")
    with pytest.raises(UserError, match="expected lines"):
        reader.read_methods(methods)
    methods.write_text("a: [")
    with pytest.raises(UserError, match="cannot be read as yaml"):
        reader.read_methods(methods)


def test_every_builtin_code_is_consistent():
    for graph, methods in ((FFSC, reader.FFSC_METHODS), (FFPP, reader.FFPP_METHODS)):
        for code in methods.values():
            graph.check(code)


def test_deepfakebench(tmp_path):
    path = tmp_path / "FaceForensics++.json"
    frames = [f"faces\\{i:03d}.png" for i in range(100)]
    video = {"c23": {"000": {"label": "x", "frames": frames}}}
    content = {"FF-real": {"test": video}, "FF-DF": {"test": video, "train": {}}}
    path.write_text(json.dumps({"FaceForensics++": content}))
    rows = reader.read_deepfakebench(path, FFPP, "test", frames=4)
    assert len(rows) == 8
    assert [row.path.name for row in rows[:4]] == [
        f"{i:03d}.png" for i in (0, 33, 66, 99)
    ]
    assert rows[0].path.parent == tmp_path / "faces"
    # Videos of one name stay apart, and what a deep fake altered is not made up.
    assert {row.video for row in rows} == {"FF-real/000", "FF-DF/000"}
    assert text_of(rows[-1]) == "1222222222"
    named = reader.read_deepfakebench(
        path, FFPP, "test", codes={"FF-DF": "1011111111"}, frames=0
    )
    assert (len(named), text_of(named[-1])) == (200, "1011111111")
    with pytest.raises(UserError, match="no frames in the split 'val'"):
        reader.read_deepfakebench(path, FFPP, "val")
    path.write_text("[]")
    with pytest.raises(UserError, match="cannot be read as DeepfakeBench's form"):
        reader.read_deepfakebench(path, FFPP, "test")


def test_films_among_the_images_are_videos_of_their_own(tmp_path):
    touch(
        tmp_path,
        "original_sequences/youtube/c23/videos/000.mp4",
        *(f"manipulated_sequences/Face2Face/c23/videos/000_{i}.MP4" for i in (1, 2)),
        "manipulated_sequences/Face2Face/c23/faces/000_003/0001.png",
    )
    rows = reader.read_folder(tmp_path, FFPP, reader.FFPP_METHODS)
    assert [(row.method, row.video) for row in rows] == [
        ("Face2Face", "c23/faces/000_003"),
        ("Face2Face", "c23/videos/000_1"),
        ("Face2Face", "c23/videos/000_2"),
        ("real", "youtube/c23/videos/000"),
    ]
    path = tmp_path / "list.txt"
    path.write_text(
        f"Real/000.mp4 {'0' * 12}\nfsgan/v_1.mp4 {AGE}\nfsgan/v_2.png {AGE}\n"
    )
    rows = reader.read_list(path, FFSC)
    assert [row.method for row in rows] == ["real", "fsgan", "fsgan"]
    assert [row.video for row in rows] == ["Real/000", "fsgan/v_1", "fsgan/v"]


def test_a_film_becomes_a_row_for_each_frame(tmp_path, monkeypatch):
    counts = {"long.mp4": 100, "short.mp4": 3, "empty.mp4": 0}
    monkeypatch.setattr(reader.video, "count_frames", lambda path: counts[path.name])
    lines = [f"m/{name} {AGE}" for name in ("a.png", "long.mp4", "short.mp4")]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    rows = reader.read_list(tmp_path / "list.txt", FFSC)
    found = reader.with_frames(rows, 4)
    assert [(row.path.name, row.frame, row.frames) for row in found] == [
        ("a.png", 0, 0),
        *(("long.mp4", i, 4) for i in range(4)),
        *(("short.mp4", i, 3) for i in range(3)),
    ]
    assert len({(row.method, row.video) for row in found[1:]}) == 2
    assert len(reader.with_frames(rows, 0)) == 1 + 100 + 3
    empty = [rows[0]._replace(path=tmp_path / "empty.mp4")]
    with pytest.raises(UserError, match="has no frames"):
        reader.with_frames(empty, 4)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        reader.read_list(tmp_path / "no.txt", FFSC)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="lists no images"):
        reader.read_list(tmp_path / "empty.txt", FFSC)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="cannot be read as text"):
        reader.read_list(tmp_path / "binary.txt", FFSC)
