"""Which predictor a run gets, and how it is called."""

import pytest

from jaxkd import predictors
from jaxkd.core.errors import UserError


def test_a_classifier_is_asked_for_classes(finished_run):
    assert predictors.name_of(finished_run[0]) == predictors.CLASSES


def test_options_are_literals_or_text():
    given = ["size=3", "kind=lung", "exact=True", "range=(1, 2)", "path=a=b"]
    wanted = {"size": 3, "kind": "lung", "exact": True, "range": (1, 2), "path": "a=b"}
    assert predictors.parse_options(given) == wanted
    for wrong in ("size", "=3", "a b=3"):
        with pytest.raises(UserError, match="expected name=value"):
            predictors.parse_options([wrong])


def test_mistakes_are_named_before_anything_is_loaded(tmp_path):
    here = [str(tmp_path)]
    with pytest.raises(UserError, match=r"no 'embedding', expected .*'embeddings'"):
        predictors.predict("embedding", tmp_path, here, "out", {})
    with pytest.raises(UserError, match="needs --inputs"):
        predictors.predict("embeddings", tmp_path, [], "out", {})
    with pytest.raises(UserError, match=r"absent does not exist"):
        predictors.predict("embeddings", tmp_path, [f"{tmp_path}/absent"], "out", {})
    with pytest.raises(UserError, match="needs --output"):
        predictors.predict("embeddings", tmp_path, here, None, {})
    with pytest.raises(UserError, match=r"no option 'neighbors'.*'neighbours'"):
        predictors.predict("embeddings", tmp_path, here, "out", {"neighbors": 3})
