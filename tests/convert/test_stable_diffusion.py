import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxkd.convert import load_clip, load_stable_diffusion
from jaxkd.convert.stable_diffusion import (
    names,
    save_stable_diffusion,
)
from jaxkd.core.errors import UserError
from jaxkd.models.stable_diffusion import Clip, ClipImageEncoder
from tests import tiny_stable_diffusion as tiny

pytest.importorskip("tokenizers")
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def folder(tmp_path):
    return tiny.write(tmp_path / "sd")


def rewrite(path, change):
    state = load_file(path)
    save_file(change(state), path)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_and_use(folder):
    sd, original = load_stable_diffusion(folder), tiny.pipeline()
    same(sd.params, original.params)
    assert (sd.unet, sd.vae, sd.text_encoder) == original[:3]
    ids = sd.tokenizer.encode(["a red fox", "the blue cat"])
    assert ids.shape == (2, 77)
    hidden, pooled = sd.text_encoder.apply({"params": sd.params["text_encoder"]}, ids)
    assert hidden.shape == (2, 77, tiny.CONTEXT) and pooled.shape == (2, tiny.CONTEXT)
    latents = jnp.zeros((2, 4, 4, 4))
    variables = {"params": sd.params["unet"]}
    noise = jax.eval_shape(sd.unet.apply, variables, latents, jnp.zeros(2), hidden)
    assert noise.shape == latents.shape


def test_names_are_those_of_published_checkpoints(folder):
    unet = load_file(folder / "unet" / f"{WEIGHTS}.safetensors")
    for key in (
        "conv_in.weight",
        "time_embedding.linear_1.bias",
        "down_blocks.0.resnets.0.time_emb_proj.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
        "mid_block.resnets.1.conv2.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
        "up_blocks.1.resnets.0.conv_shortcut.weight",
        "conv_norm_out.weight",
    ):
        assert key in unet
    assert unet["conv_in.weight"].shape == (16, 4, 3, 3)
    vae = load_file(folder / "vae" / f"{WEIGHTS}.safetensors")
    for key in (
        "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "decoder.mid_block.attentions.0.to_out.0.weight",
        "encoder.mid_block.attentions.0.group_norm.bias",
        "post_quant_conv.weight",
    ):
        assert key in vae
    text = load_file(folder / "text_encoder" / "model.safetensors")
    for key in (
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.1.self_attn.out_proj.bias",
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "text_model.final_layer_norm.weight",
    ):
        assert key in text


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_files_of_16_bits_alone(folder, kind):
    dtype = np.dtype(kind) if kind == "float16" else jnp.bfloat16
    save_stable_diffusion(folder, tiny.pipeline(), dtype=dtype)
    variant = {"float16": "fp16", "bfloat16": "bf16"}[kind]
    for part in ("unet", "vae"):
        path = folder / part / f"{WEIGHTS}.safetensors"
        path.rename(folder / part / f"{WEIGHTS}.{variant}.safetensors")
    sd = load_stable_diffusion(folder)
    kernel = sd.params["unet"]["conv_in"]["kernel"]
    expected = tiny.pipeline().params["unet"]["conv_in"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected.astype(dtype).astype(np.float32))


def test_bfloat16_in_memory(folder):
    sd = load_stable_diffusion(folder, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(sd.params)} == {
        np.dtype(jnp.bfloat16)
    }
    assert sd.unet.dtype == jnp.bfloat16


