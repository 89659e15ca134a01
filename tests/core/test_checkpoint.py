import json
import shutil
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core import checkpoint, checkpoint_saving, disk, integrity
from jaxkd.core.checkpoint_saving import Checkpoints
from jaxkd.core.errors import UserError
from jaxkd.core.types import Best, TrainState

MEMBERS = {
    "group0": [["kd", 1], ["kd", 2], ["rld", 1], ["rld", 2]],
    "group1": [["ce", 1], ["ce", 2]],
}


def make_tree(members, offset, stats=True):
    """Stacks members whose every number tells who they are."""
    numbers = np.arange(members, dtype=np.float32)
    params = {
        "student": {
            "dense": {
                "kernel": offset + numbers[:, None, None] * np.ones((1, 2, 3), "f"),
                "bias": offset + numbers[:, None] * np.ones((1, 3), "f"),
            }
        },
        "head": {"w": np.full((members, 1), -1, "f")},
    }
    mean = {"batch_stats": {"mean": offset + 50 + numbers[:, None]}} if stats else {}
    return params, {"student": mean}


def make_state(members, offset, step=3, ema=True, stats=True):
    params, model_state = make_tree(members, offset, stats)
    return TrainState(
        step=np.asarray(step, np.int32),
        params=params,
        model_state=model_state,
        opt_state=({"trace": jax.tree.map(lambda x: x + 0.5, params)}, ()),
        ema=make_tree(members, offset + 1000)[0] if ema else None,
    )


def make_best(members, offset, stats=True):
    params, model_state = make_tree(members, offset, stats)
    numbers = np.arange(members)
    return Best(numbers.astype("f"), numbers.astype(np.int32), params, model_state)


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def save(directory, steps=(3,), keep=2, ema=True, stats=True):
    with Checkpoints(directory, keep) as checkpoints:
        for step in steps:
            state = {
                "group0": make_state(4, 100 * step, step, ema, stats),
                "group1": make_state(2, 100 * step + 20, step, ema, stats),
            }
            best = {
                "group0": make_best(4, 100 * step + 40, stats),
                "group1": make_best(2, 100 * step + 60, stats),
            }
            meta = {"step": step, "members": MEMBERS, "elapsed": 0.25}
            checkpoints.save(step, on_device(state), on_device(best), meta)
        checkpoints.wait()
    return state, best, meta


def abstract(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def restore(directory, state, best, keep=2):
    with Checkpoints(directory, keep) as checkpoints:
        return checkpoints.restore(abstract(state), abstract(best))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    return directory, *save(directory, steps=(1, 2, 5, 11))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_restored_is_what_was_saved(saved):
    directory, state, best, meta = saved
    restored = restore(directory, state, best)
    assert_equal(restored.state, state)
    assert_equal(restored.best, best)
    assert restored.meta == meta
    for leaf, wanted in zip(
        jax.tree.leaves(restored.state), jax.tree.leaves(state), strict=True
    ):
        assert leaf.dtype == wanted.dtype


def test_the_newest_are_kept(saved):
    directory = saved[0]
    assert sorted(int(p.name) for p in directory.iterdir()) == [5, 11]
    with Checkpoints(directory, 2) as checkpoints:
        assert checkpoints.latest() == 11


def test_an_empty_folder_has_no_latest(tmp_path):
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        assert checkpoints.latest() is None


def test_an_error_inside_is_the_one_that_shows(tmp_path):
    with pytest.raises(KeyError, match="mine"), Checkpoints(tmp_path / "c", 1):
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["student"].pop("dense"), "unexpected: .*dense/bias"),
        (
            lambda s: s["student"].update(conv=np.zeros((4, 2), "f")),
            "missing: .*params/student/conv",
        ),
        (
            lambda s: s["student"]["dense"].update(bias=np.zeros((4, 7), "f")),
            r"params/student/dense/bias: got \(4, 3\), expected \(4, 7\)",
        ),
    ],
)
def test_restoring_another_model_lists_the_differences(saved, change, message):
    directory, state, best, _ = saved
    params = jax.tree.map(lambda x: x, state["group0"].params)
    change(params)
    state = state | {"group0": state["group0"].replace(params=params)}
    with pytest.raises(UserError, match=message) as error:
        restore(directory, state, best)
    assert str(directory) in str(error.value)


