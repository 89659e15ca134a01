import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from jaxkd.convert import load_paligemma
from jaxkd.convert.paligemma import (
    load_adapter,
    network_options,
    save_adapter,
    save_paligemma,
    verify,
)
from jaxkd.convert.paligemma.__main__ import main
from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError
from jaxkd.models.paligemma import PaliGemmaNetwork, lora
from tests import hub_paligemma as hub

V, T = hub.VISION, hub.TEXT


def write(folder, state, described=True):
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if described:
        (folder / "config.json").write_text(hub.description())
    return folder


def equal(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        one,
        other,
    )


@pytest.fixture(scope="module")
def state():
    return hub.draw()


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    return write(tmp_path_factory.mktemp("hub"), state)


@pytest.fixture(scope="module")
def loaded(folder):
    return load_paligemma(folder, dtype="float32")


def test_leaves_are_big_visions(loaded, state):
    _, params = loaded
    flat = traverse_util.flatten_dict(params, sep="/")
    stacked = {
        name.removeprefix("params/"): x for name, x in hub.big_vision(state).items()
    }
    assert flat.keys() == stacked.keys()
    for name, array in stacked.items():
        np.testing.assert_array_equal(flat[name], array, err_msg=name)


def test_npz_of_big_vision_is_the_same_model(loaded, state, tmp_path):
    config, params = loaded
    stacked = hub.big_vision(state)
    np.savez(tmp_path / "pt.npz", **stacked)
    found, other = load_paligemma(tmp_path / "pt.npz", dtype="float32")
    assert found == config
    equal(other, params)
    # bfloat16, as NumPy stores it: two bytes without a meaning; without the prefix.
    half = {
        k.removeprefix("params/"): x.astype(ml_dtypes.bfloat16)
        for k, x in stacked.items()
    }
    np.savez(tmp_path / "half.npz", **half)
    _, other = load_paligemma(tmp_path / "half.npz", dtype="bfloat16")
    equal(other, jax.tree.map(lambda x: x.astype("bfloat16"), params))


