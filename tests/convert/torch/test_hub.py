"""A folder of timm's layout, converted by the command without naming the network."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxkd.convert.__main__ import main
from jaxkd.convert.torch import hub
from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError
from jaxkd.training import preprocessing

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_photographs")

OPTIONS = {"blocks": [1, 2, 1], "widths": [4, 6, 8]}
CONFIG = {
    "architecture": "convnext_tiny",
    "num_classes": 5,
    "pretrained_cfg": {
        "input_size": [3, 288, 288],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.5, 0.5],
    },
}


@pytest.fixture
def folder(tmp_path):
    network = zoo.ConvNeXt(5, **OPTIONS)
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    top = tmp_path / "convnext_tiny.in1k"
    top.mkdir()
    save_file(state, top / "model.safetensors")
    (top / "config.json").write_text(json.dumps(CONFIG))
    return top, state


def test_the_command_reads_the_folder(tmp_path, folder, capsys):
    top, state = folder
    arguments = [str(top), str(tmp_path / "run"), f"--options={json.dumps(OPTIONS)}"]
    main(["from-torch", *arguments])
    printed = capsys.readouterr().out
    assert "convnext_tiny with 5 classes" in printed
    assert "images of 288 pixels normalised by mean (0.5, 0.5, 0.5)" in printed
    assert "standard deviation (0.25, 0.5, 0.5)" in printed
    trained = preprocessing.read(tmp_path / "run")
    assert (trained.mean, trained.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    assert (trained.image_shape, trained.resize) == ((288, 288, 3), "center_crop")
    saved = checkpoint.load_member(tmp_path / "run" / "checkpoints", "last")
    kernel = saved["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernel.T, state["head.fc.weight"])


def test_folders_that_lack_something(tmp_path, folder, capsys):
    top, _ = folder
    (top / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"is no configuration of timm's"):
        hub.find(top)
    (top / "config.json").unlink()
    with pytest.raises(SystemExit):
        main(["from-torch", str(top), str(tmp_path / "run")])
    assert "does not name its network" in capsys.readouterr().err
    (top / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"none of model\.safetensors"):
        hub.find(top)
