"""Forward passes of Stable Diffusion and CLIP in PyTorch, from state dictionaries.

Written as functions of the published names, independently of the Linen modules.
"""

import math

import torch
from torch.nn import functional as F


def linear(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def convolve(s, name, x, stride=1, padding=None):
    weight = s[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, s[f"{name}.bias"], stride, padding)


def group_norm(s, name, x, groups, eps):
    return F.group_norm(x, groups, s[f"{name}.weight"], s[f"{name}.bias"], eps)


def layer_norm(s, name, x):
    weight = s[f"{name}.weight"]
    return F.layer_norm(x, weight.shape, weight, s[f"{name}.bias"], 1e-5)


def attend(q, k, v, heads, mask=None):
    def split(x):
        return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    out = scores.softmax(-1) @ v
    return out.transpose(1, 2).flatten(2)


def resnet(s, p, x, emb, groups, eps):
    h = convolve(s, f"{p}.conv1", F.silu(group_norm(s, f"{p}.norm1", x, groups, eps)))
    if emb is not None:
        h = h + linear(s, f"{p}.time_emb_proj", F.silu(emb))[:, :, None, None]
    h = convolve(s, f"{p}.conv2", F.silu(group_norm(s, f"{p}.norm2", h, groups, eps)))
    if f"{p}.conv_shortcut.weight" in s:
        x = convolve(s, f"{p}.conv_shortcut", x)
    return x + h


def transformer(s, p, x, context, heads, groups):
    batch, channels, height, width = x.shape
    h = group_norm(s, f"{p}.norm", x, groups, 1e-6)
    dense = s[f"{p}.proj_in.weight"].ndim == 2
    if dense:
        h = linear(s, f"{p}.proj_in", h.flatten(2).transpose(1, 2))
    else:
        h = convolve(s, f"{p}.proj_in", h).flatten(2).transpose(1, 2)
    b = f"{p}.transformer_blocks.0"
    for i in (1, 2):
        y = layer_norm(s, f"{b}.norm{i}", h)
        z = y if i == 1 else context
        q, k, v = (
            linear(s, f"{b}.attn{i}.to_{n}", t)
            for n, t in (("q", y), ("k", z), ("v", z))
        )
        h = h + linear(s, f"{b}.attn{i}.to_out.0", attend(q, k, v, heads))
    y = linear(s, f"{b}.ff.net.0.proj", layer_norm(s, f"{b}.norm3", h))
    value, gate = y.chunk(2, dim=-1)
    h = h + linear(s, f"{b}.ff.net.2", value * F.gelu(gate))
    if dense:
        h = linear(s, f"{p}.proj_out", h)
        h = h.transpose(1, 2).reshape(batch, channels, height, width)
    else:
        h = h.transpose(1, 2).reshape(batch, channels, height, width)
        h = convolve(s, f"{p}.proj_out", h)
    return x + h


def unet(s, x, t, context, *, widths, layers, attention, heads, groups, guidance=None):
    half = widths[0] // 2
    f = torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = torch.cat([torch.cos(t[:, None] * f), torch.sin(t[:, None] * f)], dim=1)
    if guidance is not None:
        emb = emb + F.linear(guidance, s["time_embedding.cond_proj.weight"])
    emb = linear(s, "time_embedding.linear_1", emb)
    emb = linear(s, "time_embedding.linear_2", F.silu(emb))
    x = convolve(s, "conv_in", x)
    stack = [x]
    for i in range(len(widths)):
        for j in range(layers):
            x = resnet(s, f"down_blocks.{i}.resnets.{j}", x, emb, groups, 1e-5)
            if attention[i]:
                name = f"down_blocks.{i}.attentions.{j}"
                x = transformer(s, name, x, context, heads[i], groups)
            stack.append(x)
        if f"down_blocks.{i}.downsamplers.0.conv.weight" in s:
            x = convolve(s, f"down_blocks.{i}.downsamplers.0.conv", x, 2)
            stack.append(x)
    x = resnet(s, "mid_block.resnets.0", x, emb, groups, 1e-5)
    x = transformer(s, "mid_block.attentions.0", x, context, heads[-1], groups)
    x = resnet(s, "mid_block.resnets.1", x, emb, groups, 1e-5)
    for i in range(len(widths)):
        for j in range(layers + 1):
            x = torch.cat([x, stack.pop()], dim=1)
            x = resnet(s, f"up_blocks.{i}.resnets.{j}", x, emb, groups, 1e-5)
            if attention[-1 - i]:
                name = f"up_blocks.{i}.attentions.{j}"
                x = transformer(s, name, x, context, heads[-1 - i], groups)
        if f"up_blocks.{i}.upsamplers.0.conv.weight" in s:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = convolve(s, f"up_blocks.{i}.upsamplers.0.conv", x)
    x = F.silu(group_norm(s, "conv_norm_out", x, groups, 1e-5))
    return convolve(s, "conv_out", x)


def pixel_attention(s, p, x, groups):
    h = group_norm(s, f"{p}.group_norm", x, groups, 1e-6).flatten(2).transpose(1, 2)
    q, k, v = (linear(s, f"{p}.to_{n}", h) for n in "qkv")
    h = linear(s, f"{p}.to_out.0", attend(q, k, v, 1))
    return x + h.transpose(1, 2).reshape(x.shape)


def vae_middle(s, p, x, groups):
    x = resnet(s, f"{p}.mid_block.resnets.0", x, None, groups, 1e-6)
    x = pixel_attention(s, f"{p}.mid_block.attentions.0", x, groups)
    return resnet(s, f"{p}.mid_block.resnets.1", x, None, groups, 1e-6)


def vae_encode(s, x, levels, layers, groups):
    x = convolve(s, "encoder.conv_in", x)
    for i in range(levels):
        for j in range(layers):
            x = resnet(s, f"encoder.down_blocks.{i}.resnets.{j}", x, None, groups, 1e-6)
        if i < levels - 1:
            x = F.pad(x, (0, 1, 0, 1))
            x = convolve(s, f"encoder.down_blocks.{i}.downsamplers.0.conv", x, 2, 0)
    x = vae_middle(s, "encoder", x, groups)
    x = F.silu(group_norm(s, "encoder.conv_norm_out", x, groups, 1e-6))
    mean, logvar = convolve(s, "quant_conv", convolve(s, "encoder.conv_out", x)).chunk(
        2, 1
    )
    return mean, logvar.clamp(-30, 20)


def vae_decode(s, z, levels, layers, groups):
    x = convolve(s, "decoder.conv_in", convolve(s, "post_quant_conv", z))
    x = vae_middle(s, "decoder", x, groups)
    for i in range(levels):
        for j in range(layers + 1):
            x = resnet(s, f"decoder.up_blocks.{i}.resnets.{j}", x, None, groups, 1e-6)
        if i < levels - 1:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = convolve(s, f"decoder.up_blocks.{i}.upsamplers.0.conv", x)
    x = F.silu(group_norm(s, "decoder.conv_norm_out", x, groups, 1e-6))
    return convolve(s, "decoder.conv_out", x)


def clip_layers(s, p, x, layers, heads, activation, mask):
    for i in range(layers):
        b = f"{p}.encoder.layers.{i}"
        h = layer_norm(s, f"{b}.layer_norm1", x)
        q, k, v = (linear(s, f"{b}.self_attn.{n}_proj", h) for n in "qkv")
        x = x + linear(s, f"{b}.self_attn.out_proj", attend(q, k, v, heads, mask))
        h = linear(s, f"{b}.mlp.fc1", layer_norm(s, f"{b}.layer_norm2", x))
        h = h * torch.sigmoid(1.702 * h) if activation == "quick_gelu" else F.gelu(h)
        x = x + linear(s, f"{b}.mlp.fc2", h)
    return x


def clip_text(s, ids, layers, heads, activation="quick_gelu"):
    p, count = "text_model", ids.shape[1]
    x = s[f"{p}.embeddings.token_embedding.weight"][ids]
    x = x + s[f"{p}.embeddings.position_embedding.weight"][:count]
    mask = torch.ones(count, count, dtype=torch.bool).tril()
    x = clip_layers(s, p, x, layers, heads, activation, mask)
    x = layer_norm(s, f"{p}.final_layer_norm", x)
    return x, x[torch.arange(len(ids)), ids.argmax(1)]


def clip_image(s, images, layers, heads, activation="quick_gelu"):
    p = "vision_model"
    weight = s[f"{p}.embeddings.patch_embedding.weight"]
    x = F.conv2d(images, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    token = s[f"{p}.embeddings.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([token, x], 1) + s[f"{p}.embeddings.position_embedding.weight"]
    x = layer_norm(s, f"{p}.pre_layrnorm", x)
    x = clip_layers(s, p, x, layers, heads, activation, None)
    return F.linear(
        layer_norm(s, f"{p}.post_layernorm", x[:, 0]), s["visual_projection.weight"]
    )
