import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.step import collect_targets, make_evaluation, make_train_call
from jaxkd.core.study import init_group, make_groups
from jaxkd.core.types import Loss, LossInputs
from jaxkd.methods.common import classification
from tests.core import tiny
from tests.core.tiny import Net, Row

EXAMPLES, STEPS, SEEDS = 42, 7, (3, 8)
NET = Net(dtype=jnp.float64)

ROWS = {
    "ce": Row("supervised", 7, 0.2, network=NET),
    "kd": Row("kd", 4, 0.3, 0.02, {"temperature": 2.0}, NET),
    "rld": Row("rld", 7, 0.1, 0.005, {"beta": 2.0, "warmup": 5.0}, NET),
    # A group of its own, because its optimiser has another structure.
    "nesterov": Row("supervised", 5, 0.05, 0.01, {}, NET, nesterov=True),
}


def ce_loss(logits, target, labels, step):
    return tiny.cross_entropy(logits, labels)


def kd_loss(logits, target, labels, step):
    distilled = losses.kd(logits, target, temperature=2.0).mean()
    return 0.9 * distilled + 0.1 * tiny.cross_entropy(logits, labels)


def rld_loss(logits, target, labels, step):
    options = {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}
    refined = losses.rld(logits, target, labels, **options).mean()
    rising = jnp.minimum((step + 1) / 5, 1)
    return tiny.cross_entropy(logits, labels) + rising * refined


LOSSES = {"ce": ce_loss, "kd": kd_loss, "rld": rld_loss, "nesterov": ce_loss}


def make_index(steps, draws, seed=1, batch=tiny.BATCH):
    rng = np.random.default_rng(seed)
    return rng.integers(0, EXAMPLES, (steps, draws, batch)).astype(np.int32)


def batches_of(table, index, draw):
    return [(table["image"][i], table["label"][i]) for i in index[:, draw]]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.fixture(scope="module")
def frozen():
    with jax.enable_x64(True):
        return tiny.teacher_of(Net(width=9, dtype=jnp.float64))


@pytest.fixture(scope="module")
def float32_frozen():
    return tiny.teacher_of(Net(width=50))


@pytest.fixture(scope="module", params=["map", "vmap"])
def study(request, frozen):
    """All rows, each seed with its own draw, in float64."""
    network, variables = frozen
    with jax.enable_x64(True):
        groups = tiny.make_study(ROWS, network, SEEDS, shared=False)
        table, index = tiny.make_table(EXAMPLES), make_index(STEPS, len(SEEDS))
        study = tiny.Study(groups, variables, table, index, loop=request.param, ema=0.7)
        # Fewer steps than the padded length, and a student that ends at 4.
        return study, study.run([1, 4, 5, 7], padded=4)


@pytest.fixture(scope="module")
def alone(frozen):
    """Returns ``(name, seed) -> history, losses``, with the study's own batches."""

    @functools.cache
    def loop(name):
        return tiny.Alone(ROWS[name], LOSSES[name], frozen)

    @functools.cache
    def train(name, seed, draw_seed):
        table, index = tiny.make_table(EXAMPLES), make_index(STEPS, len(SEEDS))
        batches = batches_of(table, index, SEEDS.index(draw_seed))
        with jax.enable_x64(True):
            return loop(name).train(seed, draw_seed, batches)

    return train


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_each_member_is_what_training_it_alone_gives(study, alone, name, seed):
    study, seen = study
    history, wanted_losses = alone(name, seed, seed)
    params, model_state = history[-1]
    got = tiny.member(seen[-1][0], study.groups, name, seed)
    # Images are float32 before the network; all else is float64.
    tight = {"rtol": 1e-7, "atol": 1e-9}
    assert_close(got.params["student"], params, **tight)
    assert_close(got.model_state["student"], model_state, **tight)
    average = tiny.member(study.init(), study.groups, name, seed).params["student"]
    for params, _ in history:
        average = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, params)
    assert_close(got.ema["student"], average, **tight)
    for (_, metrics), start, stop in zip(seen, (0, 1, 4, 5), (1, 4, 5, 7), strict=True):
        if stop <= ROWS[name].steps:
            loss = tiny.member(metrics, study.groups, name, seed)["loss"]
            mean = np.mean(wanted_losses[start:stop])
            np.testing.assert_allclose(loss, mean, rtol=1e-5)


