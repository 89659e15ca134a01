"""Enlarged images beside references: figures, names, and pairs that do not fit."""

import csv

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxkd.core.errors import UserError
from jaxkd.predictors import super_resolution
from jaxkd.predictors.restoration_quality import Quality
from jaxkd.readers import lpips_weights
from tests.lpips_weights import state

structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity


def picture(path, shape, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures(tmp_path):
    truth = picture(tmp_path / "hr/a.png", (21, 25))
    picture(tmp_path / "hr/b.png", (30, 20))
    save_file(state("vgg"), tmp_path / "w.safetensors")
    files = [tmp_path / "lr/a.jpg", tmp_path / "lr/b.png"]
    quality = Quality(tmp_path / "hr", files, str(tmp_path / "w.safetensors"))
    ours = truth[:20, :24] // 2  # of 10 x 12 pixels, enlarged twice
    quality.add(files[0], ours, 2)
    quality.add(files[1], ours, 2)
    text = quality.write(tmp_path / "quality.csv")
    first, second = rows(tmp_path / "quality.csv")
    weights = np.array([65.481, 128.553, 24.966]) / 255
    pair = [(x[2:18, 2:22] @ weights + 16) / 255 for x in (ours, truth)]
    psnr = -10 * np.log10(np.mean((pair[0] - pair[1]) ** 2))
    assert float(first["psnr"]) == pytest.approx(psnr, abs=1e-3)
    same = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(*pair, data_range=1, **same)
    assert float(first["ssim"]) == pytest.approx(expected, abs=1e-4)
    network, variables = lpips_weights.read(tmp_path / "w.safetensors")
    scaled = [np.float32(x[None]) / 127.5 - 1 for x in (ours, truth[:20, :24])]
    expected = float(network.apply(variables, *scaled)[0])
    assert float(first["lpips"]) == pytest.approx(expected, abs=1e-4)
    assert "is 30 x 20 pixels, expected 20 x 24, or less than 2 more" in second["error"]
    assert second["psnr"] == second["lpips"] == ""
    assert f"PSNR {psnr:.3f} dB" in text and "1 could not be compared" in text


def test_references_are_found_by_name(tmp_path):
    picture(tmp_path / "hr/a.png", (20, 20))
    picture(tmp_path / "hr/a.bmp", (20, 20))
    with pytest.raises(UserError, match=r"has 2 references for .*a\.png, expected one"):
        Quality(tmp_path / "hr", [tmp_path / "a.png"], "")
    with pytest.raises(UserError, match=r"has 0 references for .*b\.png"):
        Quality(tmp_path / "hr", [tmp_path / "b.png"], "")
    with pytest.raises(UserError, match="expected a folder of the large images"):
        Quality(tmp_path / "gone", [], "")
    with pytest.raises(UserError, match="There is no file"):
        Quality(tmp_path / "hr", [], "gone.safetensors")


def test_options_of_the_predictor(tmp_path):
    picture(tmp_path / "lr/a.png", (4, 4))
    with pytest.raises(UserError, match="give --option=references=DIR"):
        super_resolution.predict(
            tmp_path, [tmp_path / "lr"], tmp_path / "out", lpips="w.safetensors"
        )
    with pytest.raises(UserError, match="expected a folder of the large images"):
        super_resolution.predict(
            tmp_path, [tmp_path / "lr"], tmp_path / "out", references="gone"
        )