def newer(name):
    if name.startswith("language_model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "model." + name


@pytest.mark.parametrize(
    "spell",
    [
        newer,
        lambda name: "base_model.model." + name,
        lambda name: "base_model.model." + newer(name),
        lambda name: name.replace("vision_tower.vision_model.", "vision_tower."),
        lambda name: re.sub(r"_proj\.(?=weight|bias)", "_proj.base_layer.", name),
    ],
    ids=["in_memory", "peft", "peft_in_memory", "flat_tower", "base_layer"],
)
def test_other_spellings_are_the_same_model(loaded, state, tmp_path, spell):
    folder = write(tmp_path, {spell(name): x for name, x in state.items()})
    equal(load_paligemma(folder, dtype="float32"), loaded)


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
def test_output_layer_must_be_the_embedding_table(loaded, state, tmp_path, head):
    table = state[f"{T}.embed_tokens.weight"]
    folder = write(tmp_path, state | {head: table.copy()})
    equal(load_paligemma(folder, dtype="float32"), loaded)
    write(tmp_path, state | {head: table + 1e-3})
    with pytest.raises(UserError, match="differs from its embedding table"):
        load_paligemma(folder, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_export_is_bit_exact(state, tmp_path, dtype, shard_bytes):
    given = {
        k: x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for k, x in state.items()
    }
    config, params = load_paligemma(write(tmp_path / "in", given), dtype=dtype)
    out = tmp_path / "out"
    save_paligemma(out, config, params, shard_bytes=shard_bytes)
    files = sorted(out.glob("*.safetensors"))
    assert (len(files) > 3) == (shard_bytes < 10**9)
    back = {name: x for file in files for name, x in load_file(file).items()}
    assert back.keys() == given.keys()
    for name, array in given.items():
        assert back[name].dtype == array.dtype
        assert back[name].tobytes() == array.tobytes(), name
    again, other = load_paligemma(out, dtype=dtype)
    assert again == config
    equal(other, params)
    if len(files) > 1:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in given.values())
        files[1].unlink()
        with pytest.raises(UserError, match=f"lacks {files[1].name}"):
            load_paligemma(out, dtype=dtype)


def test_export_in_the_spelling_of_newer_libraries(loaded, state, tmp_path):
    save_paligemma(tmp_path, *loaded, family="in_memory")
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == {newer(name) for name in state}


def test_shardings_are_followed(folder, loaded):
    devices = np.array(jax.devices()[:1])
    mesh = Mesh(devices, ("model",))

    def rule(path, leaf):
        assert isinstance(leaf, jax.ShapeDtypeStruct)
        rows = "embedding" in path
        return NamedSharding(mesh, PartitionSpec("model") if rows else PartitionSpec())

    _, params = load_paligemma(folder, dtype="float32", sharding=rule)
    table = params["llm"]["embedder"]["input_embedding"]
    assert table.sharding.spec == PartitionSpec("model")
    equal(params, loaded[1])
    whole = jax.tree.map(lambda x: x.sharding, params)
    equal(load_paligemma(folder, dtype="float32", sharding=whole)[1], params)
    del whole["img"]["head"]
    with pytest.raises(UserError, match="img/head"):
        load_paligemma(folder, dtype="float32", sharding=whole)


def test_all_that_is_wrong_is_listed_at_once(state, tmp_path):
    wrong = dict(state)
    del wrong[f"{T}.layers.1.mlp.up_proj.weight"]
    wrong["surprise"] = np.zeros(3, np.float32)
    wrong[f"{T}.norm.weight"] = np.zeros(7, np.float32)
    with pytest.raises(UserError) as raised:
        load_paligemma(write(tmp_path, wrong), dtype="float32")
    message = str(raised.value)
    for part in ("missing: ", "up_proj", "unexpected: surprise", "got (7,)"):
        assert part in message


def test_what_cannot_be_read_says_why(state, tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        load_paligemma(tmp_path / "nothing.npz", dtype="float32")
    with pytest.raises(UserError, match="found: none"):
        load_paligemma(tmp_path, dtype="float32")
    broken = tmp_path / "model.safetensors"
    broken.write_bytes(b"not tensors at all")
    with pytest.raises(UserError, match="cannot be read as a whole safetensors file"):
        load_paligemma(tmp_path, dtype="float32")
    write(tmp_path, state)
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as a whole safetensors file"):
        load_paligemma(tmp_path, dtype="float32")
    write(tmp_path, state)
    with pytest.raises(UserError, match="float16 overflows"):
        load_paligemma(tmp_path, dtype="float16")
    described = json.loads(hub.description())
    described["text_config"]["model_type"] = "gemma2"
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="PaliGemma 2"):
        load_paligemma(tmp_path, dtype="float32")
    double = {**state, newer(f"{T}.norm.weight"): np.zeros(48, np.float32)}
    write(tmp_path, double)
    with pytest.raises(UserError, match="the same tensor"):
        load_paligemma(tmp_path, dtype="float32")


def test_heads_are_known_without_config_json_for_known_towers(loaded, state, tmp_path):
    # The tower is as wide as the preset "tiny" is.
    equal(load_paligemma(write(tmp_path, state, False), dtype="float32"), loaded)


def draw_adapters(params, targets, rank=2):
    adapted = lora.add(params, jax.random.key(0), rank=rank, targets=targets)
    rng = np.random.default_rng(0)
    base, adapters = lora.split(adapted)
    adapters = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), adapters
    )
    return lora.combine(base, adapters)