def test_students_of_equal_structure_share_a_group(study):
    groups = study[0].groups
    assert [group.members for group in groups] == [
        [(name, seed) for seed in SEEDS for name in ("ce", "kd", "rld")],
        [("nesterov", seed) for seed in SEEDS],
    ]


@pytest.mark.parametrize(("name", "call"), [("kd", 1), ("nesterov", 2)])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_student_that_has_ended_changes_no_more(study, name, call, seed):
    study, seen = study
    ended, last = (
        tiny.member(state, study.groups, name, seed).replace(step=0)
        for state in (seen[call][0], seen[-1][0])
    )
    assert_equal(ended, last)


def test_step_counts_for_all(study):
    assert {int(state.step) for state in study[1][-1][0].values()} == {STEPS}


def test_metrics_of_what_a_student_does_not_measure_are_not_a_number(study):
    study, seen = study
    metrics = tiny.member(seen[0][1], study.groups, "kd", SEEDS[0])
    assert np.isnan(metrics["rld"]) and np.isfinite(metrics["kd"])
    metrics = tiny.member(seen[0][1], study.groups, "ce", SEEDS[0])
    assert np.isnan(metrics["teacher_top1"]) and np.isfinite(metrics["ce"])


def test_one_call_of_many_steps_equals_many_calls(study):
    study, seen = study
    with jax.enable_x64(True):
        single = study.run(range(1, STEPS + 1), padded=4)
    assert_equal(single[-1][0], seen[-1][0])
    # The metrics of a call are means over its steps.
    means = jax.tree.map(lambda *x: np.mean(x, 0), *[m for _, m in single[1:4]])
    assert_close(means, seen[1][1], rtol=1e-6)


def test_padding_is_never_used(study):
    study, seen = study
    with jax.enable_x64(True):
        batches = study.batches(0, 1, 4)
        batches["data"]["index"][1:] = 7
        for rates in batches["lr"].values():
            rates["main"][1:] = np.nan
        state, _ = study.call(study.init(), study.frozen, study.table, batches, 1)
    assert_equal(state, seen[0][0])


@pytest.mark.parametrize("name", ROWS)
def test_a_seed_sees_its_own_draw_only(study, name):
    study, seen = study
    with jax.enable_x64(True):
        batches = study.batches(0, 1, 4)
        index = batches["data"]["index"]
        index[0, 1] = (index[0, 1] + 1) % EXAMPLES
        state, _ = study.call(study.init(), study.frozen, study.table, batches, 1)
    first, second = (
        [
            tiny.member(s, study.groups, name, seed).params["student"]["last"]["kernel"]
            for s in (state, seen[0][0])
        ]
        for seed in SEEDS
    )
    np.testing.assert_array_equal(*first)
    assert np.abs(second[0] - second[1]).max() > 1e-6


@pytest.mark.slow
def test_shared_batches_are_seen_by_all_seeds(frozen, alone):
    network, variables = frozen
    rows = {name: ROWS[name] for name in ("ce", "kd")}
    with jax.enable_x64(True):
        groups = tiny.make_study(rows, network, SEEDS, shared=True)
        index = make_index(STEPS, len(SEEDS))[:, :1]
        study = tiny.Study(groups, variables, tiny.make_table(EXAMPLES), index)
        state, _ = study.run([3], padded=3)[-1]
    for name in rows:
        for seed in SEEDS:
            # The first seed gives the batches and the views of all.
            history, _ = alone(name, seed, SEEDS[0])
            got = tiny.member(state, groups, name, seed)
            assert_close(got.params["student"], history[2][0], rtol=1e-7, atol=1e-9)


