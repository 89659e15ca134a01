"""A published teacher in a run of ours, and the student of that run in torch."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import models
from jaxkd.convert import __main__ as command
from jaxkd.core import checkpoint, integrity
from jaxkd.core import config as configs
from jaxkd.evaluate import evaluate_run
from jaxkd.train import train
from jaxkd.training import export

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_zoo")

CLASSES = 4


@pytest.fixture(scope="module")
def teacher():
    """A resnet8x4 in torch, with statistics that differ from their start."""
    torch.manual_seed(0)
    network = zoo.ResNet(CLASSES, 1, 32, (64, 128, 256))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@pytest.fixture(scope="module")
def converted(teacher, tmp_path_factory):
    """The same as the folder of a run."""
    folder = tmp_path_factory.mktemp("converted")
    file = folder / "ckpt_epoch_240.pth"
    content = {"epoch": 240, "model": teacher.state_dict(), "accuracy": torch.ones(())}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    command.main(["from-torch", str(file), str(folder / "run"), "--model=resnet8x4"])
    return folder / "run"


def torch_logits(network, images):
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2))
        return network(x)[0].numpy()


def our_logits(name, variables, images, **options):
    network = models.build(name, CLASSES, **options)
    with jax.default_matmul_precision("highest"):
        return jax.jit(network.apply)(variables, images)[0]


def random_images():
    return np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)


@pytest.mark.slow
def test_the_teacher_in_a_run(teacher, converted, squares_run, tmp_path):
    """The run's frozen teacher computes the logits of the torch network."""
    loaded = checkpoint.load_member(converted / "checkpoints", "last")
    ours = our_logits("resnet8x4", loaded, random_images())
    wanted = torch_logits(teacher, random_images())
    np.testing.assert_allclose(ours, wanted, atol=2e-5 * np.std(wanted))

    config = squares_run
    need = configs.needed(config, init_from=str(converted))
    config.needs = ConfigDict({"teacher": need})
    config.method, config.duration = "kd", 2
    config.allow_weak_teacher = True  # it has never been trained
    results = train(config, tmp_path / "run")
    used = results["frozen"]["teacher"]
    assert used["model"] == "resnet8x4"
    assert used["hash"] == integrity.content_hash(loaded)
    assert used["parameters"] == sum(p.numel() for p in teacher.parameters())
    assert not (tmp_path / "run" / "teacher").exists()

    # And the trained student goes back into torch.
    file = tmp_path / "student.pth"
    command.main(["to-torch", str(tmp_path / "run"), str(file), "--use=best"])
    student = zoo.ResNet(CLASSES, 1, 3, (4,), strides=(2,)).eval()
    student.load_state_dict(torch.load(file, weights_only=True)["model"])
    network = export.read(tmp_path / "run", None, None, "best")
    ours = our_logits(
        network.name, network.variables, random_images(), **network.options
    )
    wanted = torch_logits(student, random_images())
    np.testing.assert_allclose(ours, wanted, atol=2e-5 * np.std(wanted))


@pytest.mark.slow
def test_a_converted_network_is_evaluated(
    teacher, converted, squares, squares_run, tmp_path
):
    """A run's evaluation takes the folder as it takes any other."""
    with np.load(squares) as file:
        arrays = {name: np.concatenate([file[name]] * 2) for name in file}
    np.savez(tmp_path / "more.npz", **arrays)  # as many as a batch at least
    squares_run.data.path = str(tmp_path / "more.npz")
    evaluate_run(converted, squares_run, "last")
    got = json.loads((converted / "eval.json").read_text())["students"]["supervised"]
    images = arrays["train_images"] / 255
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    images = ((arrays["test_images"] / 255 - mean) / std).astype(np.float32)
    right = torch_logits(teacher, images).argmax(axis=1) == arrays["test_labels"]
    assert got["top1"] == [pytest.approx(right.mean())]


