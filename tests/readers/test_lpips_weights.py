"""Files of LPIPS' weights: the names that are read, and what is refused."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxkd.core.errors import UserError
from jaxkd.readers import lpips_weights
from tests.lpips_weights import WIDTHS, state


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_both_layouts_are_one_network(tmp_path, backbone):
    found = {}
    for names in ("features", "package"):
        path = tmp_path / f"{names}.safetensors"
        more = {"classifier.1.weight": np.ones((2, 2), np.float32)}
        if names == "package":
            whole = state(backbone, names=names)
            heads = {f"lins.{k[3:]}": v for k, v in whole.items() if k[:3] == "lin"}
            shift = np.float32([-0.03, -0.088, -0.188]).reshape(1, 3, 1, 1)
            more = {**heads, "scaling_layer.shift": shift}
        save_file(state(backbone, names=names) | more, path)
        network, found[names] = lpips_weights.read(path)
        assert (network.backbone, network.widths) == (backbone, WIDTHS[backbone])
    jax.tree.map(np.testing.assert_array_equal, found["features"], found["package"])
    written = state(backbone)
    params = found["features"]["params"]
    kernel = written["features.10.weight"]
    np.testing.assert_array_equal(
        params["conv10"]["kernel"][1, 2], kernel[:, :, 1, 2].T
    )
    head = written["lin4.model.1.weight"][0, :, 0, 0]
    np.testing.assert_array_equal(params["lin4"]["weight"], head)


def without(*keys):
    return {k: v for k, v in state("alex").items() if k not in keys}


NAN = np.full(4, np.nan, np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            without("lin3.model.1.weight"),
            r"lin3\.model\.1\.weight is missing, expected",
        ),
        (without("features.8.weight", "features.8.bias"), "expected those of alex"),
        (without("features.8.weight"), r"features\.8\.weight is missing"),
        (
            {"fc.weight": np.ones((2, 2), np.float32)} | state("alex"),
            r"holds 'fc\.weight', which LPIPS has not",
        ),
        (state("alex") | {"features.0.bias": NAN}, r"features\.0\.bias holds numbers"),
        (
            state("alex")
            | {"lin1.model.1.weight": state("vgg")["lin1.model.1.weight"]},
            r"is \(1, 4, 1, 1\), expected the shape \(1, 6, 1, 1\)",
        ),
        (
            state("alex") | {"net.slice1.0.bias": np.ones(4, np.float32)},
            r"holds features\.0\.bias twice",
        ),
        (
            state("alex") | {"scaling_layer.scale": np.ones(3, np.float32)},
            "scaled in another way",
        ),
        ({"lin0.model.1.weight": np.ones((1, 4, 1, 1), np.float32)}, "numbered none"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    save_file(content, path)
    with pytest.raises(UserError, match=message):
        lpips_weights.read(path)


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(UserError, match=r"no file .*python -m jaxkd\.convert\.lpips"):
        lpips_weights.read(tmp_path / "gone.safetensors")
    (tmp_path / "alex.pth").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(UserError, match=r"no safetensors file: .*that PyTorch wrote"):
        lpips_weights.read(tmp_path / "alex.pth")


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "x.safetensors"
    for backbone in ("alex", "vgg"):
        save_file(state(backbone), path)
        assert lpips_weights.read(path)[0].backbone == backbone
