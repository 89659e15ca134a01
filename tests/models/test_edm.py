"""EDM's networks against PyTorch in float64, their sizes, starts and mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.convert import edm as convert
from jaxkd.diffusion import denoisers
from jaxkd.models import edm
from jaxkd.models.edm import layers

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
torch_edm = pytest.importorskip("tests.torch_edm")

# Parameters of published networks.
PARAMETERS = {
    "cifar10-32x32-uncond-vp": 55_733_891,
    "cifar10-32x32-cond-ve": 56_400_643,
    "ffhq-64x64-uncond-vp": 61_805_571,
    "imagenet-64x64-cond-adm": 295_899_267,
}
# Compiling takes longer than running.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
SMALL = {
    "img_resolution": 8,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
    "channel_mult_emb": 2,
}
NCSN = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": (1, 3, 3, 1),
}
CASES = {
    "ddpmpp": ("song", SMALL | {"label_dim": 3, "augment_dim": 2}),
    "ncsnpp": ("song", SMALL | NCSN | {"augment_dim": 2}),
    "skip": (
        "song",
        SMALL
        | {"encoder_type": "skip", "decoder_type": "skip", "attn_resolutions": ()}
        | {"resample_filter": (1, 3, 3, 1), "in_channels": 1, "out_channels": 2},
    ),
    # Levels without a head and with two.
    "adm": (
        "adm",
        SMALL
        | {"model_channels": 32, "channel_mult": (1, 4), "attn_resolutions": (8, 4)}
        | {"label_dim": 3, "augment_dim": 2, "out_channels": 6},
    ),
}
NETWORKS = {"song": "SongUNet", "adm": "DhariwalUNet"}
TINY = {"img_resolution": 4, "model_channels": 8, "channel_mult": (1,)}
TINY |= {"num_blocks": 1, "attn_resolutions": (), "channel_mult_emb": 2}


def shapes(network):
    side = network.img_resolution
    images = jnp.zeros((1, side, side, network.in_channels))
    return jax.eval_shape(network.init, jax.random.key(0), images, jnp.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    network = edm.build(name)
    count = sum(x.size for x in jax.tree.leaves(shapes(network)["params"]))
    foreign = {"parent", "name", "dtype", "label_dropout"}
    options = {f: getattr(network, f) for f in network.__dataclass_fields__}
    options = {key: value for key, value in options.items() if key not in foreign}
    with torch.device("meta"):
        twin = torch_edm.UNet("adm" if name.endswith("adm") else "song", **options)
    assert count == sum(p.numel() for p in twin.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "like", "options"),
    [
        ("cifar10-32x32-cond-vp", "cifar10-32x32-uncond-vp", {"label_dim": 10}),
        ("cifar10-32x32-uncond-ve", "cifar10-32x32-cond-ve", {"label_dim": 0}),
        ("afhqv2-64x64-uncond-vp", "ffhq-64x64-uncond-vp", {"dropout": 0.25}),
        ("ffhq-64x64-uncond-vp", "afhqv2-64x64-uncond-vp", {"dropout": 0.05}),
        ("afhqv2-64x64-uncond-ve", "ffhq-64x64-uncond-ve", {"dropout": 0.25}),
        ("ffhq-64x64-uncond-ve", "ffhq-64x64-uncond-vp", NCSN),
        ("cifar10-32x32-uncond-ve", "cifar10-32x32-uncond-vp", NCSN),
    ],
)
def test_published_networks_that_are_alike(name, like, options):
    assert edm.build(name) == edm.build(like, **options) != edm.build(like)


def inputs(options):
    rng = np.random.default_rng(0)
    side, channels = options["img_resolution"], options.get("in_channels", 3)
    images = rng.normal(size=(2, side, side, channels))
    classes, augment = options.get("label_dim"), options.get("augment_dim")
    class_labels = np.eye(classes)[[2, 0]] if classes else None
    augment_labels = rng.normal(size=(2, augment)) if augment else None
    return images, np.array([-1.2, 0.7]), class_labels, augment_labels


def pair(kind, options):
    """A torch network of random weights, and our variables of it in float64."""
    twin = torch_edm.randomised(torch_edm.UNet(kind, **options))
    state = {key: tensor.numpy() for key, tensor in twin.state_dict().items()}
    configuration = convert.Configuration(NETWORKS[kind], options)
    variables = convert.to_variables(state, "the twin", configuration)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    return twin.double(), configuration, variables


def run_torch(twin, images, *labels):
    tensors = [None if x is None else torch.from_numpy(x) for x in labels]
    with torch.no_grad():
        result = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)), *tensors)
    return result.numpy().transpose(0, 2, 3, 1)


def run(network, variables, *arguments, **options):
    apply = functools.partial(network.apply, **options)
    return jax.jit(apply, compiler_options=QUICK)(variables, *arguments)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c == "skip")) for c in CASES]
)
def test_parity(case):
    kind, options = CASES[case]
    twin, configuration, variables = pair(kind, options)
    wanted = run_torch(twin, *inputs(options))
    with jax.enable_x64(True):
        network = convert.build(configuration, dtype=jnp.float64)
        apply = jax.jit(network.apply, compiler_options=QUICK)
        got = apply(variables, *inputs(options))
        # Taking queries, keys and values as thirds is the likeliest mistake of all.
        thirds = variables["params"]["dec_4x4_in0"]["qkv"]
        split = [thirds["kernel"][..., i::3] for i in range(3)]
        thirds["kernel"] = np.concatenate(split, axis=-1)
        mistaken = np.asarray(apply(variables, *inputs(options)))
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, atol=1e-9)
    assert np.abs(mistaken - wanted).max() > 0.01


@pytest.mark.parametrize("kind", ["song", "adm"])
def test_no_labels_are_no_class_and_no_augmentation(kind):
    options = TINY | {"label_dim": 3, "augment_dim": 2}
    twin, configuration, variables = pair(kind, options)
    images, noise, _, _ = inputs(options)
    wanted = run_torch(twin, images, noise, np.zeros((2, 3)), None)
    with jax.enable_x64(True):
        network = convert.build(configuration, dtype=jnp.float64)
        got = run(network, variables, images, noise)
    np.testing.assert_allclose(got, wanted, atol=1e-9)


@pytest.mark.slow
def test_gradients():
    options = TINY | {"label_dim": 3} | {"attn_resolutions": (4,), "model_channels": 64}
    twin, configuration, variables = pair("adm", options)
    images, noise, labels, _ = inputs(options)
    result = twin(*map(torch.from_numpy, (images.transpose(0, 3, 1, 2), noise, labels)))
    (result**2).mean().backward()
    wanted = {f"model.{name}": p.grad.numpy() for name, p in twin.named_parameters()}

    def loss(variables):
        return jnp.mean(network.apply(variables, images, noise, labels) ** 2)

    with jax.enable_x64(True):
        network = convert.build(configuration, dtype=jnp.float64)
        gradient = jax.jit(jax.grad(loss), compiler_options=QUICK)(variables)
    for name, got in convert.to_state(configuration, gradient).items():
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(got, wanted[name], atol=1e-6 * scale, err_msg=name)


def test_half_precision():
    options = TINY | {"model_channels": 64, "label_dim": 3}
    twin, configuration, variables = pair("adm", options)
    variables = jax.tree.map(jnp.float32, variables)
    images, noise, labels, _ = inputs(options)
    arguments = jnp.float32(images), jnp.float32(noise), jnp.float32(labels)
    half = convert.build(configuration, dtype=jnp.bfloat16)
    got = run(half, variables, *arguments)
    wanted = run_torch(twin, *inputs(options))
    assert got.dtype == jnp.float32
    assert np.isfinite(got).all()
    assert 1e-4 < np.std(got - wanted) / np.std(wanted) < 0.05
    # Of normalisation and of softmax.
    found = {"rsqrt": set(), "exp": set()}
    collect(jax.make_jaxpr(half.apply)(variables, *arguments).jaxpr, found)
    assert found == {"rsqrt": {jnp.dtype("float32")}, "exp": {jnp.dtype("float32")}}


def collect(jaxpr, found):
    """Notes the types on which the named primitives are computed."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in found:
            found[equation.primitive.name].add(equation.invars[0].aval.dtype)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                collect(inner, found)


