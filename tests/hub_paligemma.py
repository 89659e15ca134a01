"""PaliGemma as NumPy computes it from a checkpoint in the layout of the model hub.

Written from the published description (arXiv:2407.07726, arXiv:2403.08295), in float64,
with loops and without anything of the package; it reads tensors by their names on the
hub, so it checks the converters and the network in one.
"""

import json

import numpy as np

VISION = "vision_tower.vision_model"
TEXT = "language_model.model"


class Sizes:
    """A model small enough for loops; heads * head_dim is not the width."""

    image, patch = 28, 7
    vision, vision_depth, vision_heads, vision_mlp = 32, 2, 4, 64
    text, depth, mlp, heads, head_dim, vocabulary = 48, 2, 96, 4, 16, 264
    tokens = (image // patch) ** 2


def shapes(size=Sizes) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of every tensor, torch's way round."""
    table = {
        f"{VISION}.embeddings.patch_embedding.weight": (
            size.vision,
            3,
            size.patch,
            size.patch,
        ),
        f"{VISION}.embeddings.patch_embedding.bias": (size.vision,),
        f"{VISION}.embeddings.position_embedding.weight": (size.tokens, size.vision),
        f"{VISION}.post_layernorm.weight": (size.vision,),
        f"{VISION}.post_layernorm.bias": (size.vision,),
        "multi_modal_projector.linear.weight": (size.text, size.vision),
        "multi_modal_projector.linear.bias": (size.text,),
        f"{TEXT}.embed_tokens.weight": (size.vocabulary, size.text),
        f"{TEXT}.norm.weight": (size.text,),
    }
    for i in range(size.vision_depth):
        layer = f"{VISION}.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            table[f"{layer}.self_attn.{name}.weight"] = (size.vision, size.vision)
            table[f"{layer}.self_attn.{name}.bias"] = (size.vision,)
        for name in ("layer_norm1", "layer_norm2"):
            table[f"{layer}.{name}.weight"] = (size.vision,)
            table[f"{layer}.{name}.bias"] = (size.vision,)
        table[f"{layer}.mlp.fc1.weight"] = (size.vision_mlp, size.vision)
        table[f"{layer}.mlp.fc1.bias"] = (size.vision_mlp,)
        table[f"{layer}.mlp.fc2.weight"] = (size.vision, size.vision_mlp)
        table[f"{layer}.mlp.fc2.bias"] = (size.vision,)
    queries = size.heads * size.head_dim
    for i in range(size.depth):
        layer = f"{TEXT}.layers.{i}"
        table[f"{layer}.input_layernorm.weight"] = (size.text,)
        table[f"{layer}.post_attention_layernorm.weight"] = (size.text,)
        table[f"{layer}.self_attn.q_proj.weight"] = (queries, size.text)
        table[f"{layer}.self_attn.k_proj.weight"] = (size.head_dim, size.text)
        table[f"{layer}.self_attn.v_proj.weight"] = (size.head_dim, size.text)
        table[f"{layer}.self_attn.o_proj.weight"] = (size.text, queries)
        table[f"{layer}.mlp.gate_proj.weight"] = (size.mlp, size.text)
        table[f"{layer}.mlp.up_proj.weight"] = (size.mlp, size.text)
        table[f"{layer}.mlp.down_proj.weight"] = (size.text, size.mlp)
    return table


def draw(seed=0, size=Sizes) -> dict[str, np.ndarray]:
    """Draws a checkpoint; no tensor is near zero, none repeats another."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes(size).items():
        scale = 0.3 if len(shape) == 1 else 1.5 * np.prod(shape[1:]) ** -0.5
        offset = float("norm" in name and VISION in name and "weight" in name)
        state[name] = rng.normal(offset, scale, shape).astype(np.float32)
    return state


def description(size=Sizes) -> str:
    """Returns the text of ``config.json`` beside such a checkpoint."""
    return json.dumps(
        {
            "model_type": "paligemma",
            "image_token_index": size.vocabulary - 1,
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": size.vision,
                "intermediate_size": size.vision_mlp,
                "num_attention_heads": size.vision_heads,
                "num_hidden_layers": size.vision_depth,
                "image_size": size.image,
                "patch_size": size.patch,
            },
            "text_config": {
                "model_type": "gemma",
                "hidden_size": size.text,
                "intermediate_size": size.mlp,
                "num_attention_heads": size.heads,
                "num_key_value_heads": 1,
                "head_dim": size.head_dim,
                "num_hidden_layers": size.depth,
                "vocab_size": size.vocabulary,
            },
        }
    )


def gelu(x):
    """Computes the tanh form of GELU."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, weight, bias):
    """Normalises the last axis."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def rms_norm(x, weight):
    """Divides by the root mean square; the stored weight is added to 1."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + weight)


def softmax(x):
    """Computes the softmax of the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def see(state, image, size=Sizes):
    """Runs the vision tower on one image: ``[tokens, text width]``."""
    w = {k: v.astype(np.float64) for k, v in state.items()}
    kernel = w[f"{VISION}.embeddings.patch_embedding.weight"]
    p, x = size.patch, []
    for row in range(size.image // p):
        for column in range(size.image // p):
            cut = image[row * p : (row + 1) * p, column * p : (column + 1) * p]
            x.append(np.einsum("hwc,ochw->o", cut, kernel))
    x = np.array(x) + w[f"{VISION}.embeddings.patch_embedding.bias"]
    x = x + w[f"{VISION}.embeddings.position_embedding.weight"]
    for i in range(size.vision_depth):
        at = f"{VISION}.encoder.layers.{i}."

        def dense(y, name, at=at):
            return y @ w[f"{at}{name}.weight"].T + w[f"{at}{name}.bias"]

        y = layer_norm(x, w[at + "layer_norm1.weight"], w[at + "layer_norm1.bias"])
        q, k, v = (dense(y, f"self_attn.{n}_proj") for n in "qkv")
        d = size.vision // size.vision_heads
        heads = [slice(h * d, (h + 1) * d) for h in range(size.vision_heads)]
        y = [softmax(q[:, h] @ k[:, h].T / np.sqrt(d)) @ v[:, h] for h in heads]
        x = x + dense(np.concatenate(y, 1), "self_attn.out_proj")
        y = layer_norm(x, w[at + "layer_norm2.weight"], w[at + "layer_norm2.bias"])
        x = x + dense(gelu(dense(y, "mlp.fc1")), "mlp.fc2")
    x = layer_norm(
        x, w[f"{VISION}.post_layernorm.weight"], w[f"{VISION}.post_layernorm.bias"]
    )
    return (
        x @ w["multi_modal_projector.linear.weight"].T
        + w["multi_modal_projector.linear.bias"]
    )


def rope(x, position):
    """Turns the pairs (i, i + half) of one vector by its position."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * 10000 ** (-2 * i / len(x))
        out[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
        out[i + half] = x[i + half] * np.cos(angle) + x[i] * np.sin(angle)
    return out


def forward(state, image, tokens, causal, valid, size=Sizes):
    """Computes the logits of one sequence, ``[length, vocabulary]``."""
    w = {k: v.astype(np.float64) for k, v in state.items()}
    table = w[f"{TEXT}.embed_tokens.weight"]
    x = table[tokens] * np.sqrt(size.text)
    x[: size.tokens] = see(state, image, size)
    length = len(tokens)
    position = np.cumsum(valid) - 1
    order = np.cumsum(causal)
    allow = np.array(
        [
            [valid[i] and valid[j] and order[j] <= order[i] for j in range(length)]
            for i in range(length)
        ]
    )
    for layer in range(size.depth):
        at = f"{TEXT}.layers.{layer}."
        y = rms_norm(x, w[at + "input_layernorm.weight"])
        q = y @ w[at + "self_attn.q_proj.weight"].T
        k = y @ w[at + "self_attn.k_proj.weight"].T
        v = y @ w[at + "self_attn.v_proj.weight"].T
        k = np.array([rope(row, p) for row, p in zip(k, position, strict=True)])
        heads = []
        for h in range(size.heads):
            part = q[:, h * size.head_dim : (h + 1) * size.head_dim]
            part = np.array(
                [rope(row, p) for row, p in zip(part, position, strict=True)]
            )
            score = part @ k.T / np.sqrt(size.head_dim)
            heads.append(softmax(np.where(allow, score, -1e30)) @ v)
        x = x + np.concatenate(heads, 1) @ w[at + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[at + "post_attention_layernorm.weight"])
        gate = gelu(y @ w[at + "mlp.gate_proj.weight"].T)
        x = (
            x
            + gate
            * (y @ w[at + "mlp.up_proj.weight"].T)
            @ w[at + "mlp.down_proj.weight"].T
        )
    return rms_norm(x, w[f"{TEXT}.norm.weight"]) @ table.T


def big_vision(state, size=Sizes) -> dict[str, np.ndarray]:
    """Lays the same checkpoint out as big_vision's ``.npz`` does."""
    v, t = f"{VISION}.encoder.layers", f"{TEXT}.layers"
    heads = (size.vision_heads, size.vision // size.vision_heads)

    def stack(depth, name, change):
        return np.stack([change(state[name.format(i)]) for i in range(depth)])

    def seen(name, change=np.asarray):
        return stack(size.vision_depth, v + ".{}." + name, change)

    def read(name, change=np.asarray):
        return stack(size.depth, t + ".{}." + name, change)

    block = "params/img/Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    kernel = state[f"{VISION}.embeddings.patch_embedding.weight"]
    out = {
        "params/img/embedding/kernel": kernel.transpose(2, 3, 1, 0),
        "params/img/embedding/bias": state[f"{VISION}.embeddings.patch_embedding.bias"],
        "params/img/pos_embedding": state[
            f"{VISION}.embeddings.position_embedding.weight"
        ][None],
        "params/img/Transformer/encoder_norm/scale": state[
            f"{VISION}.post_layernorm.weight"
        ],
        "params/img/Transformer/encoder_norm/bias": state[
            f"{VISION}.post_layernorm.bias"
        ],
        "params/img/head/kernel": state["multi_modal_projector.linear.weight"].T,
        "params/img/head/bias": state["multi_modal_projector.linear.bias"],
        "params/llm/embedder/input_embedding": state[f"{TEXT}.embed_tokens.weight"],
        "params/llm/final_norm/scale": state[f"{TEXT}.norm.weight"],
        f"{attention}/out/kernel": seen(
            "self_attn.out_proj.weight", lambda x: x.T.reshape(*heads, -1)
        ),
        f"{attention}/out/bias": seen("self_attn.out_proj.bias"),
        "params/llm/layers/pre_attention_norm/scale": read("input_layernorm.weight"),
        "params/llm/layers/pre_ffw_norm/scale": read("post_attention_layernorm.weight"),
    }
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        out[f"{attention}/{ours}/kernel"] = seen(
            f"self_attn.{theirs}_proj.weight", lambda x: x.T.reshape(-1, *heads)
        )
        out[f"{attention}/{ours}/bias"] = seen(
            f"self_attn.{theirs}_proj.bias", lambda x: x.reshape(heads)
        )
    for i in (0, 1):
        norm, dense = f"{block}/LayerNorm_{i}", f"{block}/MlpBlock_0/Dense_{i}"
        out[f"{norm}/scale"] = seen(f"layer_norm{i + 1}.weight")
        out[f"{norm}/bias"] = seen(f"layer_norm{i + 1}.bias")
        out[f"{dense}/kernel"] = seen(f"mlp.fc{i + 1}.weight", np.transpose)
        out[f"{dense}/bias"] = seen(f"mlp.fc{i + 1}.bias")

    def split(x):  # [heads * dim, width] -> [heads, width, dim]
        return x.reshape(-1, size.head_dim, size.text).transpose(0, 2, 1)

    layers = "params/llm/layers"
    out[f"{layers}/attn/q_einsum/w"] = read("self_attn.q_proj.weight", split)
    pair = [read(f"self_attn.{n}_proj.weight", split) for n in "kv"]
    out[f"{layers}/attn/kv_einsum/w"] = np.stack(pair, 1)
    out[f"{layers}/attn/attn_vec_einsum/w"] = read(
        "self_attn.o_proj.weight",
        lambda x: x.T.reshape(size.heads, size.head_dim, size.text),
    )
    pair = [read(f"mlp.{n}_proj.weight", np.transpose) for n in ("gate", "up")]
    out[f"{layers}/mlp/gating_einsum"] = np.stack(pair, 1)
    out[f"{layers}/mlp/linear"] = read("mlp.down_proj.weight", np.transpose)
    return out


def sequence(seed=0, batch=2, prompt=5, suffix=4, size=Sizes):
    """Draws images and sequences whose rows have paddings of different lengths."""
    rng = np.random.default_rng(seed)
    length = size.tokens + prompt + suffix
    images = rng.uniform(-1, 1, (batch, size.image, size.image, 3)).astype(np.float32)
    tokens = rng.integers(2, size.vocabulary, (batch, length)).astype(np.int32)
    causal = np.broadcast_to(np.arange(length) >= size.tokens + prompt, tokens.shape)
    valid = np.arange(length) < length - np.arange(batch)[:, None] * 2
    return images, np.where(valid, tokens, 0), causal & valid, valid
