"""EDM's files, read without its code; files that mean harm are refused."""

import builtins
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import jax
import numpy as np
import pytest

from jaxkd.convert import edm
from jaxkd.convert.edm import names, network_pickle
from jaxkd.convert.torch import weights
from jaxkd.core.errors import UserError
from jaxkd.diffusion import denoisers, noise_schedules
from jaxkd.models import edm as models

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
torch_edm = pytest.importorskip("tests.torch_edm")

TINY = {"img_resolution": 4, "in_channels": 3, "out_channels": 3, "label_dim": 3}
TINY |= {"augment_dim": 0, "model_channels": 8, "channel_mult": (1,)}
TINY |= {"channel_mult_emb": 2, "num_blocks": 1, "attn_resolutions": ()}
NCSN = {"channel_mult": (1, 2, 1), "attn_resolutions": (4, 2), "augment_dim": 2}
NCSN |= {"embedding_type": "fourier", "channel_mult_noise": 2}
NCSN |= {"encoder_type": "residual", "resample_filter": (1, 3, 3, 1)}
SKIP = {"channel_mult": (1, 2), "encoder_type": "skip", "decoder_type": "skip"}
ADM = {"channel_mult": (1, 8), "attn_resolutions": (2,), "out_channels": 6}
NETWORKS = {
    "ddpmpp": ("song", TINY),
    "ncsnpp": ("song", TINY | NCSN),
    "skip": ("song", TINY | SKIP | {"label_dim": 0, "resample_filter": (1, 3, 3, 1)}),
    "adm": ("adm", TINY | ADM),
}
CLASSES = {"song": "SongUNet", "adm": "DhariwalUNet"}
QUICK = {"xla_backend_optimization_level": 0}


def iddpm_levels(steps):
    """The loop of arXiv:2206.00364, table 1, in single precision."""
    one, levels = np.float32(1), np.zeros(steps + 1, np.float32)
    times = np.arange(steps + 1, dtype=np.float32)
    alpha = np.sin(np.float32(np.pi / 2 / 1.008) * times / np.float32(steps)) ** 2
    for j in range(steps, 0, -1):
        ratio = max(alpha[j - 1] / alpha[j], np.float32(0.001))
        levels[j - 1] = np.sqrt((levels[j] ** 2 + one) / ratio - one)
    return levels


class Outer(torch.nn.Module):
    """A preconditioned network, as far as a pickle shows it."""

    def __init__(self, name, network, **arguments):
        super().__init__()
        self.class_name, self._init_kwargs = name, arguments
        self.model = network
        # What NumPy's functions leave among the attributes.
        self.skip_scale, self.grid = np.sqrt(0.5), np.arange(3.0)
        self.register_buffer("u", None)
        if name == "iDDPMPrecond":
            self.u = torch.tensor(iddpm_levels(arguments.get("M", 1000)))


def network(case="ddpmpp", **arguments):
    kind, options = NETWORKS[case]
    twin = torch_edm.randomised(torch_edm.UNet(kind, **options))
    twin.class_name, twin._init_kwargs = CLASSES[kind], dict(options) | arguments
    return twin


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a pickle as EDM's own code does, naming functions that are not there."""
    reconstruct = types.ModuleType("torch_utils.persistence")
    easy = types.ModuleType("dnnlib.util")
    exec("def _reconstruct_persistent_obj(meta): pass", vars(reconstruct))
    exec("class EasyDict(dict): pass", vars(easy))
    for module in (reconstruct, easy):
        name = module.__name__
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name))
        monkeypatch.setitem(sys.modules, name, module)
    function, EasyDict = reconstruct._reconstruct_persistent_obj, easy.EasyDict
    function.__module__, EasyDict.__module__ = reconstruct.__name__, easy.__name__

    class Pickler(pickle.Pickler):
        source = "raise SystemExit('the source was executed')"

        def reducer_override(self, thing):
            containers = (torch.nn.ModuleDict, torch.nn.Parameter)
            if not isinstance(thing, torch.nn.Module) or isinstance(thing, containers):
                return NotImplemented
            record = {
                "type": "class",
                "version": 6,
                "module_src": self.source,
                "class_name": getattr(thing, "class_name", type(thing).__name__),
                "state": vars(thing),
            }
            return function, (record,)

    def write_file(content, protocol=4, source=None):
        path = tmp_path / "network.pkl"
        if isinstance(content, torch.nn.Module):
            content = {"ema": content, "loss_fn": None, "data": EasyDict(path="x")}
        with path.open("wb") as file:
            pickler = Pickler(file, protocol)
            pickler.source = source or pickler.source
            pickler.dump(content)
        return path

    return write_file