def test_adapters_act_on_the_matrices_that_peft_names(loaded, state, tmp_path):
    config, params = loaded
    targets = lora.DECODER + lora.VISION
    adapted = draw_adapters(params, targets)
    save_adapter(tmp_path / "adapter", config, adapted)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["r"] == 2
    assert described["lora_alpha"] == 16
    save_paligemma(tmp_path / "merged", config, adapted)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    touched = set()
    for name in tensors:
        if "lora_A" not in name:
            continue
        b = tensors[name.replace("lora_A", "lora_B")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        assert re.fullmatch(described["target_modules"], module)
        key = f"{module}.weight"
        expected = state[key] + 16 / 2 * b @ tensors[name]
        np.testing.assert_allclose(merged[key], expected, atol=2e-5)
        touched.add(key)
    assert len(touched) == 2 * len(targets)
    for key in state.keys() - touched:
        np.testing.assert_array_equal(merged[key], state[key])
        assert not re.fullmatch(
            described["target_modules"], key.removesuffix(".weight")
        )


@pytest.mark.parametrize("targets", [lora.DECODER, ("q", "v", "vision_q")])
def test_adapters_come_back_bit_by_bit(loaded, tmp_path, targets):
    config, params = loaded
    adapted = draw_adapters(params, targets)
    save_adapter(tmp_path, config, adapted)
    found, back = load_adapter(tmp_path, config, params)
    assert found == config
    equal(back, adapted)
    # As PEFT keeps them in memory.
    file = tmp_path / "adapter_model.safetensors"
    renamed = {
        newer(n.removeprefix("base_model.model.")).replace(
            ".weight", ".default.weight"
        ): x
        for n, x in load_file(file).items()
    }
    save_file(renamed, file)
    equal(load_adapter(tmp_path, config, params)[1], adapted)


def test_adapters_of_other_kinds_are_refused(loaded, tmp_path):
    config, params = loaded
    save_adapter(tmp_path, config, draw_adapters(params, ("q",)))
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, message in (
        ({"use_dora": True}, "use_dora=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"peft_type": "IA3"}, "Expected LORA"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(described | change))
        with pytest.raises(UserError, match=message):
            load_adapter(tmp_path, config, params)
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    other = "base_model.model.multi_modal_projector.linear.lora_A.weight"
    save_file(tensors | {other: np.zeros((2, 32), np.float32)}, file)
    with pytest.raises(UserError, match=r"unexpected: multi_modal_projector"):
        load_adapter(tmp_path, config, params)
    some = {n: x for n, x in tensors.items() if ".layers.1." not in n}
    save_file(some, file)
    with pytest.raises(UserError, match=r"missing: .*layers\.1"):
        load_adapter(tmp_path, config, params)
    with pytest.raises(UserError, match="no adapters"):
        save_adapter(tmp_path, config, params)


def test_verify_counts_and_compares(folder, state, tmp_path, capsys):
    images, tokens, causal, valid = hub.sequence()
    rows = zip(images, tokens, causal, valid, strict=True)
    logits = np.stack([hub.forward(state, *row) for row in rows]).astype(np.float32)
    inputs = {"images": images, "tokens": tokens, "causal": causal, "valid": valid}
    reference = tmp_path / "reference.npz"
    np.savez(reference, **inputs, logits=logits)
    verdict = verify.verify(folder, reference=reference)
    assert verdict.difference < 2e-4
    assert verdict.parameters == sum(x.size for x in state.values())
    row = next(r for r in verdict.rows if r.path == "llm/layers/mlp/linear")
    downs = [state[f"{T}.layers.{i}.mlp.down_proj.weight"] for i in (0, 1)]
    assert row.std == pytest.approx(np.std(downs), rel=1e-5)
    np.savez(reference, **inputs, logits=logits + 0.5)
    main(["verify", "--ckpt", str(folder), "--reference", str(reference)])
    assert "differ by at most 5.0" in capsys.readouterr().out
    bad = {**state, f"{T}.norm.weight": np.full(48, np.nan, np.float32)}
    main(["verify", "--ckpt", str(write(tmp_path / "bad", bad))])
    assert "48 values are not finite" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--ckpt", str(tmp_path / "none")])
    assert ended.value.code == 2


def test_export_merges_an_adapter(folder, loaded, state, tmp_path):
    config, params = loaded
    adapted = draw_adapters(params, ("o",))
    save_adapter(tmp_path / "adapter", config, adapted)
    main(
        [
            "export",
            "--ckpt",
            str(folder),
            "--dtype",
            "float32",
            "--adapter",
            str(tmp_path / "adapter"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    _, merged = load_paligemma(tmp_path / "out", dtype="float32")
    equal(merged, lora.merge(adapted, alpha=16))


@pytest.mark.torch
@pytest.mark.slow
def test_export_is_the_same_model_in_hugging_face(loaded, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import warnings

    save_paligemma(tmp_path, *loaded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        verdict = verify.verify(tmp_path, against="hf")
    assert verdict.difference < 2e-4


def test_a_runs_folder_starts_the_network_of_the_same_sizes(folder, loaded, tmp_path):
    config, params = loaded
    network = PaliGemmaNetwork(**network_options(config))
    assert network.config == config
    # It reads images as any network does, and its parameters are the model's own.
    images = np.zeros((1, 28, 28, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
    out = tmp_path / "run"
    main(["to-run", "--ckpt", str(folder), "--dtype", "float32", "--out", str(out)])
    found = checkpoint.load_member(out / "checkpoints", "last")
    equal(found["params"], params)
    assert json.loads((out / "config.json").read_text())["model"]["vision_width"] == 32
