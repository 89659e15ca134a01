"""Folders of grey images and of many layers: trained on, evaluated, used, exported.

What tells the classes apart is in the last layer alone, or, of grey images, in numbers
of 12 bits; whoever reads the files as RGB finds nothing, or black.
"""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxkd import api
from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.evaluate import evaluate_run
from jaxkd.predictors.classification import predict_files
from jaxkd.train import train
from jaxkd.training import build, components, preprocessing
from jaxkd.training import workdir as workdirs

pytestmark = pytest.mark.slow

CLASSES = ("dark", "light")
SIDE = 8


def write_image(path, label, channels, rng):
    """Writes an image of ``SIDE * 8 / 7`` pixels, and returns it as uint8."""
    side = round(SIDE * 256 / 224)
    pixels = rng.integers(0, 120, (side, side, channels), np.uint8)
    pixels[..., -1] += np.uint8(120 * label)
    path.parent.mkdir(parents=True, exist_ok=True)
    if channels == 1:
        deep = np.round(pixels[..., 0] * (4095 / 255)).astype(np.uint16)
        deep[0, 0], pixels[0, 0] = 4095, 255
        Image.fromarray(deep).save(path.with_suffix(".png"))
    else:
        tifffile = pytest.importorskip("tifffile")
        options = {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(path.with_suffix(".tif"), pixels, **options)
    return pixels


def configuration(root, **data):
    config = configs.default()
    config.name, config.method = "layers", "supervised"
    config.model = ConfigDict(
        {"name": "resnet8", "stem": 3, "widths": (4,), "strides": (2,)}
    )
    config.data = ConfigDict({"name": "folder", "root": str(root), "size": SIDE})
    config.data.update(data)
    config.view = ConfigDict({"name": "plain"})
    config.batch_size, config.eval_batch_size = 8, 8
    config.unit, config.duration = "steps", 40
    config.eval_every = config.checkpoint_every = 40
    return config


def by_hand(workdir, image):
    """The probabilities of one uint8 image, through the network and NumPy alone."""
    config = workdirs.read_config(workdir)
    network = components.build_network(config, 2)
    (student,) = json.loads((workdir / "results.json").read_text())["students"]
    variables = checkpoint.load_member(workdir / "checkpoints", "last", student, 0)
    info = preprocessing.read(workdir)
    scaled = (image / 255 - np.array(info.mean)) / np.array(info.std)
    logits = np.asarray(network.apply(variables, scaled[None])[0][0], np.float64)
    return np.exp(logits - np.logaddexp.reduce(logits))


@pytest.mark.parametrize("channels", [1, 5])
def test_from_training_to_prediction_and_export(tmp_path, channels):
    rng, root, held = np.random.default_rng(0), tmp_path / "layers", {}
    for number in range(24):
        label, split = number % 2, "val" if number > 15 else "train"
        path = root / split / CLASSES[label] / f"{number}"
        image = write_image(path, label, channels, rng)
        if split == "val":
            held[path.name] = (image, CLASSES[label])
    workdir = tmp_path / "run"
    train(configuration(root, channels=channels), workdir)
    record = preprocessing.read(workdir)
    assert record.image_shape == (SIDE, SIDE, channels)
    assert len(record.mean) == channels

    evaluate_run(workdir, None, "last")
    own = json.loads((workdir / "eval.json").read_text())["students"]
    assert [one["top1"] for one in own.values()] == [[1.0]]
    # Class folders alone, by a configuration that does not tell the channels.
    evaluate_run(workdir, configuration(root / "val"), "last")
    other = json.loads((workdir / "eval.json").read_text())["students"]
    for name, metrics in own.items():
        np.testing.assert_allclose(other[name]["loss"], metrics["loss"], rtol=1e-5)
    with pytest.raises(UserError, match=r"no training examples.*--mode=eval"):
        build.build(configuration(root / "val", channels=channels))

    found = predict_files(workdir, [str(root / "val")], str(tmp_path / "out.csv"))
    assert len(found) == len(held) == 8
    start = (round(SIDE * 256 / 224) - SIDE) // 2
    for one in found:
        image, name = held[one.file.rpartition("/")[2].partition(".")[0]]
        assert one.classes[0] == name
        seen = image[start : start + SIDE, start : start + SIDE]
        wanted = by_hand(workdir, seen)[CLASSES.index(name)]
        np.testing.assert_allclose(one.probabilities[0], wanted, rtol=1e-4)

    api.export(workdir, str(tmp_path / "out.safetensors"), format="torch")
    told = json.loads((tmp_path / "out.safetensors.json").read_text())["preprocessing"]
    assert told["image_shape"] == [SIDE, SIDE, channels]
    assert told["channels"] == {1: "grey", 5: "5 channels"}[channels]