def state_of(module):
    return {key: tensor.numpy() for key, tensor in module.state_dict().items()}


def assert_same(got, wanted):
    assert set(got) == set(wanted)
    for key, array in wanted.items():
        np.testing.assert_array_equal(got[key], array, err_msg=key)
        assert got[key].dtype == array.dtype and got[key].shape == array.shape


@pytest.mark.parametrize(
    ("case", "protocol"), [("ddpmpp", 4), ("ncsnpp", 2), ("skip", 4), ("adm", 2)]
)
def test_round_trip(case, protocol, write):
    outer = Outer("EDMPrecond", network(case, dropout=0.25), sigma_data=0.4)
    path = write(outer, protocol)
    configuration, variables = edm.load(path)
    kind, options = NETWORKS[case]
    assert configuration.network == CLASSES[kind]
    assert options.items() <= configuration.options.items()
    assert configuration.options["dropout"] == 0.25
    assert configuration[2:] == ("edm", {"sigma_data": 0.4})
    assert_same(edm.to_state(configuration, variables), state_of(outer))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".bare.npz"])
def test_state_dictionaries(suffix, tmp_path):
    outer = Outer("EDMPrecond", network())
    state, path = state_of(outer), tmp_path / f"network{suffix}"
    configuration = edm.Configuration(*names.infer(state, "the twin"))
    if suffix == ".pt":
        torch.save(outer.state_dict(), path)
    elif suffix == ".bare.npz":
        np.savez(path, **state_of(outer.model))
    else:
        variables = edm.to_variables(state, "the twin", configuration)
        edm.save(path, configuration, variables)
    got, variables = edm.load(path, precondition="ve")
    assert got == configuration._replace(precondition="ve")
    assert_same(edm.to_state(got, variables), state)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_denoiser(write):
    """The formula of the paper's first table around the network in PyTorch."""
    twin, rng = network(), np.random.default_rng(0)
    configuration, variables = edm.load(write(Outer("EDMPrecond", twin)))
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    sigma, labels = torch.tensor([0.3, 1.7]), torch.eye(3)[[2, 0]]
    s = sigma[:, None, None, None]
    total = s**2 + 0.25
    with torch.no_grad():
        output = twin(torch.tensor(x) / total.sqrt(), sigma.log() / 4, labels)
    wanted = 0.25 / total * torch.tensor(x) + 0.5 * s / total.sqrt() * output
    denoise = edm.denoiser(configuration, variables, labels.numpy())
    run = jax.jit(lambda f, *a: f(*a), compiler_options=QUICK)
    got = run(denoise, x.transpose(0, 2, 3, 1), sigma.numpy())
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), wanted, atol=1e-5)


def test_denoisers_of_other_noise(write):
    arguments = {"beta_d": 20, "beta_min": 0.2, "M": 500}
    clock = noise_schedules.LinearBeta(20, 0.2)
    for name, kind, options in (
        ("VPPrecond", denoisers.vp, {"clock": clock, "steps": 500}),
        ("VEPrecond", denoisers.ve, {}),
        ("iDDPMPrecond", denoisers.iddpm, {"steps": 500}),
    ):
        path = write(Outer(name, network(), **arguments))
        configuration, variables = edm.load(path)
        got = edm.denoiser(configuration, variables)
        wanted = kind(models.bind(edm.build(configuration), variables), **options)
        assert jax.tree.structure(got) == jax.tree.structure(wanted)
        for one, other in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_noise_levels_of_iddpm_are_no_weights(write, tmp_path):
    """They tell the preconditioning and its steps, in files of tensors too."""
    outer = Outer("iDDPMPrecond", network("adm"), M=500)
    state = state_of(outer)
    levels = state.pop("u")
    np.savez(tmp_path / "network.npz", u=levels, **state)
    torch.save(outer.state_dict(), tmp_path / "network.pt")
    for path in (write(outer), tmp_path / "network.npz", tmp_path / "network.pt"):
        configuration, variables = edm.load(path)
        assert configuration.precondition == "iddpm"
        assert configuration.precondition_options == {"steps": 500}
        assert configuration.options["out_channels"] == 6
        written = edm.to_state(configuration, variables)
        np.testing.assert_allclose(written.pop("u"), levels, rtol=1e-3)
        assert_same(written, state)
    edm.save(tmp_path / "saved.safetensors", configuration, variables)
    assert edm.load(tmp_path / "saved.safetensors")[0][2:] == configuration[2:]
    for wrong in (1.5 * levels, levels[:, None], levels[:1]):
        np.savez(tmp_path / "wrong.npz", u=wrong, **state)
        with pytest.raises(UserError, match="not iDDPM's noise levels of C_1"):
            edm.load(tmp_path / "wrong.npz")