def test_restoring_without_the_average_is_refused(saved):
    directory, state, best, _ = saved
    state = {name: one.replace(ema=None) for name, one in state.items()}
    with pytest.raises(UserError, match="unexpected: group0/ema"):
        restore(directory, state, best)


def test_compare_lists_every_kind_of_difference():
    saved = {"a": np.zeros(3), "b": {"c": np.zeros((2, 2))}, "old": np.zeros(1)}
    wanted = {"a": np.zeros(3), "b": {"c": np.zeros((2, 4))}, "new": np.zeros(1)}
    with pytest.raises(UserError) as error:
        checkpoint.compare("there", saved, wanted)
    lines = str(error.value).splitlines()
    assert "there" in lines[0]
    assert lines[1:4] == [
        "  missing: new",
        "  unexpected: old",
        "  b/c: got (2, 2), expected (2, 4)",
    ]
    checkpoint.compare("there", saved, saved)


def test_compare_shortens_long_lists():
    saved = {f"{i:02}": np.zeros(1) for i in range(20)}
    with pytest.raises(UserError) as error:
        checkpoint.compare("there", saved, {})
    shown, _, rest = str(error.value).partition("...")
    assert "05" in shown and "06" not in shown and rest.startswith(" and 14 more")


@pytest.mark.parametrize(
    ("student", "seed", "number"),
    [
        (None, None, 0),
        ("kd", 2, 1),
        ("rld", None, 2),
        ("rld", 2, 3),
        (None, 2, 1),
        ("ce", 2, 21),
    ],
)
@pytest.mark.parametrize("use", ["last", "best"])
def test_load_member_picks_that_member(saved, student, seed, number, use):
    directory = saved[0]
    variables = checkpoint.load_member(directory, use, student, seed)
    offset = 1100 + (1000 if use == "last" else 40)  # the average, or the best
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        variables["params"]["dense"]["bias"], np.full(3, offset + number)
    )
    assert set(variables["params"]) == {"dense"}  # nothing that stands beside it
    offset = 1150 if use == "last" else 1190
    np.testing.assert_array_equal(
        variables["batch_stats"]["mean"], np.full(1, offset + number)
    )
    leaves = jax.tree.leaves(variables)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)


def test_load_member_without_an_average_takes_the_parameters(tmp_path):
    save(tmp_path / "c", ema=False)
    variables = checkpoint.load_member(tmp_path / "c", "last", "rld", 1)
    np.testing.assert_array_equal(variables["params"]["dense"]["bias"], [302.0] * 3)


def test_a_network_without_other_collections_is_loaded(tmp_path):
    save(tmp_path / "c", ema=False, stats=False)
    variables = checkpoint.load_member(tmp_path / "c", "last", "rld", 1)
    assert set(variables) == {"params"}


@pytest.mark.parametrize(("student", "seed"), [("dkd", None), ("kd", 3), (None, 7)])
def test_unknown_member_lists_those_that_there_are(saved, student, seed):
    with pytest.raises(UserError) as error:
        checkpoint.load_member(saved[0], "last", student, seed)
    message = str(error.value)
    assert repr(student) in message and str(seed) in message
    for name, number in MEMBERS["group0"] + MEMBERS["group1"]:
        assert f"{name} (seed {number})" in message


