"""Networks for photographs in PyTorch, with the names of timm's state dictionaries.

Written from the papers and from the layout of published state dictionaries, apart from
the library's own networks. Every ``forward`` returns logits and taps, channels first.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    def __init__(self, classes, patch, width, depth, heads, grid, distilled):
        super().__init__()
        self.grid, self.distilled, tokens = grid, distilled, 1 + distilled
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + grid**2, width))
        if distilled:
            self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = Patches(width, patch)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        if distilled:
            self.head_dist = nn.Linear(width, classes)

    def forward(self, x):
        tokens = [self.cls_token, *([self.dist_token] if self.distilled else [])]
        tokens = torch.cat(tokens, 1).expand(len(x), -1, -1)
        x = torch.cat([tokens, self.patch_embed(x)], 1) + self.pos_embed
        taps, count = {}, 1 + self.distilled
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            maps = x[:, count:].transpose(1, 2)
            taps[f"stage{number}"] = maps.unflatten(2, (self.grid, self.grid))
        x = self.norm(x)
        taps["pooled"] = x[:, 0]
        logits = self.head(x[:, 0])
        if self.distilled:
            logits = (logits + self.head_dist(x[:, 1])) / 2
        return logits, taps


class ChannelNorm(nn.LayerNorm):
    """Over the channels of ``[batch, channels, h, w]``."""

    def __init__(self, width):
        super().__init__(width, eps=1e-6)

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        y = self.mlp(self.norm(self.conv_dw(x).movedim(1, -1))) * self.gamma
        return x + y.movedim(-1, 1)


class ConvNeXtStage(nn.Module):
    def __init__(self, inputs, width, count, first):
        super().__init__()
        self.downsample = nn.Identity()
        if not first:
            reduce = nn.Conv2d(inputs, width, 2, 2)
            self.downsample = nn.Sequential(ChannelNorm(inputs), reduce)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(count)))

    def forward(self, x):
        return self.blocks(self.downsample(x))


class ConvNeXtHead(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.norm, self.fc = ChannelNorm(width), nn.Linear(width, classes)


class ConvNeXt(nn.Module):
    def __init__(self, classes, blocks, widths):
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 4, 4)
        self.stem = nn.Sequential(stem, ChannelNorm(widths[0]))
        self.stages = nn.ModuleList()
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            inputs = widths[max(stage - 1, 0)]
            self.stages.append(ConvNeXtStage(inputs, width, count, stage == 0))
        self.head = ConvNeXtHead(widths[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        taps = {"stem": x}
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            taps[f"stage{number}"] = x
        mean = x.mean((2, 3), keepdim=True)
        taps["pooled"] = self.head.norm(mean).flatten(1)
        return self.head.fc(taps["pooled"]), taps


class Excitation(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, hidden, 1)
        self.conv_expand = nn.Conv2d(hidden, width, 1)

    def forward(self, x):
        weight = self.conv_reduce(x.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(self.conv_expand(F.silu(weight)))


def conv(inputs, outputs, size=1, stride=1, groups=1):
    return nn.Conv2d(
        inputs, outputs, size, stride, size // 2, groups=groups, bias=False
    )


class Separable(nn.Module):
    """A block that does not expand."""

    def __init__(self, inputs, outputs, stride, size, expansion):
        super().__init__()
        assert expansion == 1
        self.add = stride == 1 and inputs == outputs
        self.conv_dw = conv(inputs, inputs, size, stride, inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.se = Excitation(inputs, round(inputs / 4))
        self.conv_pw, self.bn2 = conv(inputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.se(F.silu(self.bn1(self.conv_dw(x))))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.add else y


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, size, expansion):
        super().__init__()
        inner = expansion * inputs
        self.add = stride == 1 and inputs == outputs
        self.conv_pw, self.bn1 = conv(inputs, inner), nn.BatchNorm2d(inner)
        self.conv_dw = conv(inner, inner, size, stride, inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.se = Excitation(inner, round(inputs / 4))
        self.conv_pwl, self.bn3 = conv(inner, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = F.silu(self.bn1(self.conv_pw(x)))
        y = self.se(F.silu(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.add else y


class EfficientNet(nn.Module):
    def __init__(self, classes, stem, groups, head, tapped):
        super().__init__()
        self.tapped = tapped
        self.conv_stem, self.bn1 = conv(3, stem, 3, 2), nn.BatchNorm2d(stem)
        self.blocks, inputs = nn.ModuleList(), stem
        for expansion, width, count, stride, size in groups:
            kind, blocks = Separable if expansion == 1 else Inverted, []
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(kind(inputs, width, first, size, expansion))
                inputs = width
            self.blocks.append(nn.Sequential(*blocks))
        self.conv_head, self.bn2 = conv(inputs, head), nn.BatchNorm2d(head)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x):
        x = F.silu(self.bn1(self.conv_stem(x)))
        taps = {"stem": x}
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in self.tapped:
                taps[f"stage{self.tapped.index(number) + 1}"] = x
        x = F.silu(self.bn2(self.conv_head(x)))
        taps["pooled"] = x.mean((2, 3))
        return self.classifier(taps["pooled"]), taps


class BottleneckD(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(
                pool if stride == 2 else nn.Identity(),
                conv(inputs, outputs),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return y + (x if self.downsample is None else self.downsample(x))


class ResNetD(nn.Module):
    def __init__(self, classes, stem, widths):
        super().__init__()
        half = stem // 2
        layers = [conv(3, half, 3, 2), nn.BatchNorm2d(half), nn.ReLU()]
        layers += [conv(half, half, 3), nn.BatchNorm2d(half), nn.ReLU()]
        self.conv1 = nn.Sequential(*layers, conv(half, stem, 3))
        self.bn1 = nn.BatchNorm2d(stem)
        inputs, self.stages = stem, len(widths)
        for stage, width in enumerate(widths, 1):
            block = BottleneckD(inputs, width, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(block))
            inputs = 4 * width
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        taps = {"stem": x}
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            preact = getattr(self, f"layer{stage}")(x)
            x = F.relu(preact)
            taps |= {f"stage{stage}": x, f"stage{stage}_preact": preact}
        taps["pooled"] = x.mean((2, 3))
        return self.fc(taps["pooled"]), taps