def test_members_draw_their_own_numbers_at_every_step(float32_frozen):
    """What dropout would use: a key of the member's seed and the step."""
    student = tiny.make_student("a", Row("supervised", 9), float32_frozen[0])
    plain = student.method

    def forward(params, model_state, batch, key):
        outputs, model_state = plain.forward(params, model_state, batch, key)
        return outputs | {"drawn": jax.random.normal(key)}, model_state

    def loss(inputs: LossInputs):
        total = plain.loss(inputs).value
        drawn = {
            "forward": inputs.outputs["drawn"],
            "loss_key": jax.random.normal(inputs.key),
        }
        return Loss(total, inputs.model_state, drawn)

    names = ("forward", "loss_key")
    student = student._replace(method=plain._replace(forward=forward, loss=loss))
    other = student._replace(name="b")
    groups = make_groups([student, other], SEEDS, True)
    table, index = tiny.make_table(EXAMPLES), make_index(2, 1)
    seen = tiny.Study(groups, float32_frozen[1], table, index).run([1, 2], padded=1)
    for step, (_, metrics) in enumerate(seen):
        for seed in SEEDS:
            key = jax.random.fold_in(jax.random.key(seed), 2)
            wanted = jax.random.normal(jax.random.fold_in(key, step))
            for name, metric in itertools.product("ab", names):
                got = tiny.member(metrics, groups, name, seed)[metric]
                np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_by_that_member_alone(
    broken, float32_frozen
):
    """Member "b" fails at step 1: it is where it was, and at step 2 goes on."""
    network, variables = float32_frozen
    sound = tiny.make_student("a", Row("supervised", 9, 0.2), network)
    plain = sound.method

    def loss(inputs: LossInputs):
        one = plain.loss(inputs)
        if broken == "loss":
            return one._replace(
                value=one.value + jnp.where(inputs.step == 1, jnp.inf, 0.0)
            )
        bias = inputs.params["student"]["last"]["bias"].sum()
        harm = jnp.where(inputs.step == 1, jnp.nan, 0.0)
        return one._replace(
            value=one.value + harm * (bias - jax.lax.stop_gradient(bias))
        )

    student = sound._replace(name="b", method=plain._replace(loss=loss))
    groups = make_groups([sound, student], (5,), True)
    table, index = tiny.make_table(EXAMPLES), make_index(3, 1)
    study = tiny.Study(groups, variables, table, index)
    seen = study.run([1, 2, 3], padded=1)
    before, at, after = (tiny.member(s, groups, "b", 5) for s, _ in seen)
    for state, other in ((before, at), (at, after)):
        other_step = other.replace(step=state.step)
        same = jax.tree.map(lambda a, b: (a == b).all(), state, other_step)
        assert all(jax.tree.leaves(same)) == (other is at)
    assert [tiny.member(m, groups, "b", 5)["skipped"] for _, m in seen] == [0, 1, 0]
    assert tiny.member(seen[1][1], groups, "b", 5)["loss"] == 0
    together = study.run([3], padded=3)[-1][1]
    finite = [tiny.member(m, groups, "b", 5)["loss"] for _, m in (seen[0], seen[2])]
    got = tiny.member(together, groups, "b", 5)
    np.testing.assert_allclose(got["loss"], np.mean(finite), rtol=1e-6)
    alone = tiny.Study(make_groups([sound], (5,), True), variables, table, index)
    wanted = tiny.member(alone.run([3], padded=3)[-1][0], alone.groups, "a", 5)
    got = tiny.member(seen[-1][0], groups, "a", 5)
    assert_close(got.params, wanted.params, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_examples_may_be_given_instead_of_an_index(float32_frozen):
    network, variables = float32_frozen
    groups = tiny.make_study({"kd": Row("kd", 3)}, network, (1,))
    table, index = tiny.make_table(EXAMPLES), make_index(2, 1)
    study = tiny.Study(groups, variables, table, index)
    wanted = study.run([2], padded=2)[-1]
    batches = study.batches(0, 2, 2)
    batches["data"] = {name: array[index] for name, array in table.items()}
    got = study.call(study.init(), study.frozen, {}, batches, 2)
    assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accumulation_changes_nothing_without_batch_norm(float32_frozen):
    plain = Net(norm=False)
    rows = {
        "ce": Row("supervised", 3, network=plain),
        "kd": Row("kd", 3, network=plain),
    }
    network, variables = float32_frozen
    groups = tiny.make_study(rows, network, (1, 2))
    table, index = tiny.make_table(EXAMPLES), make_index(3, 1)
    seen = [
        tiny.Study(groups, variables, table, index, accumulate=parts).run(
            [3], padded=3
        )[-1]
        for parts in (1, 4)
    ]
    assert_close(*seen, rtol=2e-5, atol=1e-7)


@pytest.mark.slow
def test_accumulation_updates_batch_statistics_by_each_part(frozen):
    network, variables = frozen
    groups = tiny.make_study({"ce": ROWS["ce"]}, network, (1,))
    table, index = tiny.make_table(EXAMPLES), make_index(1, 1)
    with jax.enable_x64(True):
        study = tiny.Study(groups, variables, table, index, accumulate=3)
        start = tiny.member(study.init(), groups, "ce", 1)
        state, _ = study.run([1], padded=1)[-1]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 1), 0)
        images = tiny.see(key, table["image"][index[0, 0]])
        kernel, bias = (start.params["student"]["first"][k] for k in ("kernel", "bias"))
        hidden = np.asarray(images.reshape(len(images), -1) @ kernel + bias)
    mean = np.zeros(hidden.shape[-1])
    for part in np.split(hidden, 3):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    got = tiny.member(state, groups, "ce", 1).model_state["student"]["batch_stats"][
        "mean"
    ]
    np.testing.assert_allclose(got, mean, rtol=1e-6)


