"""The campaigns of ``benchmarks/survival.py`` and ``mutations.py`` in a short form."""

import signal

import pytest

from benchmarks import mutations, survival

pytestmark = pytest.mark.slow


def test_disturbed_chains_end_as_the_whole_run(tmp_path):
    with survival.Campaign(tmp_path, seed=0) as campaign:
        campaign.disturb(signal.SIGKILL, 3)
        campaign.disturb(signal.SIGTERM, 1)
        campaign.start_twice(1)
    assert not campaign.problems
    assert not any("differ" in name for name in campaign.counts)
    for kind in ("SIGKILL", "SIGTERM", "two starts"):
        assert campaign.counts[f"{kind}: chains equal"]


def test_differences_are_seen():
    whole = {"a": [1, {"b": 2.0}], "c": 3}
    assert survival.differences({"a": [1, {"b": 2.5}], "c": 3}, whole) == ["a"]


@pytest.mark.parametrize("name", mutations.FORMATS)
def test_no_changed_file_is_accepted_or_ends_otherwise(finished_run, name):
    form = mutations.FORMATS[name]
    if form.needs:
        pytest.importorskip(form.needs)
    outcomes, errors = mutations.campaign(name, finished_run[0], count=25)
    assert sum(outcomes.values()) == 25
    assert not any(outcomes[kind] for kind in ("other", "hang", "crash")), errors
    assert not (form.checksum and outcomes["changed"]), errors