def test_no_checkpoint_is_explained(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.load_member(tmp_path, "last")
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.load_member(tmp_path / "missing", "last")


def groups_of(members):
    return [
        SimpleNamespace(name=name, members=[tuple(member) for member in rows])
        for name, rows in members.items()
    ]


@pytest.mark.parametrize("use", ["last", "best"])
def test_load_groups_returns_whole_groups(saved, use):
    groups = checkpoint.load_groups(saved[0], use, groups_of(MEMBERS))
    assert set(groups) == set(MEMBERS)
    offset = 1120 + (1000 if use == "last" else 40)
    np.testing.assert_array_equal(
        groups["group1"]["params"]["student"]["dense"]["bias"][:, 0],
        [offset, offset + 1],
    )
    assert set(groups["group1"]) == {"params", "model_state"}


@pytest.mark.parametrize(
    "members",
    [
        {"group0": MEMBERS["group0"][::-1], "group1": MEMBERS["group1"]},
        {"group0": MEMBERS["group0"]},
        MEMBERS | {"group1": [["ce", 1], ["ce", 3]]},
    ],
)
def test_other_members_or_another_order_are_refused(saved, members):
    with pytest.raises(UserError, match="ce"):
        checkpoint.load_groups(saved[0], "last", groups_of(members))


def test_the_table_of_members_survives_json():
    groups = groups_of(MEMBERS)
    assert json.loads(json.dumps(checkpoint.member_table(groups))) == MEMBERS


def test_check_space(tmp_path, monkeypatch):
    tree = {"a": np.zeros((1000, 1000), np.float32), "b": np.zeros(3, np.int32)}
    size = 4_000_012

    def disk(free):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    disk(2 * size)
    checkpoint_saving.check_space(tmp_path, tree)
    disk(2 * size - 1)
    with pytest.raises(UserError, match=r"8\.0 MB free, expected 8\.0 MB"):
        checkpoint_saving.check_space(tmp_path, tree)
    disk(10)
    with pytest.raises(UserError, match="another disk"):
        checkpoint_saving.check_space(tmp_path, jax.eval_shape(lambda: tree))


def chained(cause):
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (chained(OSError(28, "No space left on device")), True),
        (ValueError("RESOURCE_EXHAUSTED: [OS error 28: ENOSPC] writing"), True),
        (chained(PermissionError("denied")), False),
        (KeyError("a"), False),
        (None, False),
        # A device that has run out of memory is another matter.
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), False),
    ],
)
def test_no_space_is_told_apart(error, full):
    assert disk.no_space(error) is full


@pytest.mark.parametrize("when", ["save", "wait"])
def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch, when):
    with Checkpoints(tmp_path / "c", 2) as checkpoints:

        def fail(*args, **kwargs):
            raise OSError(28, "No space left on device")

        names = {"save": "save", "wait": "wait_until_finished"}
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, names[when], fail)
            with pytest.raises(UserError, match=r"Free some space.*resumes"):
                if when == "save":
                    checkpoints.save(1, {}, {}, {})
                else:
                    checkpoints.wait()


