"""Damaged CT files: our errors alone, and no other volume without a note."""

import collections
import os
import random
import shutil

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers.ct import scans
from jaxkd.readers.ct.scans import Options
from tests.readers import fuzzing

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

from tests.readers.ct import exports  # noqa: E402

# More by hand: FUZZ=2000 pytest -m slow tests/readers -k fuzz
COUNT = int(os.environ.get("FUZZ", "200"))


def outcome(read, right):
    """Returns how reading ended; fails if a wrong volume has no note."""
    try:
        volume = read()
    except UserError:
        return "refused"
    same = volume.voxels.shape == right.voxels.shape and np.array_equal(
        volume.voxels, right.voxels
    )
    same = same and np.allclose(volume.affine, right.affine, atol=0.05)
    if same:
        return "right"
    news = set(volume.notes) - set(right.notes)
    assert news, "another volume without a word"
    return "noted"


@pytest.mark.slow
@pytest.mark.parametrize("fill_gaps", [0, 1])
def test_fuzz_dicom(tmp_path, fill_gaps):
    """Of headers: uncompressed pixels have no checksum, so that any may be right."""
    folder = tmp_path / "scan"
    paths = exports.write(folder, shape=(12, 10, 16))
    right = scans.read(folder)
    rng = random.Random(fill_gaps)
    ends = collections.Counter()
    for number in range(COUNT // 2):
        path = rng.choice(paths)
        content = path.read_bytes()
        header = len(content) - 2 * 12 * 10
        path.write_bytes(fuzzing.mutate(content, rng, 128, header))
        try:
            end = outcome(
                lambda: scans.read(folder, Options(fill_gaps=fill_gaps)), right
            )
        except BaseException as error:
            shutil.copytree(folder, tmp_path / "found", dirs_exist_ok=True)
            raise AssertionError(f"{number}: {path.name}: {error!r}") from error
        ends[end] += 1
        path.write_bytes(content)
    print(f"DICOM, fill_gaps={fill_gaps}: {dict(ends)}")
    assert ends["refused"] > COUNT // 20 and ends["right"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_fuzz_nifti(tmp_path, name):
    """Packed files have a checksum; of plain ones, the header is mutated."""
    array, affine = exports.volume((12, 10, 20))
    path = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    right, content = scans.read(path), path.read_bytes()
    stop = len(content) if name.endswith(".gz") else 348
    rng = random.Random(0)
    ends = collections.Counter()
    for number in range(COUNT // 2):
        path.write_bytes(fuzzing.mutate(content, rng, 0, stop))
        try:
            end = outcome(lambda: scans.read(path), right)
        except BaseException as error:
            raise AssertionError(f"{number}: {error!r}") from error
        ends[end] += 1
    print(f"{name}: {dict(ends)}")
    assert ends["refused"]
