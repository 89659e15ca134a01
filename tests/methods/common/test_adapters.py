"""Methods with something of their own to train or to remember, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses, models
from jaxkd.core.errors import UserError
from jaxkd.methods import fitnet, reviewkd
from tests.methods.feature_net import (
    ALL_OTHERS,
    STUDENT,
    TEACHER,
    WEIGHTS,
    Once,
    batch,
    check_total,
    cross_entropy,
    features_of,
    float64,
    jit,
    largest,
    make,
    once,
)


def relu(x):
    return np.maximum(x, 0)


def norm(x, p):
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    return x * p["scale"] + p["bias"]


def conv(x, p, stride=1, pad=0):
    kernel = p["kernel"]
    (height, width), grid = kernel.shape[:2], []
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for top in range(0, x.shape[1] - height + 1, stride):
        lefts = range(0, x.shape[2] - width + 1, stride)
        windows = [x[:, top : top + height, j : j + width] for j in lefts]
        grid.append([np.tensordot(w, kernel, 3) for w in windows])
    return np.moveaxis(np.array(grid), 2, 0) + p.get("bias", 0)


def transposed_conv(x, p):
    """Kernel 4, stride 2, padding 1: each pixel adds its patch to the output."""
    kernel = p["kernel"][::-1, ::-1]
    n, h, w, _ = x.shape
    full = np.zeros((n, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for i, j, u, v in np.ndindex(h, w, 4, 4):
        full[:, 2 * i + u, 2 * j + v] += x[:, i, j] @ kernel[u, v]
    return full[:, 1:-1, 1:-1] + p["bias"]


def halved(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


REGRESSORS = {
    "same size": (4, 4, conv),
    "larger": (7, 4, conv),
    "twice": (6, 3, functools.partial(conv, stride=2, pad=1)),
    "half": (3, 6, transposed_conv),
}


def fit(student_size, teacher_size):
    rng = np.random.default_rng(0)
    student = rng.normal(size=(3, student_size, student_size, 2)).astype(np.float32)
    teacher = rng.normal(size=(3, teacher_size, teacher_size, 5)).astype(np.float32)
    maps = {"features": {"map": student}}, {"teacher": {"features": {"map": teacher}}}

    def run(key):
        value, variables = fitnet.Hint("map").init_with_output(key, *maps, {})
        return value, variables["params"]

    value, params = jax.device_get(jit(run)(jax.random.key(0)))
    return float64((student, teacher, value, params))


@pytest.mark.parametrize("case", REGRESSORS)
def test_fitnet_chooses_its_convolution_by_the_sizes(case):
    *sizes, convolve = REGRESSORS[case]
    student, teacher, value, params = fit(*sizes)
    predicted = relu(norm(convolve(student, params["conv"]), params["bn"]))
    wanted = ((predicted - teacher) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


@pytest.mark.torch
@pytest.mark.slow
def test_fitnets_transposed_convolution_is_torchs():
    torch = pytest.importorskip("torch")
    student, teacher, value, params = fit(3, 6)
    # torch: [in, out, height, width], not turned round.
    kernel = params["conv"]["kernel"][::-1, ::-1].transpose(2, 3, 0, 1)
    x = torch.nn.functional.conv_transpose2d(
        torch.tensor(student.transpose(0, 3, 1, 2)),
        torch.tensor(kernel.copy()),
        torch.tensor(params["conv"]["bias"]),
        stride=2,
        padding=1,
    )
    predicted = relu(norm(x.numpy().transpose(0, 2, 3, 1), params["bn"]))
    wanted = ((predicted - teacher) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)


@pytest.mark.slow
def test_fitnet_compares_the_chosen_layer():
    for layer in ("stage2", "stage3"):
        seen = once("fitnet", (("layer", layer),) if layer != "stage2" else ())()
        student, teacher = (x[layer] for x in features_of(seen))
        p = float64(seen.params["fitnet"])
        if layer == "stage2":  # 4 and 2
            x = conv(student, p["conv"], stride=2, pad=1)
        else:  # 2 and 4
            x = transposed_conv(student, p["conv"])
        term = ((relu(norm(x, p["bn"])) - teacher) ** 2).mean()
        check_total(seen, "fitnet", term)


def test_fitnet_refuses_what_it_cannot_compare():
    with pytest.raises(UserError, match=r"'stage9'.*one of stage1, stage1_preact"):
        Once(make("fitnet", {"layer": "stage9"}))
    with pytest.raises(UserError, match="'pooled', which is no map"):
        Once(make("fitnet", {"layer": "pooled"}))
    with pytest.raises(UserError, match=r"is 3x3 and the teacher's 8x8.*option layer"):
        fit(3, 8)


@pytest.mark.slow
@pytest.mark.parametrize("official", [False, True])
def test_vid_predicts_every_stage(official):
    seen = once("vid", (("official", official),))()
    s, t = features_of(seen)
    # Sizes are 8, 4, 2 and 8, 2, 4; the student is pooled before the prediction.
    pairs = (
        (s["stage1"], t["stage1"]),
        (halved(s["stage2"]), t["stage2"]),
        (s["stage3"], halved(t["stage3"])),
    )
    own, term = float64(seen.params["vid"]), 0.0
    for number, (x, wanted) in enumerate(pairs, start=1):
        p = own[f"pair{number}"]
        for layer in ("conv1", "conv2"):
            x = relu(conv(x, p[layer]))
        x = conv(x, p["conv3"])
        assert ("rho" in p) is not official
        term += 0.5 * ((x - wanted) ** 2 / 5 + np.log(5)).mean()
    check_total(seen, "vid", term)


@pytest.mark.slow
def test_vids_variance_is_per_channel_and_trained():
    study = once("vid", (("official", False),))
    rho = study.start[0]["vid"]["pair1"]["rho"]
    np.testing.assert_allclose(np.log1p(np.exp(rho)) + 1e-5, 5, rtol=1e-6)
    assert rho.shape == (TEACHER.widths[0],)
    own = study.gradients()[0]["vid"]
    assert all((own[f"pair{n}"]["rho"] != 0).all() for n in (1, 2, 3))


@pytest.mark.slow
def test_ofd_counts_each_stage_half_as_much_as_the_next():
    seen = once("ofd")()
    s, t = features_of(seen)
    own, teacher = float64((seen.params["ofd"], once("ofd").frozen["teacher"]))
    term = 0.0
    for number, share in ((1, 0.25), (2, 0.5), (3, 1.0)):
        x = conv(s[f"stage{number}_preact"], own[f"conv{number}"])
        x = norm(x, own[f"bn{number}"])
        before_relu = teacher["params"]["norms"][str(number)]
        margins = losses.ofd_margins(before_relu["scale"], before_relu["bias"])
        target = t[f"stage{number}_preact"]
        term += share * losses.ofd(x, target, margins).mean()
    check_total(seen, "ofd", term, rtol=2e-4)


NETWORKS = {
    "resnet8": {"stem": 4, "widths": (4, 5, 6), "blocks": (1, 2, 1)},
    "ResNet50": {"stem": 4, "widths": (2, 3), "strides": (1, 2), "blocks": (1, 2)},
    "wrn_16_1": {"blocks": 1},
    "vgg11": {"blocks": ((3,), (4,), (5, 6), (6,), (7, 3))},
    "MobileNetV2": {"stem": 4, "head": 8, "groups": ((1, 4, 1, 1), (2, 4, 2, 2))},
    "MobileNetV1": {},
    "ShuffleV1": {"widths": (48, 96), "blocks": (2, 2)},
}


def drawn(shapes):
    """Draws kernels and leaves norms as they start, which is quicker than ``init``."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-1].key == "kernel":
            return 0.05 * rng.normal(size=x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_margins_come_from_the_norm_that_precedes_each_tap(name):
    network = models.build(name, 3, **NETWORKS[name])
    shape = (32, 32, 3) if name == "MobileNetV1" else (8, 8, 3)
    images = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    variables = drawn(jax.eval_shape(network.init, jax.random.key(0), images))
    features = jit(lambda v: network.apply(v, images)[1])
    margins = make("ofd", teacher=network).targets["ofd_margins"]
    plain = jax.device_get(features(variables))
    taps = {f"stage{n}" for n in range(1, 9) if f"stage{n}" in plain}
    assert set(network.preact_norms) == taps
    for stage, path in network.preact_norms.items():

        def moved(keys, x, path=path):
            names = tuple(key.key for key in keys)
            return x + 0.5 if names == ("params", *path, "bias") else x

        changed = jax.tree_util.tree_map_with_path(moved, variables)
        # The tap is what this norm returns, plus the shortcut where there is one.
        tap = f"{stage}_preact"
        shift = features(changed)[tap] - plain[tap]
        width = changed["params"]
        for key in path:
            width = width[key]
        channels = width["bias"].shape[0]
        np.testing.assert_allclose(shift[..., :channels], 0.5, atol=1e-4)
        assert channels == plain[tap].shape[-1]
        before = margins({"teacher": variables}, None, None)
        after = margins({"teacher": changed}, None, None)
        differs = {n for n in taps if (before[n] != after[n]).all()}
        assert differs == {stage}
        assert all((before[n] == after[n]).all() for n in taps - {stage})


def test_ofd_refuses_a_teacher_without_norms_before_its_relus():
    with pytest.raises(UserError, match=r"a ShuffleNetV2, has no preact_norms"):
        make("ofd", teacher=models.build("ShuffleV2", 3))


def test_students_share_the_target_of_the_margins():
    made = [make("ofd"), make("ofd", {"ofd_weight": 2.0}), make("kd+ofd")]
    assert len({method.targets["ofd_margins"] for method in made}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("preact", [False, True])
def test_reviewkd_fuses_levels_from_the_deepest_up(preact):
    seen = once("reviewkd", (("student_preact", preact), ("warmup", 0.0)))()
    s, t = features_of(seen)
    suffix = "_preact" if preact else ""
    own, residual, term = float64(seen.params["reviewkd"]), None, 0.0
    levels = [s[f"stage{n}{suffix}"] for n in (3, 2, 1)]
    targets = [t[f"stage{n}_preact"] for n in (3, 2, 1)]
    levels = [s["pooled"][:, None, None], *levels]
    targets = [t["pooled"][:, None, None], *targets]
    for number, (x, target) in enumerate(zip(levels, targets, strict=True)):
        p = own[f"level{number}"]
        x = norm(conv(x, p["conv1"]), p["bn1"])
        assert x.shape[-1] == STUDENT.widths[-1]
        if number:
            residual = resized(residual, x.shape[1])
            both = np.concatenate([x, residual], axis=-1)
            z = both @ p["attention"]["kernel"] + p["attention"]["bias"]
            z = 1 / (1 + np.exp(-z))
            x = x * z[..., :1] + residual * z[..., 1:]
        residual = x = resized(x, target.shape[1])
        y = norm(conv(x, p["conv2"], pad=1), p["bn2"])
        term += losses.hierarchical_context(y, target).mean()
    check_total(seen, "reviewkd", term, rtol=1e-3)


def resized(x, size):
    """Looks up the nearest pixel to the upper left, one by one."""
    index = [int(np.floor(i * x.shape[1] / size)) for i in range(size)]
    return np.stack([np.stack([x[:, i, j] for j in index], 1) for i in index], 1)


@pytest.mark.torch
@pytest.mark.slow
def test_reviewkds_resize_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    for size in ((3, 3), (7, 14), (5, 7), (12, 4)):
        got = reviewkd.nearest(jnp.asarray(x), size)
        nchw = torch.tensor(x.transpose(0, 3, 1, 2))
        wanted = torch.nn.functional.interpolate(nchw, size).numpy()
        np.testing.assert_array_equal(got, wanted.transpose(0, 2, 3, 1))


@pytest.mark.slow
def test_reviewkd_rises_over_twenty_units():
    study = Once(make("reviewkd"), step=35)  # the fourth of ten steps each
    seen = study()
    ce = cross_entropy(seen.outputs["logits"], batch()["label"])
    wanted = ce + 5 * 4 / 20 * seen.metrics["reviewkd"]
    np.testing.assert_allclose(seen.total, wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_adapters_and_student_learn_and_the_teacher_does_not(name):
    options = {"ce_weight": 0.0}
    if name == "crd":
        options |= dict(ALL_OTHERS)
    own, outputs, targets = Once(make(name, options)).gradients()
    kernels = [
        x
        for path, x in jax.tree_util.tree_leaves_with_path(own[name])
        if path[-1].key == "kernel"
    ]
    assert kernels
    assert min(abs(kernel).max() for kernel in kernels) > 1e-7
    assert largest(own["student"]) == 0  # it is reached through its outputs alone
    assert largest(outputs["features"]) > 1e-7
    assert largest(outputs["logits"]) == 0
    if name != "crd":  # whose embedding of the teacher's features is trained
        assert largest(targets) == 0


@pytest.mark.parametrize("name", ["crd", "ofd"])
def test_targets_pass_no_gradient_to_the_teacher(name):
    method = make(name)

    def total(frozen):
        made = [f(frozen, batch(), None) for f in method.targets.values()]
        return sum(jnp.sum(x) for x in jax.tree.leaves(made))

    assert largest(jit(jax.grad(total))(once("ofd").frozen)) == 0


@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_options_are_refused(name):
    with pytest.raises(UserError, match=rf"no option '{name}_wieght'.*{name}_weight"):
        make(name, {f"{name}_wieght": 1.0})


@pytest.mark.slow
def test_a_sum_is_the_sum_of_its_parts():
    options = {"rld": {"beta": 2.0}, "crd": {"crd_weight": 2.0, **dict(ALL_OTHERS)}}
    both = Once(make("rld+crd+vid", options))()
    rld = Once(make("rld", {"beta": 2.0}))()
    term = once("crd", ALL_OTHERS)().metrics["crd"]
    vid = once("vid", (("official", False),))().metrics["vid"]
    np.testing.assert_allclose(both.total, rld.total + 2 * term + vid, rtol=1e-5)
    assert set(both.params) == {"student", "crd", "vid"}
    assert both.model_state["crd"]["memory"]["started"]