@pytest.mark.slow
def test_the_members_of_a_study(finished_run, tmp_path):
    """Each student and seed has its own file, with the average of its parameters."""
    folder, _ = finished_run
    choices = [
        ["--student=zebra", "--seed=3"],
        ["--student=zebra", "--seed=1"],
        ["--student=mole", "--seed=3"],
        ["--student=zebra", "--seed=3", "--use=best"],
        ["--student=zebra"],
    ]
    states = []
    for number, choice in enumerate(choices):
        file = tmp_path / str(number)
        command.main(["to-torch", str(folder), str(file), *choice])
        states.append(torch.load(file, weights_only=True)["model"])
    weights = [state["conv1.weight"] for state in states]
    assert torch.equal(weights[4], weights[0])
    assert not torch.equal(weights[0], weights[1])
    assert states[2]["fc.weight"].shape == (4, 2)
    member = checkpoint.load_member(folder / "checkpoints", "best", "zebra", 3)
    wanted = np.einsum("hwio->oihw", member["params"]["conv1"]["kernel"])
    np.testing.assert_array_equal(weights[3], wanted)


def test_options_and_channels(tmp_path):
    """A network of one's own size, for grey images, there and back."""
    torch.manual_seed(0)
    network = zoo.ResNet(3, 1, 4, (4, 6), strides=(2, 2))
    network.conv1 = torch.nn.Conv2d(1, 4, 3, 1, 1, bias=False)
    torch.save({"model": network.state_dict()}, tmp_path / "file")
    options = {"stem": 4, "widths": [4, 6], "strides": [2, 2]}
    arguments = ["--model=resnet8", "--channels=1", f"--options={json.dumps(options)}"]
    there, back = str(tmp_path / "run"), str(tmp_path / "back")
    command.main(["from-torch", str(tmp_path / "file"), there, *arguments])
    command.main(["to-torch", there, back])
    got = torch.load(back, weights_only=True)["model"]
    for key, tensor in network.state_dict().items():
        assert torch.equal(got[key], tensor), key


def test_what_is_recorded_beside_the_weights(tmp_path, capsys):
    """Class names and normalisation, on the way in and on the way out."""
    network = zoo.ResNet(3, 1, 4, (4, 6), strides=(2, 2))
    torch.save({"model": network.state_dict()}, tmp_path / "file")
    options = {"stem": 4, "widths": [4, 6], "strides": [2, 2]}
    arguments = ["--model=resnet8", f"--options={json.dumps(options)}"]
    there, back = str(tmp_path / "run"), str(tmp_path / "back")
    statistics = ["--mean=0.1,0.2,0.3", "--std=0.4,0.5,0.6", "--classes=b,a,c"]
    given = ["from-torch", str(tmp_path / "file"), there, *arguments]
    command.main([*given, *statistics])
    command.main(["to-torch", there, back])
    told = json.loads((tmp_path / "back.json").read_text())
    assert told["class_names"] == ["b", "a", "c"] and told["student"] == "supervised"
    prepared = told["preprocessing"]
    assert (prepared["mean"], prepared["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    for wrong in (["--mean=0.1,0.2,0.3"], ["--mean=1,1,1", "--std=0,1,1"]):
        with pytest.raises(SystemExit):
            command.main([*given[:2], str(tmp_path / "new"), *arguments, *wrong])
        assert "--std" in capsys.readouterr().err
    for mean, std in (("123,116,103", "0.2,0.2,0.2"), ("nan,0,0", "1,1,1")):
        wrong = [f"--mean={mean}", f"--std={std}"]
        with pytest.raises(SystemExit):
            command.main([*given[:2], str(tmp_path / "new"), *arguments, *wrong])
        assert "divide those of 0 to 255 by 255" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["from-torch", "absent", "new", "--model=resnet8"], "There is no file absent"),
        (["to-torch", "absent", "file"], "absent holds no config.json"),
    ],
)
def test_mistakes_end_with_a_message(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_folders_are_not_overwritten(converted, capsys):
    file = converted.parent / "ckpt_epoch_240.pth"
    with pytest.raises(SystemExit):
        command.main(["from-torch", str(file), str(converted), "--model=resnet8x4"])
    assert f"{converted} is there already" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from jaxkd.convert import __main__ as command;from jaxkd.convert.torch import "
        "weights; from jaxkd.training import export;"
        "command.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from-torch" in done.stdout and "to-torch" in done.stdout