def test_a_network_alone_and_a_training_run(write):
    twin = network()
    alone, _ = edm.load(write({"net": twin}), precondition="vp")
    assert (alone.precondition, alone.options["dropout"]) == ("vp", 0.1)
    twin._init_kwargs = None  # As if not recorded.
    configuration, _ = edm.load(write({"ema": Outer("VPPrecond", twin), "net": twin}))
    wanted = {"beta_d": 19.9, "beta_min": 0.1, "steps": 1000}
    assert configuration.precondition_options == wanted


@pytest.fixture
def training_state(write, tmp_path, monkeypatch):
    """Writes what ``torch.save`` writes of a network of EDM and its optimiser."""

    def write_file(outer, **more):
        write({"nothing": None})  # only for the names that pickles ask for
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj

        def reduce(self, protocol=None):
            record = {"type": "class", "version": 6, "state": vars(self)}
            name = getattr(self, "class_name", type(self).__name__)
            source = {"module_src": "raise SystemExit('executed')", "class_name": name}
            return function, (record | source,)

        kinds = {type(m) for m in outer.modules()} - {torch.nn.ModuleDict}
        for kind in kinds:
            monkeypatch.setattr(kind, "__reduce_ex__", reduce)
        moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}
        groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]
        optimizer = {"state": {0: moments}, "param_groups": groups}  # as Adam's
        path = tmp_path / "training-state-000001.pt"
        state = {"net": outer, "optimizer_state": optimizer}
        torch.save(state | more, path)
        for kind in kinds:
            monkeypatch.delattr(kind, "__reduce_ex__")
        return path

    return write_file


def test_training_states(training_state, tmp_path):
    outer = Outer("EDMPrecond", network(dropout=0.25), sigma_data=0.4)
    path = training_state(outer)
    with pytest.warns(UserWarning, match="its weights are the last, not their average"):
        configuration, variables = edm.load(path)
    assert configuration[2:] == ("edm", {"sigma_data": 0.4})
    assert configuration.options["dropout"] == 0.25
    assert_same(edm.to_state(configuration, variables), state_of(outer))
    with pytest.raises(UserError, match=r"as EDM's training-state.*convert\.edm\.load"):
        weights.read_state(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a whole"):
        edm.load(path)


def test_training_states_that_mean_harm(training_state, tmp_path):
    canary = tmp_path / "canary"
    call = Harmful(os.system, f"touch {canary}")
    path = training_state(Outer("EDMPrecond", network()), extra=call)
    with pytest.raises(UserError, match=r"was refused.*\.system, and no"):
        edm.load(path)
    assert not canary.exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_huge_declared_size_is_not_read(compression, tmp_path, monkeypatch):
    path = tmp_path / "training-state-000001.pt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"torch_utils.persistence" + bytes(10**6))
    if compression == zipfile.ZIP_STORED:
        # Both sizes in the central directory: four gigabytes.
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02")
        content[at + 20 : at + 28] = struct.pack("<II", 4 * 10**9, 4 * 10**9)
        path.write_bytes(content)
    largest = []
    read = zipfile.ZipFile.read

    def noted(archive, name, pwd=None):
        info = name if isinstance(name, zipfile.ZipInfo) else archive.getinfo(name)
        largest.append(info.file_size)
        return read(archive, name, pwd)

    monkeypatch.setattr(zipfile.ZipFile, "read", noted)
    assert not network_pickle.is_training_state(path)
    with pytest.raises(
        UserError,
        match=r"declares 4,000,000,000 bytes|that torch\.save did not write",
    ):
        edm.load(path)
    assert not largest


class Harmful:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["beside", "state", "arguments", "record"])
@pytest.mark.parametrize("way", ["system", "eval"])
def test_nothing_is_executed(way, place, write, tmp_path):
    canary = tmp_path / "canary"
    call = Harmful(os.system, f"touch {canary}")
    if way == "eval":
        call = Harmful(builtins.eval, f"open({str(canary)!r}, 'w').close()")
    outer = Outer("EDMPrecond", network())
    content = {"ema": outer}
    if place == "beside":
        content["optimizer"] = call
    elif place == "state":
        outer.extra = call
    elif place == "arguments":
        outer._init_kwargs["sigma_data"] = call
    else:
        outer.class_name = call
    path = write(content)
    with pytest.raises(
        UserError, match=rf"network.pkl was refused.*\w+\.{way}, and no"
    ):
        edm.load(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(call))
    assert canary.exists()  # the attack is real


