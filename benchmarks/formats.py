"""The formats whose files are damaged: how a small one is made, and what reads it."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RUN = Path()  # a finished run, whose files are copied


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      make: writes a small whole file into a folder, and returns it.
      read: reads one, and returns something to compare.
      checksum: whether a changed content must be noticed.
      needs: a package beyond those of the library, or none.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checksum: bool
    needs: str = ""


def _npz(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("test", 5)):
        images = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count) % 4}
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def _read_npz(path: Path) -> Any:
    from jaxkd.datasets import npz

    read = npz.load(str(path))
    return read.info, dict(read.train(0).arrays), dict(read.test.arrays)


def _cifar(folder: Path) -> Path:
    rng, stream = np.random.default_rng(0), io.BytesIO()
    names = {"meta": {b"fine_label_names": [b"c%d" % i for i in range(100)]}}
    for name, count in (("train", 4), ("test", 2)):
        pixels = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
        names[name] = {b"data": pixels, b"fine_labels": list(range(count))}
    path = folder / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in names.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size, stream = len(data), io.BytesIO(data)
            archive.addfile(member, stream)
    return path


def _read_cifar(path: Path) -> Any:
    from jaxkd.datasets import cifar

    train, test, names = cifar.read(path.parent, 100, counts=(4, 2))
    return dict(train.arrays), dict(test.arrays), names


def _pickle(folder: Path) -> Path:
    arrays = {"a": np.arange(12.0).reshape(3, 4), "b": ["x", 2], "c": 1.5}
    (folder / "a.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    return folder / "a.pkl"


def _read_pickle(path: Path) -> Any:
    from jaxkd.core.safe_pickle import read_arrays

    return read_arrays(path.read_bytes(), str(path))


def _nifti(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from jaxkd.readers.ct import nifti

        rng = np.random.default_rng(0)
        values = rng.integers(-1024, 400, (16, 16, 16)).astype(np.int16)
        nifti.write(folder / f"a{suffix}", values, np.diag([6.0, 6.0, 6.0, 1.0]))
        return folder / f"a{suffix}"

    return make


def _read_nifti(path: Path) -> Any:
    from jaxkd.readers.ct import nifti

    return nifti.read(path)


def _json(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(content, indent=1))
        return folder / name

    return make


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 8, 9]}],
    "categories": [{"id": 3, "name": "cat"}],
}


def _read_coco(path: Path) -> Any:
    from jaxkd.datasets import boxes

    return boxes.read(path)


def _read_schedule(path: Path) -> Any:
    from jaxkd.core.errors import UserError
    from jaxkd.diffusion import schedules

    try:
        found = schedules.load(path)
    except ValueError as error:  # which it promises; pipelines do this with it
        raise UserError(str(error)) from error
    return found._replace(details=dict(found.details))


def _clips(folder: Path) -> Path:
    lines = ["video_path,entire_label,split", "a.mp4,0,train", "b.mp4,1,test"]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return folder / "a.csv"


def _read_clips(path: Path) -> Any:
    from jaxkd.readers.clips import lists

    return [row._replace(video=row.video.name) for row in lists.read_manifest(path)]


def _run(name: str) -> Callable[[Path], Path]:
    """Copies the run that ``RUN`` names, and returns one of its files.

    Of checkpoints it is in the newest, which alone is read, the largest that fits.
    """

    def make(folder: Path) -> Path:
        import shutil

        shutil.copytree(RUN, folder / "run", dirs_exist_ok=True)
        steps = (folder / "run/checkpoints").glob("[0-9]*")
        newest = max(int(path.name) for path in steps)
        found = (folder / "run").glob(name.replace("NEWEST", str(newest)))
        return max(found, key=lambda path: path.stat().st_size)

    return make


def _folder(path: Path) -> Path:
    return next(one for one in path.parents if one.name == "run")


def _read_config(path: Path) -> Any:
    from jaxkd.core import config
    from jaxkd.training import workdir

    return config.resolved(workdir.read_config(_folder(path)))


def _read_results(path: Path) -> Any:
    from jaxkd.training import workdir

    return workdir.read_results(_folder(path))


def _read_metrics(path: Path) -> Any:
    from jaxkd.core import writers

    return writers.read_metrics(_folder(path))


def _read_checkpoint(path: Path) -> Any:
    from jaxkd.core import checkpoint

    return checkpoint.load_member(_folder(path) / "checkpoints", "last")


def _safetensors(folder: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({"a": np.arange(12, dtype=np.float32)}, folder / "a.safetensors")
    return folder / "a.safetensors"


def _torch(folder: Path) -> Path:
    from jaxkd.convert.torch import writing

    writing.write(folder / "a.pth", {"a": np.arange(12, dtype=np.float32)})
    return folder / "a.pth"


def _read_weights(path: Path) -> Any:
    from jaxkd.convert.torch import weights

    return weights.read_state(path)


def _read_hub(path: Path) -> Any:
    from jaxkd.convert.paligemma import files
    from jaxkd.core.errors import UserError

    found = files.open_tensors(path)
    wanted = {"a"} if path.suffix == ".safetensors" else set(_NAMES)
    if found.shapes.keys() != wanted:  # which the conversion compares
        raise UserError(f"{path} has other tensors.")
    return {name: found.read(name) for name in found.shapes}


_NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def _mat(folder: Path) -> Path:
    import scipy.io

    scipy.io.savemat(folder / "a.mat", {"a": np.eye(4)}, do_compression=True)
    return folder / "a.mat"


def _read_mat(path: Path) -> Any:
    from jaxkd.readers import matlab

    return matlab.read_mat(path, ["a"], "Get it again.")


FORMATS = {
    "npz": Format(_npz, _read_npz, True),
    "CIFAR, tar.gz": Format(_cifar, _read_cifar, True),
    "pickle": Format(_pickle, _read_pickle, False),
    "NIfTI, .nii.gz": Format(_nifti(".nii.gz"), _read_nifti, True),
    "NIfTI, .nii": Format(_nifti(".nii"), _read_nifti, False),
    "COCO, json": Format(_json("a.json", _COCO), _read_coco, False),
    "schedule, json": Format(
        _json("a.json", {"sigmas": [80.0, 1.0, 0.002], "details": {"nfe": 2}}),
        _read_schedule,
        False,
    ),
    "safetensors": Format(_safetensors, _read_weights, False),
    "safetensors, hub": Format(_safetensors, _read_hub, False),
    "npz, hub": Format(_npz, _read_hub, True),
    "torch, pth": Format(_torch, _read_weights, True),
    "MATLAB, mat": Format(_mat, _read_mat, True),
    "clips, csv": Format(_clips, _read_clips, False),
    "run: config.json": Format(_run("config.json"), _read_config, False),
    "run: results.json": Format(_run("results.json"), _read_results, True),
    "run: metrics.jsonl": Format(_run("metrics.jsonl"), _read_metrics, False),
    "run: arrays": Format(_run("checkpoints/NEWEST/state/d/*"), _read_checkpoint, True),
    "run: record": Format(
        _run("checkpoints/NEWEST/meta/metadata"), _read_checkpoint, True
    ),
}
