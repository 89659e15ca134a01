"""The U-Nets of EDM in PyTorch, with the names that their checkpoints use.

Written from the paper and from the layout of published state dictionaries, apart from
the library's own networks: images are NCHW, resampling is a depthwise convolution, and
every layer of a level is looked up by its name.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)  # For networks this small, more of them only wait.

EPS = {"song": 1e-6, "adm": 1e-5}


def outer(taps):
    taps = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(taps, taps) / taps.sum() ** 2)[None, None]


class Layer(nn.Module):
    """A convolution after a resampling; without a kernel, the resampling alone."""

    def __init__(self, inputs, outputs, size, resample=None, taps=(1, 1), fused=False):
        super().__init__()
        self.resample, self.fused = resample, fused
        self.weight = self.bias = None
        if size:
            self.weight = nn.Parameter(torch.zeros(outputs, inputs, size, size))
            self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", outer(taps) if resample else None)

    def depthwise(self, x, pad):
        channels = x.shape[1]
        kernel = self.resample_filter.repeat(channels, 1, 1, 1)
        if self.resample == "up":
            return F.conv_transpose2d(x, 4 * kernel, None, 2, pad, groups=channels)
        return F.conv2d(x, kernel, None, 2, pad, groups=channels)

    def forward(self, x):
        edge = 0 if self.weight is None else self.weight.shape[-1] // 2
        if self.resample:
            pad = (self.resample_filter.shape[-1] - 1) // 2
            if self.fused:
                y = self.depthwise(F.conv2d(x, self.weight, padding=edge + pad), 0)
                return y + self.bias[:, None, None]
            x = self.depthwise(x, pad)
        return (
            x if self.weight is None else F.conv2d(x, self.weight, self.bias, 1, edge)
        )


def norm(channels, kind):
    return nn.GroupNorm(min(32, channels // 4), channels, EPS[kind])


class Block(nn.Module):
    def __init__(self, kind, inputs, outputs, emb, resample, taps, attend, drop=0.0):
        super().__init__()
        self.kind, self.drop, song = kind, drop, kind == "song"
        self.norm0, self.norm1 = norm(inputs, kind), norm(outputs, kind)
        self.conv0 = Layer(inputs, outputs, 3, resample, taps)
        self.affine = nn.Linear(emb, outputs if song else 2 * outputs)
        self.conv1 = Layer(outputs, outputs, 3)
        self.skip = None
        if inputs != outputs or resample:
            project = song or inputs != outputs
            self.skip = Layer(inputs, outputs, int(project), resample, taps)
        self.heads = (1 if song else outputs // 64) if attend else 0
        if self.heads:
            self.norm2 = norm(outputs, kind)
            self.qkv = Layer(outputs, 3 * outputs, 1)
            self.proj = Layer(outputs, outputs, 1)

    def forward(self, x, emb):
        factor = math.sqrt(0.5) if self.kind == "song" else 1.0
        h = self.conv0(F.silu(self.norm0(x)))
        told = self.affine(emb)[..., None, None]
        if self.kind == "song":
            h = self.norm1(h + told)
        else:
            scale, shift = told.chunk(2, 1)
            h = shift + self.norm1(h) * (1 + scale)
        h = self.conv1(F.silu(h))
        h = factor * (h + (x if self.skip is None else self.skip(x)))
        return factor * (h + self.attention(h)) if self.heads else h

    def attention(self, h):
        batch, channels, height, width = h.shape
        mixed = torch.zeros_like(h).reshape(batch, channels, -1)
        qkv = self.qkv(self.norm2(h)).reshape(batch, 3 * channels, -1)
        size = channels // self.heads
        for head in range(self.heads):
            mine = qkv[:, 3 * size * head : 3 * size * (head + 1)]
            q, k, v = mine[:, 0::3], mine[:, 1::3], mine[:, 2::3]
            weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), -1)
            part = v @ weights.transpose(1, 2)
            mixed[:, size * head : size * (head + 1)] = part
        return self.proj(mixed.reshape(batch, channels, height, width))


def waves(x, frequencies):
    angles = torch.outer(x, frequencies)
    return angles.cos(), angles.sin()


class Frequencies(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(count))


class UNet(nn.Module):
    """Either network; ``kind`` is "song" or "adm", the rest as in the checkpoints."""

    def __init__(
        self,
        kind,
        img_resolution,
        in_channels=3,
        out_channels=3,
        label_dim=0,
        augment_dim=0,
        model_channels=8,
        channel_mult=(1, 2),
        channel_mult_emb=4,
        num_blocks=1,
        attn_resolutions=(),
        dropout=0.0,
        embedding_type="positional",
        channel_mult_noise=1,
        encoder_type="standard",
        decoder_type="standard",
        resample_filter=(1, 1),
    ):
        super().__init__()
        song = kind == "song"
        self.kind, self.label_dim = kind, label_dim
        self.encoder_type, self.decoder_type = encoder_type, decoder_type
        self.levels = [img_resolution >> i for i in range(len(channel_mult))]
        self.noise_width = model_channels * channel_mult_noise
        emb = model_channels * channel_mult_emb
        if embedding_type == "fourier":
            self.map_noise = Frequencies(self.noise_width // 2)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, self.noise_width, bias=False)
        if label_dim:
            width = self.noise_width if song else emb
            self.map_label = nn.Linear(label_dim, width, bias=song)
        self.map_layer0 = nn.Linear(self.noise_width, emb)
        self.map_layer1 = nn.Linear(emb, emb)

        def block(inputs, outputs, attend=False, resample=None):
            taps = resample_filter
            return Block(kind, inputs, outputs, emb, resample, taps, attend)

        wide = model_channels * (1 if song else channel_mult[0])
        self.enc, self.dec, passed = nn.ModuleDict(), nn.ModuleDict(), []
        aux = in_channels
        for level, mult in zip(self.levels, channel_mult, strict=True):
            name = f"{level}x{level}"
            if level == img_resolution:
                self.enc[f"{name}_conv"] = Layer(in_channels, wide, 3)
            else:
                self.enc[f"{name}_down"] = block(wide, wide, resample="down")
                down = {"resample": "down", "taps": resample_filter}
                if encoder_type == "residual":
                    layer = Layer(aux, wide, 3, fused=True, **down)
                    self.enc[f"{name}_aux_residual"], aux = layer, wide
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Layer(aux, aux, 0, **down)
                    self.enc[f"{name}_aux_skip"] = Layer(aux, wide, 1)
            passed.append(wide)
            for i in range(num_blocks):
                attend, before = level in attn_resolutions, wide
                wide = model_channels * mult
                self.enc[f"{name}_block{i}"] = block(before, wide, attend)
                passed.append(wide)
        for level, mult in zip(self.levels[::-1], channel_mult[::-1], strict=True):
            name = f"{level}x{level}"
            if level == self.levels[-1]:
                self.dec[f"{name}_in0"] = block(wide, wide, True)
                self.dec[f"{name}_in1"] = block(wide, wide)
            else:
                self.dec[f"{name}_up"] = block(wide, wide, resample="up")
            for i in range(num_blocks + 1):
                attend = level in attn_resolutions and (not song or i == num_blocks)
                joined, wide = wide + passed.pop(), model_channels * mult
                self.dec[f"{name}_block{i}"] = block(joined, wide, attend)
            if song and (level == img_resolution or decoder_type == "skip"):
                if level != self.levels[-1] and decoder_type == "skip":
                    up = Layer(0, 0, 0, resample="up", taps=resample_filter)
                    self.dec[f"{name}_aux_up"] = up
                self.dec[f"{name}_aux_norm"] = norm(wide, kind)
                self.dec[f"{name}_aux_conv"] = Layer(wide, out_channels, 3)
        if not song:
            self.out_norm = norm(wide, kind)
            self.out_conv = Layer(wide, out_channels, 3)

    def embedding(self, noise, labels, augment):
        half, song = self.noise_width // 2, self.kind == "song"
        if hasattr(self, "map_noise"):
            cos, sin = waves(noise, 2 * math.pi * self.map_noise.freqs)
        else:
            steps = torch.arange(half, dtype=noise.dtype) / (half - int(song))
            cos, sin = waves(noise, torch.exp(-math.log(10000.0) * steps))
        emb = torch.cat([sin, cos] if song else [cos, sin], 1)
        if augment is not None:
            emb = emb + self.map_augment(augment)
        if song and self.label_dim:
            emb = emb + self.map_label(labels * math.sqrt(self.label_dim))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if not song and self.label_dim:
            emb = emb + self.map_label(labels)
        return F.silu(emb)

    def forward(self, x, noise, labels=None, augment=None):
        emb = self.embedding(noise, labels, augment)
        small, passed = x, []
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                x = small = (x + layer(small)) / math.sqrt(2)
                passed[-1] = x
            elif name.endswith("aux_down"):
                small = layer(small)
            elif name.endswith("aux_skip"):
                x = x + layer(small)
                passed[-1] = x
            else:
                x = layer(x, emb) if isinstance(layer, Block) else layer(x)
                passed.append(x)
        total = 0.0
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                total = layer(total)
            elif name.endswith("aux_norm"):
                normed = F.silu(layer(x))
            elif name.endswith("aux_conv"):
                total = total + layer(normed)
            else:
                if "block" in name:
                    x = torch.cat([x, passed.pop()], 1)
                x = layer(x, emb)
        if self.kind == "song":
            return total
        return self.out_conv(F.silu(self.out_norm(x)))


def randomised(network, seed=0):
    """Gives every parameter a random value of a size that keeps features of order 1."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, 0.0, 0.3)
    return network.eval()