def start(name, parts, **options):
    """The named parts of new parameters, and the constants."""
    network = edm.build(name, **(TINY | options))

    def init(key):
        variables = network.init(key, jnp.zeros((1, 4, 4, 3)), jnp.zeros(1))
        params = {part: variables["params"][part] for part in parts}
        return params, variables.get("constants")  # only these are compiled

    # Of the kinds of random numbers, the one that compiles fastest.
    key = jax.random.key(0, impl="unsafe_rbg")
    return jax.jit(init, compiler_options=QUICK)(key)


def test_initial_values_of_song():
    parts = ("dec_4x4_in0", "map_label", "dec_4x4_aux_conv")
    params, constants = start("cifar10-32x32-cond-ve", parts, model_channels=16)
    block = params["dec_4x4_in0"]
    bound = (6 / (9 * 32)) ** 0.5  # Xavier's, of 16 channels to 16.
    for layer, scale in (("conv0", 1.0), ("conv1", 1e-5)):
        largest = np.abs(block[layer]["kernel"]).max()
        assert 0.98 * scale * bound < largest <= scale * bound
        assert not block[layer]["bias"].any()
    bound = (0.2 * 6 / (16 + 48)) ** 0.5
    assert 0.98 * bound < np.abs(block["qkv"]["kernel"]).max() <= bound
    assert not block["qkv"]["bias"].any()
    bound = (6 / (10 + 32)) ** 0.5
    assert 0.95 * bound < np.abs(params["map_label"]["kernel"]).max() <= bound
    assert np.abs(params["dec_4x4_aux_conv"]["kernel"]).max() < 1e-5
    assert 8 < np.std(constants["map_noise"]["freqs"]) < 28