@pytest.mark.slow
def test_losses_are_float32_whatever_the_network():
    network, variables = tiny.teacher_of(Net(width=9, dtype=jnp.bfloat16))
    rows = {
        name: ROWS[name]._replace(network=Net(dtype=jnp.bfloat16))
        for name in ("ce", "rld")
    }
    groups = tiny.make_study(rows, network, (1,))
    study = tiny.Study(groups, variables, tiny.make_table(EXAMPLES), make_index(2, 1))
    state, metrics = study.run([2], padded=2)[-1]
    for group in groups:
        assert metrics[group.name]["loss"].dtype == jnp.float32
        assert np.isfinite(metrics[group.name]["loss"]).all()
        for leaf in jax.tree.leaves(state[group.name].params):
            assert leaf.dtype == jnp.float32
            assert np.isfinite(leaf).all()


def test_two_functions_of_one_target_name_are_refused(frozen):
    student = tiny.make_student("kd", Row("kd", 3), frozen[0])
    other = student.method._replace(targets={"teacher": lambda *_: {"logits": 0}})
    groups = make_groups(
        [student, student._replace(name="odd", method=other)], (1,), True
    )
    with pytest.raises(UserError, match="'odd' computes 'teacher'"):
        collect_targets(groups)


def test_targets_are_needed_until_the_last_of_their_students(frozen):
    rows = {"ce": Row("supervised", 9), "rld": Row("rld", 5), "kd": Row("kd", 3)}
    targets = collect_targets(tiny.make_study(rows, frozen[0], (1,)))
    assert {name: target.until for name, target in targets.items()} == {"teacher": 5}


def flops(jaxpr, branch=max):
    """Counts the multiply-adds of products, loops times their length.

    A ``while`` counts once; of a ``cond`` the dearest branch, or the cheapest.
    """
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            part.jaxpr
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple) else (value,))
            if hasattr(part, "jaxpr")
        ]
        counts = [flops(getattr(part, "jaxpr", part), branch) for part in inner]
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += int(np.prod(out) * np.prod([left[axis] for axis in contracted]))
        elif name == "scan":
            total += equation.params["length"] * sum(counts)
        elif name == "cond":
            total += branch(counts)
        else:
            total += sum(counts)
    return total


def call_flops(students, seeds, shared, loop, frozen):
    network, variables = frozen
    rows = {f"s{i}": Row(("kd", "rld", "dkd")[i % 3], 9) for i in range(students)}
    groups = tiny.make_study(rows, network, seeds, shared)
    return flops(trace(groups, variables, loop=loop))


def trace(groups, variables, **changes):
    """Returns the train call's jaxpr, without compiling anything."""
    index = make_index(1, len(tiny.draw_seeds(groups)))
    study = tiny.Study(groups, variables, tiny.make_table(EXAMPLES), index)
    state = jax.eval_shape(lambda: {g.name: init_group(g, {}, False) for g in groups})
    call = make_train_call(groups, tiny.settings(groups, **changes))
    arguments = (state, study.frozen, study.table, study.batches(0, 1, 1), 1)
    return jax.make_jaxpr(call)(*arguments).jaxpr


