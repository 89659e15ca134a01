import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.study import init_best, init_group, make_groups, update_best
from jaxkd.core.types import TrainState
from tests.core import tiny
from tests.core.tiny import Net, Row

SEEDS = (4, 9)


def group_of(rows, shared=True):
    (group,) = tiny.make_study(rows, Net(width=9), SEEDS, shared)
    return group


@pytest.fixture(scope="module")
def group():
    return group_of({"b": Row("kd", 8), "a": Row("supervised", 5, lr=0.3)})


@pytest.fixture(scope="module")
def state(group):
    return jax.device_get(tiny.jit(lambda: init_group(group, {}, True))())


def test_members_come_seed_by_seed_in_the_order_given(group):
    assert group.members == [("b", 4), ("a", 4), ("b", 9), ("a", 9)]
    np.testing.assert_array_equal(group.student_index, [0, 1, 0, 1])
    np.testing.assert_array_equal(group.member_seeds, [4, 4, 9, 9])
    np.testing.assert_array_equal(group.per_member([7, 8]), [7, 8, 7, 8])


def test_draws_are_shared_or_one_per_seed(group):
    np.testing.assert_array_equal(group.draw_index, [0, 0, 0, 0])
    apart = group._replace(shared_batches=False)
    np.testing.assert_array_equal(apart.draw_index, [0, 0, 1, 1])


def test_learning_rates_are_each_students_own(group):
    steps = np.arange(2, 6)
    cosine = {
        end: 0.5 * (1 + np.cos(np.pi * np.minimum(steps / end, 1))) for end in (5, 8)
    }
    wanted = np.stack([0.1 * cosine[8], 0.3 * cosine[5]] * 2, axis=1)
    got = group.learning_rates(2, 4)["main"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-7)


def test_seeds_start_apart_and_students_of_a_seed_together(state):
    kernel = state.params["student"]["first"]["kernel"]
    assert kernel.shape == (4, int(np.prod(tiny.SHAPE)), 6)
    assert np.abs(kernel[0] - kernel[2]).max() > 0.01
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[::2], x[1::2]), state.params)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert state.step == 0 and state.step.shape == ()


def test_the_start_does_not_depend_on_who_else_is_in_the_study(state):
    alone = group_of({"other": Row("dkd", 3)})._replace(seeds=(9,))
    own = jax.device_get(tiny.jit(lambda: init_group(alone, {}, False))())
    assert own.ema is None and own.eval_params is own.params
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[0], y[3]), own.params, state.params
    )


def test_students_with_other_networks_or_optimisers_are_grouped_apart():
    rows = {
        "one": Row("kd", 8),
        "wide": Row("kd", 8, network=Net(width=7)),
        "two": Row("rld", 3, lr=0.9, weight_decay=0.1),
        "nesterov": Row("kd", 8, nesterov=True),
        "wide_too": Row("supervised", 8, network=Net(width=7)),
    }
    groups = tiny.make_study(rows, Net(width=9), SEEDS)
    names = [[student.name for student in group.students] for group in groups]
    assert names == [["one", "two"], ["wide", "wide_too"], ["nesterov"]]
    assert len({group.name for group in groups}) == 3


def test_groups_keep_seeds_and_sharing():
    student = tiny.make_student("a", Row("supervised", 2), Net())
    (group,) = make_groups([student], [3, 1], False)
    assert group.seeds == (3, 1) and not group.shared_batches


def simple_state(step, values, ema=None):
    def tree(x):
        return {"w": jnp.stack([jnp.full((2, 3), v, jnp.float32) for v in x])}

    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=tree(values),
        model_state={"mean": jnp.asarray(values, jnp.float32) * 10},
        opt_state=(),
        ema=None if ema is None else tree(ema),
    )


def kept(best):
    return (
        best.score.tolist(),
        best.step.tolist(),
        best.params["w"][:, 0, 0].tolist(),
        best.model_state["mean"].tolist(),
    )


def test_best_is_kept_member_by_member():
    best = init_best(simple_state(0, [0, 0, 0]))
    assert np.isneginf(best.score).all() and not best.step.any()
    everyone = jnp.ones(3, bool)
    scores = [[0.5, 0.2, 0.0], [0.5, 0.9, 0.1], [0.6, 0.9, 0.05]]
    for step, row in enumerate(scores, start=1):
        values = [step + 0.25 * member for member in range(3)]
        state = simple_state(step, values)
        best = update_best(best, state, jnp.asarray(row), everyone)
    score, steps, params, model_state = kept(best)
    np.testing.assert_allclose(score, [0.6, 0.9, 0.1], rtol=1e-6)
    # A tie keeps the earlier parameters, and a score of 0 is better than none.
    assert steps == [3, 2, 2]
    assert params == [3.0, 2.25, 2.5]
    assert model_state == [30.0, 22.5, 25.0]


def test_best_leaves_out_members_that_had_ended():
    best = init_best(simple_state(0, [0, 0]))
    best = update_best(
        best, simple_state(1, [1, 1]), jnp.asarray([0.3, 0.3]), jnp.ones(2, bool)
    )
    later = update_best(
        best,
        simple_state(2, [2, 2]),
        jnp.asarray([0.9, 0.9]),
        jnp.asarray([True, False]),
    )
    assert kept(later)[1] == [2, 1]
    assert kept(later)[2] == [2.0, 1.0]


def test_a_score_that_is_not_a_number_is_never_best():
    best = init_best(simple_state(0, [0.0]))
    everyone = jnp.ones(1, bool)
    best = update_best(best, simple_state(1, [1]), jnp.asarray([jnp.nan]), everyone)
    assert kept(best)[1] == [0]
    best = update_best(best, simple_state(2, [2]), jnp.asarray([0.1]), everyone)
    best = update_best(best, simple_state(3, [3]), jnp.asarray([jnp.nan]), everyone)
    assert kept(best)[1] == [2]


def test_best_keeps_the_average_where_there_is_one():
    best = init_best(simple_state(0, [0.0], ema=[0.0]))
    state = simple_state(5, [1.0], ema=[7.0])
    best = update_best(best, state, jnp.asarray([0.1]), jnp.ones(1, bool))
    assert kept(best)[2] == [7.0]
