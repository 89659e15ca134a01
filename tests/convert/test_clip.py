"""CLIP's folder as the start of a detector: the image tower, and labels as texts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxkd import models
from jaxkd.convert import clip as convert
from jaxkd.convert import load_clip
from jaxkd.convert.stable_diffusion import names
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Spec
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.methods import face_forgery
from jaxkd.models.stable_diffusion import Clip, ClipImageEncoder
from jaxkd.training import fine_tuning
from tests import tiny_stable_diffusion as tiny
from tests.fields import fields

pytest.importorskip("tokenizers")
GRAPH = LabelGraph.ffpp()
SIZES = {"image_size": 16, "patch_size": 8, "width": 24, "heads": 2, "layers": 1}
SIZES |= {"mlp_width": 48, "projection_width": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP as the hub lays it out."""
    folder = tmp_path_factory.mktemp("clip")
    clip = Clip(tiny.text(projection_width=12), ClipImageEncoder(**SIZES))
    params = tiny.random_params(clip)
    params["logit_scale"] = np.float32(9.0)  # more than CLIP's own limit
    save_file(names.to_state(params), folder / "model.safetensors")
    tower = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
    config = {
        "projection_dim": 12,
        "text_config": {
            **tower,
            "num_hidden_layers": 2,
            "vocab_size": len(tiny.vocabulary()[0]),
        },
        "vision_config": {
            **tower,
            "num_hidden_layers": 1,
            "image_size": 16,
            "patch_size": 8,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    tiny.tokenizer().save(folder)
    return folder


def started(name, run):
    """The variables that training of a detector starts from, and what becomes of it."""
    nodes = len(GRAPH.nodes)

    def network(classes):
        return models.build(name, classes, **SIZES)

    known = {"code": jax.ShapeDtypeStruct((nodes,), jnp.int8)}
    shapes = fields((16, 16, 3), **known)
    spec = Spec(network(nodes), {}, nodes, shapes, 10.0)
    method = face_forgery.make(spec, graph="ffpp", root_bias=name == "clip_vit_tiny")
    pretrained = fine_tuning.load(str(run))
    info = Info("faces", nodes, (16, 16, 3), (0.5,) * 3, (0.5,) * 3, GRAPH.nodes)
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    plan = fine_tuning.plan(pretrained, method, network, image, info)
    params, state = method.init(jax.random.key(0))
    frozen = {fine_tuning.NAME: pretrained.variables}
    params, state = fine_tuning.warm_start(plan)(params, state, frozen)
    return network(nodes), params["student"], state["student"], plan


def test_the_tower_with_a_linear_head(folder, tmp_path):
    text = convert.main([str(folder), str(tmp_path / "run")])
    assert text is None
    clip, weights, _ = load_clip(folder)
    network, params, _, plan = started("clip_vit_tiny", tmp_path / "run")
    assert {path[1] for path in plan.fresh} == {"fc"}
    pixels = tiny.normal(0, 2, 16, 16, 3)
    _, features = network.apply({"params": params}, pixels)
    expected, _ = clip.image.apply({"params": weights["image"]}, pixels)
    np.testing.assert_allclose(features["embedding"], expected, atol=1e-5)
    # Undecided at the start, as any other network.
    assert float(params["fc"]["bias"][0]) < GRAPH.root_bias + 1


def test_labels_as_texts_give_the_similarities_of_clip(folder, tmp_path):
    text = convert.to_run(folder, tmp_path / "run", "ffpp")
    assert "10 labels as texts" in text
    assert "--config.model.name=clip_vit_tiny_joint" in text
    assert "--config.model.width=24" in text and "model.patch_size" not in text
    clip, weights, tokenizer = load_clip(folder)
    network, params, state, plan = started("clip_vit_tiny_joint", tmp_path / "run")
    assert not plan.fresh
    pixels = tiny.normal(0, 2, 16, 16, 3)
    logits, _ = network.apply({"params": params, **state}, pixels)
    ids = tokenizer.encode(convert.prompts(GRAPH))
    expected = clip.apply({"params": weights}, ids, pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    assert np.ptp(np.asarray(logits), axis=1).min() > 1  # texts differ
    assert float(state["constants"]["fc"]["log_scale"]) == pytest.approx(np.log(100))
    with pytest.raises(UserError, match="is there already"):
        convert.to_run(folder, tmp_path / "run")


def test_texts_of_both_graphs():
    texts = convert.prompts(GRAPH)
    assert len(set(texts)) == 10
    assert texts[0] == "A photo of a fake face"
    assert texts[3] == (
        "A photo of a face with the global attribute of physical inconsistency altered"
    )
    assert "local attribute of eye" in texts[4]


def test_a_folder_without_weights_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        convert.main([str(tmp_path / "empty"), str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "config.json" in capsys.readouterr().err
