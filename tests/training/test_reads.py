"""What students read of needed runs, and which of these they may start from."""

import pytest
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.training import build, options, reads
from tests.test_configs import MODULES


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("phantoms"))


def small(cache, rows=("resnet", "resnet_hidden", "+NL_scratch"), **changes):
    """Eight scans, and a first task of other classes."""
    config = MODULES["nlran"].get_config("distribution")
    config.students = configs.students({name: config.students[name] for name in rows})
    config.reference = ""
    for one in (config, config.needs.first):
        one.data.update({"train": 8, "test": 8, "cache": cache})
        one.seeds = (1, 2)
    config.update(changes)
    return config


def test_a_trunk_is_taken_from_a_network_of_other_classes(cache):
    run = build.build(small(cache))
    reads.check(run)
    assert "does not know 2 of 2 classes: Bilateral" in run.frozen["first"].unlike
    started = [reads.started_from(run, one.method) for one in run.students]
    assert started == [{"first"}, {"first"}, set()]
    assert reads.taught_by(run) == set() and reads.notes(run) == []
    assert run.frozen["first"].per_seed
    reads.check(build.build(small(cache, ["+NL_scratch"])))  # which reads none


def test_its_head_is_not_taken_nor_are_its_answers(cache):
    run = build.build(small(cache))
    first = run.students[0]
    with_head = first._replace(method=first.method._replace(warm_head=True))
    with pytest.raises(UserError, match="does not know 2 of 2 classes"):
        reads.check(run._replace(students=(with_head,)))
    config = small(cache)
    config.needs = ConfigDict({"teacher": config.needs.first})
    config.students = configs.students({"kd": {"method": "kd", "loss": {}}})
    with pytest.raises(UserError, match=r"needs\.teacher does not know 2 of 2 classes"):
        reads.check(build.build(config))


def test_weights_for_other_inputs_are_refused_or_told(cache):
    """Of two windows no line leads from one to the other, since both cut."""
    config = small(cache)
    config.needs.first.view.window = "lung"
    with pytest.raises(UserError, match="cannot be mapped from one to the other"):
        build.build(config)
    run = build.build(small(cache))
    scaled = run.frozen["first"]._replace(scale=(2.0,), shift=(0.0,))
    (said,) = reads.notes(run._replace(frozen={"first": scaled}))
    assert "first expects inputs normalised otherwise, [2.0] times these" in said


@pytest.mark.parametrize(
    ("seeds", "each_its_own"), [((2, 1), True), ((2,), True), ((1, 2, 3), False)]
)
def test_each_seed_starts_from_its_own_network_or_it_is_said(
    cache, seeds, each_its_own
):
    run = build.build(small(cache, seeds=seeds))
    assert run.frozen["first"].per_seed == each_its_own
    said = reads.notes(run)
    assert len(said) == (not each_its_own)
    assert each_its_own or "all seeds start from one network of first" in said[0]


def test_what_is_wrong_with_a_needed_runs_data_names_it(cache):
    config = small(cache)
    config.needs.first.data.law = "shapes"
    with pytest.raises(
        UserError, match=r"config\.needs\.first: crop is \(16, 40, 52\)"
    ):
        build.build(config)


def test_no_hidden_layer_is_zero_units(cache):
    config = small(cache)
    config.students.resnet_hidden.model.hidden = 0
    options.check(config)
    config.students.resnet_hidden.model.hidden = -1
    with pytest.raises(UserError, match="hidden is -1"):
        options.check(config)
