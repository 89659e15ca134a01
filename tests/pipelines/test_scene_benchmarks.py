"""The quick presets of both scene benchmarks, from command to report."""

import pytest

from jaxkd import pipelines
from jaxkd.core.errors import UserError
from jaxkd.pipelines import scene_model
from tests.test_configs import MODULES


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("parallel_edits", ("copy source", "single branch", "parallel")),
        ("dtiil", ("two stages", "one stage", "cross-attention", "random box")),
    ],
)
def test_a_quick_preset_trains_its_model_and_reports(
    name, rows, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    config = MODULES[name].get_config("quick")
    results = pipelines.run(config, tmp_path)
    found = [row[0] for row in results["tables"][0]["rows"]]
    assert set(rows) <= set(found)
    page = (tmp_path / "report.html").read_text()
    assert all(row in page for row in rows) and "data:image/png" in page
    if name == "parallel_edits":
        copied = next(c for c in results["cells"] if c["method"] == "copy source")
        assert copied["aspects"] == copied["unedited"] == copied["nfe"] == 0
        assert copied["full"] > 1e-3
        picture = pipelines.sample(config, tmp_path, [3])
        assert picture.stat().st_size > 500
    # A finished run is read, not run again.
    again = pipelines.run(config, tmp_path)
    assert again["cells"] == results["cells"]
    assert pipelines.format_table(again) == pipelines.format_table(results)
    # The model is kept for whoever asks for the same.
    folder = scene_model.folder(config.needs.scenes)
    assert folder.parent == cache / "jaxkd" and (folder / "results.json").exists()


@pytest.mark.parametrize("name", ["parallel_edits", "dtiil"])
def test_configurations_that_cannot_be_run(name):
    config = MODULES[name].get_config("quick")
    with config.unlocked():
        config.unknown = 1
    with pytest.raises(UserError, match="unknown or missing keys: unknown"):
        pipelines.check(config)
    config = MODULES[name].get_config("quick")
    config.needs.scenes.method = "edm"
    with pytest.raises(UserError, match="'captions'"):
        pipelines.check(config)
    config = MODULES[name].get_config("quick")
    del config.needs["scenes"]
    with pytest.raises(UserError, match="missing; expected"):
        pipelines.check(config)
    config = MODULES[name].get_config("quick")
    config.seeds = ()
    with pytest.raises(UserError, match="at least"):
        pipelines.check(config)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("parallel_edits", "seeds", (-1,), "config.seeds is .*-1"),
        ("parallel_edits", "seeds", (0, 0), "expected all different"),
        ("parallel_edits", "edits", (2, 2), "expected all different"),
        ("parallel_edits", "edit.cross_from", "own", "cross_from is 'own'"),
        ("parallel_edits", "edit.scale", float("nan"), "scale is nan"),
        ("dtiil", "seeds", (2**32,), "config.seeds is"),
        ("dtiil", "controls", ("untrained",) * 2, "expected all different"),
        ("dtiil", "settings.solver", "euler", "solver is 'euler'"),
        ("dtiil", "settings.edit_steps", 0, "edit_steps is 0"),
        ("dtiil", "settings.first_threshold", 1.5, "first_threshold is 1.5"),
    ],
)
def test_values_that_are_refused_before_the_model_is_trained(name, key, value, message):
    config = MODULES[name].get_config("quick")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        pipelines.check(config)