def test_source_is_not_executed(write, tmp_path):
    canary = tmp_path / "canary"
    outer = Outer("EDMPrecond", network())
    path = write(outer, source=f"open({str(canary)!r}, 'w').close()")
    configuration, variables = edm.load(path)
    assert_same(edm.to_state(configuration, variables), state_of(outer))
    assert str(canary).encode() in path.read_bytes()
    assert not canary.exists()


def test_tensors_that_mean_harm(write, tmp_path):
    """A storage is a file of torch within the pickle, which is a pickle, too."""
    canary = tmp_path / "canary"
    inner = io.BytesIO()
    call = Harmful(os.system, f"touch {canary}")
    torch.save(call, inner, _use_new_zipfile_serialization=False)
    path = write({"ema": Harmful(torch.storage._load_from_bytes, inner.getvalue())})
    with pytest.raises(UserError, match=r"network.pkl was refused.*\.system, and no"):
        edm.load(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\ngetattr",
        "builtins\nexec",
        "torch\nload",
        "torch.nn.modules.linear\nLinear",
        "torch_utils.persistence\nimport_hook",
        "dnnlib.util\ncall_func_by_name",
        "numpy\nload",
        "jaxkd.convert.edm.network_pickle\nModule",
    ],
)
def test_every_other_name_is_refused(name, tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(UserError, match=f"asks for {name.replace(chr(10), '.')}, and"):
        edm.load(path)


PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
CHANGE = b"}X\x05\0\0\0stateK\x01sb."
RECORD = b"(X\x04\0\0\0typeX\x05\0\0\0classX\x0a\0\0\0class_nameX\x01\0\0\0A"


@pytest.mark.parametrize(
    "data",
    [
        # Changes of the stand-ins themselves: classes and functions.
        PERSISTENT + CHANGE,
        PERSISTENT + b"N" + CHANGE[:-2] + b"\x86b.",
        b"ctorch.nn.modules.container\nModuleDict\n" + CHANGE,
        b"ctorch.storage\n_load_from_bytes\n" + CHANGE,
        b"c_codecs\nencode\n" + CHANGE,
        b"cbuiltins\nset\n" + CHANGE,
        # A record of nothing, of no class, without a state, and one with two.
        PERSISTENT + b"N\x85R.",
        PERSISTENT + b"}\x85R.",
        PERSISTENT + b"}" + RECORD + b"u\x85R.",
        PERSISTENT + b"}" + RECORD + b"X\x05\0\0\0state}u\x85R" + CHANGE,
        # A record that was never made, and a storage that is no bytes.
        b"\x80\x02" + PERSISTENT + b")\x81.",
        b"ctorch.storage\n_load_from_bytes\nX\x01\0\0\0a\x85R.",
        # A network that is a part of itself.
        PERSISTENT
        + b"}"
        + RECORD
        + b"X\x05\0\0\0state}q\x01X\x08\0\0\0_modules}q\x02su"
        + b"\x85Rq\x03h\x02X\x01\0\0\0ah\x03s0h\x03.",
    ],
)
def test_damaged_or_foreign_pickles(data, tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    kept = [
        dict(vars(kind)) for kind in (network_pickle.Module, network_pickle._Persistent)
    ]
    with pytest.raises(UserError, match="is not a whole pickle of EDM"):
        edm.load(path)
    now = [
        dict(vars(kind)) for kind in (network_pickle.Module, network_pickle._Persistent)
    ]
    assert now == kept


def test_truncated_files(write, tmp_path):
    path = write(Outer("EDMPrecond", network()))
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(
            UserError, match=f"not a whole pickle.*It has {size:,} byte"
        ):
            edm.load(path)
    np.savez(tmp_path / "a.npz", a=np.ones(500))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(UserError, match=r"not a whole \.npz.*It has 300 bytes"):
        edm.load(tmp_path / "a.npz")
    for name in ("absent.pkl", "absent.npz", "absent.safetensors"):
        with pytest.raises(UserError, match="There is no file"):
            edm.load(tmp_path / name)


def test_networks_of_others(write):
    with pytest.raises(UserError, match=r"dictionary of model, x\. Expected a network"):
        edm.load(write({"model": 1, "x": 2}))
    strange = network()
    strange.class_name = "MyUNet"
    with pytest.raises(UserError, match=r"holds a EDMPrecond of MyUNet\. Expected"):
        edm.load(write(Outer("EDMPrecond", strange)))
    with pytest.raises(UserError, match=r"holds a Better of SongUNet\. Expected"):
        edm.load(write(Outer("Better", network())))
    with pytest.raises(UserError, match="the option colour, which is not EDM's"):
        edm.load(write(Outer("EDMPrecond", network(colour="red"))))
    with pytest.raises(UserError, match=r"sigma_data of type str\. Expected a number"):
        edm.load(write(Outer("EDMPrecond", network(), sigma_data="0.5")))
    with pytest.raises(UserError, match=r"C_1=0\.1\. Expected 0\.001"):
        edm.load(write(Outer("iDDPMPrecond", network("adm"), C_1=0.1)))


def test_wrong_tensors_are_listed(tmp_path):
    state = state_of(network("ncsnpp"))
    configuration = edm.Configuration(*names.infer(state, "x"))
    first = "enc.4x4_block0"
    wrong = dict(state) | {"spare": np.ones(2, np.float32)}
    del wrong[f"{first}.norm0.bias"]
    wrong[f"{first}.conv1.bias"] = np.ones(9, np.float32)
    np.savez(tmp_path / "a.npz", **wrong)
    with pytest.raises(UserError) as caught:
        edm.load(tmp_path / "a.npz")
    message = str(caught.value)
    assert f"missing: {first}.norm0.bias" in message
    assert "unexpected: spare" in message
    assert f"{first}.conv1.bias: got (9,), expected (8,)" in message
    filters = {key: array for key, array in state.items() if "filter" in key}
    assert len(filters) == 10
    wrong = state | {key: array[:, :, ::-1] * 2 for key, array in filters.items()}
    with pytest.raises(UserError, match="is not the filter"):
        edm.to_variables(wrong, "a file", configuration)
    with pytest.raises(UserError, match="holds no network of EDM: its 1 tensors"):
        names.infer({"a.weight": np.ones(2)}, "a file")
    variables = edm.to_variables(state, "a file", configuration)
    del variables["params"]["map_layer0"]["bias"]
    with pytest.raises(UserError, match="missing: params/map_layer0/bias"):
        edm.to_state(configuration, variables)


def test_wrong_arguments(tmp_path):
    configuration = edm.Configuration("SongUNet", TINY)
    with pytest.raises(UserError, match=r"precondition is 'cosine'\. Expected edm, vp"):
        edm.load(tmp_path / "a.npz", precondition="cosine")
    with pytest.raises(UserError, match=r"precondition is 'cosine'\. Expected edm, vp"):
        edm.denoiser(configuration._replace(precondition="cosine"), {})
    more = configuration._replace(precondition_options={"sigma": 1.0})
    with pytest.raises(UserError, match=r"no option sigma\. Options: sigma_data"):
        edm.denoiser(more, {})
    with pytest.raises(UserError, match=r"no network 'UNet' of EDM\. Expected"):
        edm.build(configuration._replace(network="UNet"))
    with pytest.raises(UserError, match="SongUNet has no option colour"):
        edm.build(configuration, colour=1)
    with pytest.raises(UserError, match=r"ends in '.pkl'. Expected .npz or"):
        edm.save(tmp_path / "a.pkl", configuration, {})
