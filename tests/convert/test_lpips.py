"""LPIPS' public files, joined into one; a pickle of somebody else is not executed."""

import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxkd.convert import load_lpips
from jaxkd.convert.lpips import __main__ as convert
from jaxkd.convert.torch import writing
from jaxkd.core.errors import UserError
from jaxkd.readers import lpips_weights
from tests.lpips_weights import state


def parts(folder, backbone="alex"):
    """Writes the backbone and the heads as PyTorch's files."""
    whole = state(backbone)
    heads = {k: v for k, v in whole.items() if k.startswith("lin")}
    rest = {k: v for k, v in whole.items() if k not in heads}
    rest["classifier.1.bias"] = np.ones(2, np.float32)
    found = []
    for name, content in (("backbone.pth", rest), ("heads.pth", heads)):
        writing.write(folder / name, content)
        found.append(folder / name)
    return found


def test_two_files_become_one(tmp_path, capsys):
    output = tmp_path / "lpips.safetensors"
    convert.main([*map(str, parts(tmp_path)), str(output)])
    assert "LPIPS on alex" in capsys.readouterr().out
    expected = state("alex")
    written = load_file(output)
    assert written.keys() == expected.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, expected[name])
    _, loaded = load_lpips(*parts(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, loaded, lpips_weights.read(output)[1])


def test_one_file_with_all(tmp_path):
    writing.write(tmp_path / "x.pth", state("vgg", names="package"))
    network, variables = load_lpips(tmp_path / "x.pth")
    assert network.backbone == "vgg" and len(variables["params"]) == 18


@pytest.mark.torch
def test_files_that_torch_itself_writes(tmp_path):
    torch = pytest.importorskip("torch")
    content = {k: torch.tensor(v) for k, v in state("alex").items()}
    torch.save(content, tmp_path / "x.pth")
    _, variables = load_lpips(tmp_path / "x.pth")
    _, expected = lpips_weights.from_state(state("alex"), "here")
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_what_is_refused(tmp_path, capsys):
    backbone, heads = parts(tmp_path)
    output = tmp_path / "lpips.safetensors"
    for files, message in (
        ([backbone], "lin0.model.1.weight is missing"),
        ([backbone, heads, heads], "both hold lin0.model.1.weight"),
        ([tmp_path / "gone.pth", heads], "There is no file"),
    ):
        with pytest.raises(SystemExit):
            convert.main([*map(str, files), str(output)])
        assert message in capsys.readouterr().err and not output.exists()
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError):
        load_lpips(tmp_path / "evil.pth", heads)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        convert.to_file([backbone, heads], tmp_path / "lpips.pth")