def test_initial_values_of_dhariwal():
    parts = ("dec_4x4_in0", "map_label", "map_augment", "out_conv")
    options = {"model_channels": 64, "augment_dim": 2}
    params, _ = start("imagenet-64x64-cond-adm", parts, **options)
    block = params["dec_4x4_in0"]
    for layer, inputs in (("conv0", 9 * 64), ("affine", 128), ("qkv", 64)):
        for leaf in ("kernel", "bias"):
            largest = np.abs(block[layer][leaf]).max()
            assert 0.9 * inputs**-0.5 < largest <= inputs**-0.5
    for zero in (block["conv1"], block["proj"], params["out_conv"]):
        assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
    assert not params["map_augment"]["kernel"].any()
    assert np.std(params["map_label"]["kernel"]) == pytest.approx(1, rel=0.02)


def test_training_drops_features_and_classes():
    options = TINY | {"label_dim": 3}
    _, configuration, variables = pair("song", options)
    variables = jax.tree.map(jnp.float32, variables)
    images, noise, labels, _ = (
        None if x is None else jnp.float32(x) for x in inputs(options)
    )
    network = convert.build(configuration, dropout=0.5, label_dropout=1.0)

    def train(labels, key):
        keys = {"dropout": key}
        return network.apply(variables, images, noise, labels, train=True, rngs=keys)

    apply = jax.jit(train, compiler_options=QUICK)
    one = apply(labels, jax.random.key(0))
    np.testing.assert_array_equal(one, apply(0 * labels, jax.random.key(0)))
    assert np.abs(one - apply(labels, jax.random.key(1))).max() > 0.01


def test_equal_bindings_share_what_is_compiled():
    tree = {"params": jnp.zeros(2)}
    one, two = (edm.bind(edm.build("ffhq-64x64-uncond-vp"), tree) for _ in range(2))
    other = edm.bind(edm.build("ffhq-64x64-uncond-ve"), tree)
    one, two, other = map(denoisers.edm, (one, two, other))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert jax.tree.structure(one) != jax.tree.structure(other)
    # Its arrays are arguments, not constants.
    assert any(leaf is tree["params"] for leaf in jax.tree.leaves(one))


def test_resampling():
    """Against torch's own, with a filter that is not symmetric."""
    taps = (1, 2, 4, 8, 3, 1)
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)
    for resample in ("up", "down"):
        layer = torch_edm.Layer(3, 3, 0, resample, taps)
        wanted = run_torch(layer, images)
        function = functools.partial(getattr(layers, f"{resample}sample"), taps=taps)
        got = jax.jit(function, compiler_options=QUICK)(images)
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="Did you mean 'ffhq-64x64-uncond-vp'"):
        edm.build("ffhq-64x64-uncon-vp")
    with pytest.raises(ValueError, match="SongUNet has no option colour"):
        edm.build("cifar10-32x32-cond-vp", colour=1)
    with pytest.raises(ValueError, match="'cosine'; expected positional or fourier"):
        shapes(edm.build("cifar10-32x32-cond-vp", embedding_type="cosine"))
    with pytest.raises(ValueError, match=r"\(1, 2, 1\); expected an even number"):
        shapes(edm.build("cifar10-32x32-cond-vp", resample_filter=(1, 2, 1)))
    with pytest.raises(ValueError, match="is 30; expected a multiple of 4"):
        shapes(edm.build("cifar10-32x32-cond-vp", img_resolution=30))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": jnp.zeros((2, 8, 8, 3))}, r"images of shape \(2, 8, 8, 3\)"),
        ({"noise_labels": jnp.zeros(3)}, r"noise_labels.*\(3,\); expected \(2,\)"),
        ({"class_labels": jnp.zeros(2)}, r"class_labels.*expected \(2, 10\)"),
        ({"augment_labels": jnp.zeros((2, 1))}, r"augment_labels.*expected \(2, 9\)"),
    ],
)
def test_wrong_shapes_are_explained(changed, message):
    network = edm.build("cifar10-32x32-cond-vp")
    right = {"images": jnp.zeros((2, 32, 32, 3)), "noise_labels": jnp.zeros(2)}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), **(right | changed)))
