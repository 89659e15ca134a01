"""Official files of CMDFD's networks, as PyTorch writes them, are loaded by name."""

import jax
import numpy as np
import pytest

from jaxkd.convert import talknet as convert
from jaxkd.core.errors import UserError
from jaxkd.models.talknet.student import PICO

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
twins = pytest.importorskip("tests.torch_talknet")


def test_the_student_s_file(tmp_path):
    network = twins.disturb(twins.MTL(**PICO))
    # The official module holds its frozen teachers, too.
    state = network.state_dict() | {"ASRmodel.outputConv.bias": torch.zeros(40)}
    path = tmp_path / "best.model"
    torch.save(state, path)
    found = convert.load_student(path, **PICO)
    assert "ASRmodel.outputConv.bias" in found.unused
    kernel = found.variables["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernel.T, network.lossAV.FC.weight.detach())
    wide = found.variables["params"]["visual"]["temporal"]["conv1"]["kernel"]
    weight = network.model.visualConv1D.net[0].weight.detach().numpy()
    np.testing.assert_array_equal(wide[2], weight[:, :, 2].T)
    with pytest.raises(UserError, match="Check the widths"):
        convert.load_student(path)


def test_a_teacher_s_file(tmp_path):
    options = {"width": 8, "heads": 2, "layers": 1, "hidden": 16}
    network = twins.TMCTC("audio", classes=40, **options)
    path = tmp_path / "audio-only.pt"
    torch.save(network.state_dict(), path)
    found = convert.load_teacher(path, "audio", **options)
    assert not found.unused
    leaves = jax.tree.leaves(found.variables)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert sum(leaf.size for leaf in leaves) == count
