"""Files of logits against arithmetic done here."""

import os

import numpy as np
import pytest

from jaxkd.training import logit_files


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 4, (7, 9)).astype(np.float32)


def softmax(x):
    x = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_all_classes_come_back_bit_for_bit(tmp_path, logits):
    logit_files.write(tmp_path / "v", {"teacher": logits})
    stored = logit_files.Logits(tmp_path / "v", "teacher", 9)
    at = np.array([[3, 0], [6, 3]])
    np.testing.assert_array_equal(stored[at], logits[at])


def test_the_most_probable_classes_keep_their_probability(tmp_path, logits):
    logit_files.write(tmp_path / "v", {"teacher": logits}, top_k=3)
    found = softmax(logit_files.Logits(tmp_path / "v", "teacher", 9)[np.arange(7)])
    wanted = softmax(logits)
    for got, want in zip(found, wanted, strict=True):
        best = np.argsort(-want)[:3]
        np.testing.assert_allclose(got[best], want[best], rtol=1e-6)
        others = np.delete(got, best)
        np.testing.assert_allclose(others, np.delete(want, best).mean(), rtol=1e-5)


def test_extreme_logits_stay_finite():
    values, classes = logit_files.top(np.array([[1e4, -1e4, 0.0, 3.0]]), 2)
    full = logit_files.expand(values, classes, 4)
    assert np.isfinite(full).all() and full.argmax() == 0


def test_classes_of_large_numbers_are_kept():
    logits = np.zeros((2, 70_000), np.float32)
    logits[[0, 1], [66_000, 5]] = 9  # 66,000 does not fit into 16 bits
    values, classes = logit_files.top(logits, 2)
    full = logit_files.expand(values, classes, 70_000)
    np.testing.assert_array_equal(full.argmax(1), [66_000, 5])
    for count in (9, 70_000):
        values, classes = logit_files.top(logits[:, -count:], 2)
        stored = values[0].nbytes + classes[0].nbytes
        assert stored == logit_files.bytes_per_example(count, 2)


def test_each_example_is_looked_up_in_its_own_visit(tmp_path):
    visits = []
    for visit in range(3):
        rows = 10.0 * visit + np.arange(5, dtype=np.float32)[:, None]
        logit_files.write(tmp_path / str(visit), {"teacher": rows + np.zeros(2)})
        visits.append(logit_files.Logits(tmp_path / str(visit), "teacher", 2))
    examples = np.array([[4, 1], [0, 4]])
    at = np.array([[2, 0], [1, 1]])
    found = logit_files.look_up(visits, examples, at)
    np.testing.assert_array_equal(found[..., 0], 10 * at + examples)


def test_what_a_killed_writer_left_is_written_anew(tmp_path, logits):
    (tmp_path / ".tmp-v-x").mkdir()
    (tmp_path / ".tmp-v-x" / "other.npy").write_bytes(b"half")
    os.utime(tmp_path / ".tmp-v-x", (0, 0))  # long ago: nobody writes it any more
    logit_files.write(tmp_path / "v", {"teacher": logits})
    assert [p.name for p in tmp_path.iterdir()] == ["v"]
    names = {path.name for path in (tmp_path / "v").iterdir()}
    assert names == {"teacher.npy", "manifest.json"}


def test_damage_is_noticed_and_written_over(tmp_path, logits):
    folder = tmp_path / "v"
    logit_files.write(folder, {"teacher": logits})
    assert not logit_files.problem(folder)
    content = bytearray((folder / "teacher.npy").read_bytes())
    content[-8:-4] = bytes(4)
    (folder / "teacher.npy").write_bytes(content)
    assert "teacher.npy is not what was written" in logit_files.problem(folder)
    logit_files.write(folder, {"teacher": logits})
    assert not logit_files.problem(folder)
    (folder / "manifest.json").unlink()  # as those of version 0.1
    assert "does not exist" in logit_files.problem(folder)


def test_size_on_disk(tmp_path, logits):
    for k in (0, 3):
        logit_files.write(tmp_path / str(k), {"teacher": logits}, k)
        stored = sum(p.stat().st_size - 128 for p in (tmp_path / str(k)).glob("*.npy"))
        assert stored == len(logits) * logit_files.bytes_per_example(9, k)