def test_sharded_files(folder):
    path = folder / "unet" / f"{WEIGHTS}.safetensors"
    state = load_file(path)
    keys = sorted(state)
    table = {}
    for i, part in enumerate((keys[::2], keys[1::2])):
        name = f"{WEIGHTS}-0000{i + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / "unet" / name)
        table |= dict.fromkeys(part, name)
    path.unlink()
    index = path.with_name(path.name + ".index.json")
    index.write_text(json.dumps({"weight_map": table}))
    same(load_stable_diffusion(folder).params, tiny.pipeline().params)
    (folder / "unet" / name).unlink()
    with pytest.raises(UserError, match=r"missing: .*00002-of-00002"):
        load_stable_diffusion(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no object"),
        ({"weight_map": ["a"]}, "cannot be read as an index"),
        ({"weight_map": {"conv_in.bias": 1}}, "expected a string"),
        ({"weight_map": {"conv_in.bias": "../a.safetensors"}}, "expected files beside"),
        ({"weight_map": {"ghost": "a.safetensors"}}, "has ghost in a.safetensors, whi"),
        ({"weight_map": {}}, "names 0 files"),
    ],
)
def test_damaged_index(folder, content, message):
    path = folder / "unet" / f"{WEIGHTS}.safetensors"
    path.rename(path.with_name("a.safetensors"))
    path.with_name(path.name + ".index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_stable_diffusion(folder)


def test_old_names_of_the_autoencoder(folder):
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(state):
        out = {}
        for key, array in state.items():
            if "attentions" in key:
                for name, old in new.items():
                    if f".{name}." in key:
                        key = key.replace(f".{name}.", f".{old}.")
                        # In the oldest ones these are 1x1 convolutions.
                        array = array[:, :, None, None] if array.ndim == 2 else array
            out[key] = np.ascontiguousarray(array)
        return out

    rewrite(folder / "vae" / f"{WEIGHTS}.safetensors", older)
    rewrite(
        folder / "text_encoder" / "model.safetensors",
        lambda s: {**s, "text_model.embeddings.position_ids": np.arange(77)[None]},
    )
    same(load_stable_diffusion(folder).params, tiny.pipeline().params)

    def both(state):
        old = "encoder.mid_block.attentions.0.query.weight"
        new = "encoder.mid_block.attentions.0.to_q.weight"
        state[new] = np.ascontiguousarray(state[old][:, :, 0, 0])
        return state

    rewrite(folder / "vae" / f"{WEIGHTS}.safetensors", both)
    with pytest.raises(UserError, match=r"old and under their new names: .*query"):
        load_stable_diffusion(folder)


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (
            lambda x: x * np.nan,
            jnp.float32,
            r"conv_in\.bias holds numbers that are",
        ),
        (lambda x: x + 1e6, jnp.float16, "too large for float16, up to 1e"),
        (
            lambda x: x.astype(np.int8),
            jnp.float32,
            "of int8 .* Quantised files are",
        ),
    ],
)
def test_numbers_that_are_no_weights(folder, change, dtype, message):
    path = folder / "unet" / f"{WEIGHTS}.safetensors"
    rewrite(path, lambda s: {**s, "conv_in.bias": change(s["conv_in.bias"])})
    with pytest.raises(UserError, match=message):
        load_stable_diffusion(folder, dtype=dtype)


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    sd, folder = tiny.pipeline(), tmp_path / "sd"
    large = jax.tree.map(lambda x: x * 1e6, sd.params)
    for change, dtype, message in (
        ({"params": large}, np.float16, "too large for float16"),
        ({"params": {"unet": sd.params["unet"]}}, np.float32, "have no 'vae'"),
        ({"unet": tiny.unet(widths=(16, 16))}, np.float32, "unet is of another model"),
        ({}, np.int8, "of float32 and is needed in int8"),
    ):
        with pytest.raises(UserError, match=message):
            save_stable_diffusion(folder, sd._replace(**change), dtype=dtype)
    assert not folder.exists()
    folder.write_text("a file")
    with pytest.raises(UserError, match=r"Cannot write to .*: Not a directory"):
        save_stable_diffusion(folder, sd)


def test_parts_that_do_not_belong_together(folder):
    tokenizer = folder / "tokenizer"
    table = json.loads((tokenizer / "vocab.json").read_text())
    cases = (
        ("tokenizer/vocab.json", {**table, "zz</w>": 500}, "token numbers up to 500"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 99}, "rows of 99"),
        ("text_encoder/config.json", {"eos_token_id": 3}, "encoder by 3"),
        ("text_encoder/config.json", {"hidden_size": 32}, "width 24, .* of 32"),
        ("vae/config.json", {"latent_channels": 8}, "4 channels, .* of 8"),
    )
    for name, content, message in cases:
        before = (folder / name).read_text()
        content = {**json.loads(before), **content}
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            load_stable_diffusion(folder)
        (folder / name).write_text(before)


def test_differences_are_listed(folder):
    def other(state):
        state["conv_in.weight"] = state["conv_in.weight"][:, :3].copy()
        state["extra.bias"] = state.pop("conv_out.bias")
        return state

    rewrite(folder / "unet" / f"{WEIGHTS}.safetensors", other)
    with pytest.raises(UserError) as error:
        load_stable_diffusion(folder)
    text = str(error.value)
    assert "missing: conv_out.bias" in text and "unexpected: extra.bias" in text
    assert "conv_in.weight: got (16, 3, 3, 3)" in text