def test_other_errors_while_writing_are_not_changed(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c", 2) as checkpoints, monkeypatch.context() as patch:

        def fail(*args, **kwargs):
            raise KeyError("ours")

        patch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(KeyError):
            checkpoints.save(1, {}, {}, {})


def test_a_place_that_cannot_be_written_to_any_more_is_named(tmp_path):
    tree = on_device({"a": np.ones(3, "f")})
    with (
        pytest.raises(UserError, match=r"Cannot write a checkpoint to .*resumes"),
        Checkpoints(tmp_path / "c", 2) as checkpoints,
    ):
        checkpoints.save(1, tree, tree, {})
        checkpoints.wait()
        shutil.rmtree(tmp_path / "c")
        (tmp_path / "c").write_text("something else")
        checkpoints.save(2, tree, tree, {})
        checkpoints.wait()


def flip(path, rng):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


# TensorStore's threads report to an event loop that the error has closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_is_refused_or_changes_nothing(saved, tmp_path):
    """In the arrays, of which a decoder notices few; benchmarks/survival.py has all."""
    directory = saved[0]
    read = partial(checkpoint.load_groups, use="last", groups=groups_of(MEMBERS))
    whole = read(directory)
    paths = [path.relative_to(directory) for path in directory.glob("11/state/d/*")]
    rng, refused = np.random.default_rng(0), 0
    for path in sorted(paths, key=lambda p: -(directory / p).stat().st_size)[:2] * 3:
        shutil.copytree(directory, tmp_path / "c")
        flip(tmp_path / "c" / path, rng)
        try:
            assert_equal(read(tmp_path / "c"), whole)
        except UserError as error:
            refused += 1
            assert "cannot be read as a whole checkpoint" in str(error)
        shutil.rmtree(tmp_path / "c")
    assert refused


def test_numbers_that_were_changed_are_refused(tmp_path):
    """As by a decoder that lets them pass: other arrays under the same record."""
    state, best, meta = save(tmp_path / "a")
    changed = jax.tree.map(lambda x: x + 1, state)
    with Checkpoints(tmp_path / "b", 1) as checkpoints:
        checkpoints.save(3, on_device(changed), on_device(best), meta)
        checkpoints.wait()
    shutil.rmtree(tmp_path / "b" / "3" / "meta")
    shutil.copytree(tmp_path / "a" / "3" / "meta", tmp_path / "b" / "3" / "meta")
    with pytest.raises(UserError, match="is not what was written"):
        checkpoint.load_member(tmp_path / "b", "last")
    checkpoint.load_member(tmp_path / "b", "best")
    with (
        Checkpoints(tmp_path / "b", 1) as checkpoints,
        pytest.raises(UserError, match=r"No checkpoint in .* can be read"),
    ):
        checkpoints.set_aside_damaged()


def test_a_changed_record_is_refused(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "c")
    path = tmp_path / "c" / "11" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"elapsed": 0.25', '"elapsed": 0.75'))
    with pytest.raises(UserError, match="is not what was written"):
        checkpoint.load_member(tmp_path / "c", "last")


def test_content_hash_tells_trees_apart():
    def tree(**changes):
        return {
            "a": {"w": np.arange(6.0).reshape(2, 3)},
            "b": np.ones(2, "f"),
        } | changes

    base = integrity.content_hash(tree())
    assert integrity.content_hash(tree()) == base
    assert integrity.content_hash(jax.tree.map(jnp.asarray, {"b": np.ones(2, "f")}))
    reordered = {"b": tree()["b"], "a": tree()["a"]}
    assert integrity.content_hash(reordered) == base
    others = [tree(b=np.ones(2, "d")), tree(b=np.ones((1, 2), "f")), {"a": tree()["a"]}]
    others += [{"a": tree()["a"], "c": tree()["b"]}]
    for place in np.ndindex(2, 3):
        changed = tree()
        changed["a"]["w"][place] = np.nextafter(changed["a"]["w"][place], np.inf)
        others.append(changed)
    hashes = {integrity.content_hash(other) for other in others}
    assert len(hashes) == len(others) and base not in hashes


def test_content_hash_does_not_depend_on_memory_layout():
    kernel = np.arange(6.0).reshape(2, 3)
    fortran = np.asfortranarray(kernel)
    assert integrity.content_hash([kernel]) == integrity.content_hash([fortran])
    device = integrity.content_hash([jnp.asarray(kernel, jnp.float32)])
    assert device == integrity.content_hash([kernel.astype(np.float32)])


def newest_data_file(directory, step):
    """Returns the largest file of a checkpoint's state: the arrays themselves."""
    files = [p for p in (directory / str(step) / "state").rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("harm", ["half", "gone", "meta"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, harm):
    directory = tmp_path / "checkpoints"
    save(directory, steps=(3, 5))
    file = newest_data_file(directory, 5)
    if harm == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif harm == "gone":
        file.unlink()
    else:
        shutil.rmtree(directory / "5" / "meta")
    with Checkpoints(directory, 2) as checkpoints:
        with pytest.warns(UserWarning, match=r"checkpoints/5 is damaged .* before it"):
            checkpoints.set_aside_damaged()
        assert checkpoints.latest() == 3
        checkpoints.set_aside_damaged()
    assert (tmp_path / "damaged" / "5").exists()


def test_damaged_checkpoints_alone_are_an_error_and_stay(tmp_path):
    save(tmp_path / "checkpoints", steps=(3,))
    file = newest_data_file(tmp_path / "checkpoints", 3)
    file.write_bytes(b"")
    unreadable = pytest.raises(UserError, match=r"No checkpoint in .* can be read")
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints, unreadable:
        checkpoints.set_aside_damaged()
    assert file.exists()