def forward_flops(network, variables):
    images = jnp.zeros((tiny.BATCH, *tiny.SHAPE))
    return flops(jax.make_jaxpr(network.apply)(variables, images).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_the_teacher_is_evaluated_once_however_many_students(float32_frozen, loop):
    one, four, twelve = (
        call_flops(count, (1,), True, loop, float32_frozen) for count in (1, 4, 12)
    )
    teacher = forward_flops(*float32_frozen)
    pixels, width = int(np.prod(tiny.SHAPE)), Net().width
    # By hand: a product per layer forward, and backward one per gradient; the first
    # layer's input needs none.
    student = tiny.BATCH * (2 * pixels * width + 3 * width * tiny.CLASSES)
    assert teacher == tiny.BATCH * 50 * (pixels + tiny.CLASSES)
    assert one == teacher + student
    assert four - one == 3 * student
    assert twelve - one == 11 * student


def test_the_teacher_is_evaluated_once_for_all_seeds_of_a_shared_batch(float32_frozen):
    teacher = forward_flops(*float32_frozen)
    one = call_flops(2, (1,), True, "map", float32_frozen)
    student = (one - teacher) // 2
    shared = call_flops(2, (1, 2, 3), True, "map", float32_frozen)
    apart = call_flops(2, (1, 2, 3), False, "map", float32_frozen)
    assert shared == teacher + 6 * student
    assert apart == 3 * teacher + 6 * student


def test_the_target_function_is_traced_for_all_students_together(float32_frozen):
    calls = []

    def counted(frozen, batch, key):
        calls.append(batch["image"].shape)
        logits, _ = float32_frozen[0].apply(frozen["teacher"], batch["image"])
        return {"logits": logits}

    students = [
        tiny.make_student(f"s{i}", Row("kd", 9), float32_frozen[0]) for i in range(5)
    ]
    students = [
        s._replace(method=s.method._replace(targets={"teacher": counted}))
        for s in students
    ]
    trace(make_groups(students, (1,), True), float32_frozen[1])
    # The call is traced twice: for the shapes of its metrics, and as the loop's body.
    assert len(calls) <= 2


def test_students_and_targets_that_have_ended_need_not_be_computed(float32_frozen):
    rows = {
        "kd": Row("kd", 3),
        "dkd": Row("dkd", 3),
        "ce": Row("supervised", 9, nesterov=True),  # another group
    }
    groups = tiny.make_study(rows, float32_frozen[0], (1, 2))
    pixels, width = int(np.prod(tiny.SHAPE)), Net().width
    student = tiny.BATCH * (2 * pixels * width + 3 * width * tiny.CLASSES)
    cheapest = flops(trace(groups, float32_frozen[1]), branch=min)
    assert cheapest == 2 * student


@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_evaluation_of_members(float32_frozen, loop):
    rows = {"a": Row("supervised", 2), "b": Row("supervised", 2)}
    (group,) = tiny.make_study(rows, float32_frozen[0], (1, 2))
    state = tiny.Study([group], float32_frozen[1], {}, None).init()["group0"]
    scales = jnp.arange(1.0, 5.0)  # so that members differ
    params = jax.tree.map(
        lambda x: x * scales.reshape(-1, *[1] * (x.ndim - 1)), state.params
    )
    table = tiny.make_table(9, seed=5)
    batch = {**table, "mask": np.arange(9) < 7}

    def scale(batch):
        return batch | {"image": batch["image"] / 255.0}

    evaluate = make_evaluation(group, scale, loop)
    training = np.array([True, True, False, True])
    got = tiny.jit(evaluate)(params, state.model_state, batch, training)
    for place in range(4):
        variables = jax.tree.map(lambda x: x[place], (params, state.model_state))  # noqa: B023
        logits, _ = Net().apply(
            {"params": variables[0]["student"], **variables[1]["student"]},
            table["image"] / np.float32(255),
        )
        kept = tiny.jit(classification.evaluate)({"logits": logits}, batch)
        member = jax.tree.map(lambda x: x[place], got)  # noqa: B023
        if training[place]:
            assert_close(member, kept, rtol=1e-5)
        elif loop == "map":
            assert not member.confusion.counts.any()