def test_what_is_missing_or_of_another_kind(folder):
    def config(part, **changes):
        path = folder / part / "config.json"
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), **changes}))
        return path, before

    for part, changes, message in (
        ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type"),
        ("unet", {"down_block_types": ["DownBlock2D"]}, "mirror"),
        ("unet", {"block_out_channels": None}, "does not give block_out_channels"),
        ("vae", {"shift_factor": 0.1}, "shift_factor"),
        ("text_encoder", {"hidden_act": "relu"}, "'relu'"),
        ("unet", {"_class_name": "SD3Transformer2DModel"}, "_class_name='SD3"),
        ("unet", {"resnet_skip_time_act": True}, "resnet_skip_time_act=True"),
        (
            "unet",
            {"block_out_channels": [16, "x"]},
            "a list, each of it a whole",
        ),
        ("unet", {"layers_per_block": [1, 1]}, r"layers_per_block is \[1, 1\]"),
        ("unet", {"attention_head_dim": [2]}, "for 1 levels"),
        ("unet", {"attention_head_dim": 3}, "heads is 3, which does not divide 16"),
        ("unet", {"norm_num_groups": 5}, "norm_num_groups is 5"),
        ("unet", {"down_block_types": 5}, "down_block_types is 5, expected a list"),
        ("vae", {"_class_name": "VQModel"}, "_class_name='VQModel'"),
        ("vae", {"scaling_factor": -1.0}, "scaling_factor is -1.0, expected .*> 0"),
        ("vae", {"norm_num_groups": 3}, "does not divide 8, 16"),
        ("vae", {"latents_mean": [0.1]}, "latents_mean"),
        ("text_encoder", {"model_type": "t5"}, "model_type='t5'"),
        ("text_encoder", {"num_attention_heads": 5}, "does not divide 24"),
        ("text_encoder", {"hidden_size": None}, "hidden_size is None, expected a who"),
    ):
        path, before = config(part, **changes)
        with pytest.raises(UserError, match=message):
            load_stable_diffusion(folder)
        path.write_text(before)
    path = folder / "unet" / f"{WEIGHTS}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole"):
        load_stable_diffusion(folder)
    path.unlink()
    with pytest.raises(UserError, match="has no weights"):
        load_stable_diffusion(folder)
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match=r"There is no file .*config\.json"):
        load_stable_diffusion(folder)
    with pytest.raises(UserError, match="no folder unet, vae"):
        load_stable_diffusion(folder / "nothing")


def test_velocity_is_read_from_the_scheduler(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "prediction_type": "v_prediction"}))
    sd = load_stable_diffusion(folder)
    assert sd.unet.predicts == "velocity"
    save_stable_diffusion(folder, sd)
    assert json.loads(path.read_text())["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"beta_schedule": "linear"},
            "beta_schedule='linear' .expected 'scaled_l",
        ),
        ({"rescale_betas_zero_snr": True}, "of noise that is not supported"),
        ({"num_train_timesteps": 4000}, "num_train_timesteps=4000"),
        ({"prediction_type": "sample"}, "expected one of epsilon, v_prediction"),
        ({"prediction_type": ["epsilon"]}, "expected one of epsilon, v_prediction"),
    ],
)
def test_schedulers_of_other_noise_are_refused(folder, changes, message):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        load_stable_diffusion(folder)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "scheduler/scheduler_config.json"]
)
def test_files_that_are_no_configuration(folder, name):
    for content in (b"[]", b"", b"null", b"\xff", b'{"a":' + b"[" * 100_000):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=r"config\.json (holds no|cannot be read)"):
            load_stable_diffusion(folder)


def test_heads_under_either_name(folder):
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    assert config["attention_head_dim"] == list(tiny.HEADS)
    path.write_text(json.dumps({**config, "attention_head_dim": 2}))
    assert load_stable_diffusion(folder).unet.heads == (2, 2)
    path.write_text(json.dumps({**config, "num_attention_heads": 4}))
    assert load_stable_diffusion(folder).unet.heads == (4, 4)


def test_clip_from_a_folder(tmp_path):
    network = Clip(
        tiny.text(projection_width=12),
        ClipImageEncoder(8, 4, 24, 2, 2, 48, "quick_gelu", 12),
    )
    params = tiny.random_params(network)
    save_file(names.to_state(params), tmp_path / "model.safetensors")
    tower = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"intermediate_size": 48}
    size = len(tiny.vocabulary()[0])
    config = {
        "projection_dim": 12,
        "text_config": {**tower, "vocab_size": size},
        "vision_config": {**tower, "image_size": 8, "patch_size": 4},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    tiny.tokenizer().save(tmp_path)
    loaded, weights, tokenizer = load_clip(tmp_path)
    assert loaded == network
    same(weights, params)
    assert "logit_scale" in load_file(tmp_path / "model.safetensors")
    assert tokenizer.encode("a fox").shape == (1, 77)
    for changes, message in (
        ({"vision_config": None}, "has no vision_config"),
        ({"projection_dim": "x"}, "projection_dim is 'x'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError, match=message):
            load_clip(tmp_path)
