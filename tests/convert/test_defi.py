"""DeFI-Net and HRNet checkpoints: what is taken, what is told, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.convert import defi
from jaxkd.convert.torch import names, weights
from jaxkd.core.errors import UserError
from jaxkd.models.defi_net import DefiNet

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_defi")

WIDTHS = (4, 5, 6, 7)
OPTIONS = {"stem_width": 6, "stage1_planes": 3, "widths": WIDTHS, "pyramid_width": 5}


@pytest.fixture(scope="module")
def network():
    return DefiNet(**OPTIONS)


@pytest.fixture(scope="module")
def blank(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return jax.tree.map(lambda x: np.full(x.shape, 7, np.float32), shapes)


def make_hrnet(modules=1, **options):
    torch.manual_seed(0)
    net = zoo.HRNet(6, 3, WIDTHS, modules=modules, **options)
    net.classifier = torch.nn.Linear(7, 3)
    return net


def test_a_whole_network_survives_the_round_trip(tmp_path):
    torch.manual_seed(0)
    theirs = zoo.DefiNet(6, 3, WIDTHS, 5)
    wrapped = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(wrapped, tmp_path / "net.pth")
    variables = weights.load_torch(tmp_path / "net.pth", "defi_net", 2, options=OPTIONS)
    weights.save_torch(tmp_path / "back.pth", variables, "defi_net", options=OPTIONS)
    back = torch.load(tmp_path / "back.pth")["model"]
    assert set(back) == set(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_names_are_those_of_the_official_code():
    keys = {leaf.key for leaf in names.leaves("defi_net", DefiNet())}
    assert {
        "hrnet.stage4.0.fuse_layers.3.0.2.0.weight",
        "hrnet.transition1.0.0.weight",
        "hrnet.transition3.3.0.1.running_var",
        "hrnet.layer1.0.downsample.1.bias",
        "gfpn.td_fusion.conv1x1_dict.104.bias",
        "gfpn.td_fusion.conv1x1_dict.1.weight",
        "gfpn.bu_fusion.blocks.3.1.weight",
        "gfpn.blocks.2.0.bias",
        "ream.conv3x3_low2.bias",
        "ream.edge_head.conv2.bias",
        "dff.high_prior.2.weight",
        "dff.ada_learner.conv3.1.running_mean",
        "dff.seghead.bias",
    } <= keys


def test_the_first_modules_of_a_deeper_backbone_are_taken(tmp_path, network, blank):
    theirs = make_hrnet(modules=2)
    state = {f"model.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "hrnet.pth")
    loaded, report = defi.load_backbone(tmp_path / "hrnet.pth", blank, network)
    assert not report.missing and not report.reshaped
    assert "stage3.1.branches.0.0.conv1.weight" in report.unused
    assert "classifier.weight" in report.unused
    assert f"loaded {len(report.loaded)} arrays" in str(report)
    kernel = loaded["params"]["hrnet"]["stage3_module0"]["fuse2_0_conv1"]["kernel"]
    wanted = theirs.state_dict()["stage3.0.fuse_layers.2.0.1.0.weight"]
    np.testing.assert_array_equal(kernel, wanted.permute(2, 3, 1, 0))
    assert not any((x == 7).any() for x in jax.tree.leaves(loaded["params"]["hrnet"]))
    # The rest is as it was, and so is what was given.
    assert all((x == 7).all() for x in jax.tree.leaves(loaded["params"]["dfpl"]))
    assert all((x == 7).all() for x in jax.tree.leaves(blank))


def test_the_backbone_of_a_localiser(tmp_path, network, blank):
    torch.manual_seed(0)
    torch.save(zoo.DefiNet(6, 3, WIDTHS, 5).state_dict(), tmp_path / "net.pth")
    _, report = defi.load_backbone(tmp_path / "net.pth", blank, network)
    assert not report.missing and not report.unused


def test_what_does_not_fit_is_told(tmp_path, network, blank):
    state = make_hrnet(channels=4).state_dict()
    state.pop("bn2.bias")
    torch.save(state, tmp_path / "other.pth")
    loaded, report = defi.load_backbone(tmp_path / "other.pth", blank, network)
    assert report.missing == ("bn2.bias",)
    assert report.reshaped == {"conv1.weight": ((6, 4, 3, 3), (6, 3, 3, 3))}
    assert (loaded["params"]["hrnet"]["conv1"]["kernel"] == 7).all()
    text = str(report)
    assert "bn2.bias" in text and "got (6, 4, 3, 3), expected (6, 3, 3, 3)" in text


def test_other_networks_are_refused(tmp_path, network, blank):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"nothing of an HRNet.*fc\.weight"):
        defi.load_backbone(tmp_path / "other.pth", blank, network)
    with pytest.raises(UserError, match="another model"):
        weights.load_torch(tmp_path / "other.pth", "defi_net", 2)
