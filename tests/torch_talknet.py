"""TalkNet and TM-CTC in PyTorch, for parity: official names, written from the spec.

Clips of one length, evaluation or training mode; each clip is its own sequence.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ResNetLayer(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()

        def norm():
            return nn.BatchNorm2d(outside, eps=0.001, momentum=0.01)

        def conv(first, step=1):
            return nn.Conv2d(first, outside, 3, step, 1, bias=False)

        self.conv1a, self.bn1a = conv(inside, stride), norm()
        self.conv2a = conv(outside)
        self.stride = stride
        self.downsample = nn.Conv2d(inside, outside, 1, stride, bias=False)
        self.outbna = norm()
        self.conv1b, self.bn1b = conv(outside), norm()
        self.conv2b, self.outbnb = conv(outside), norm()

    def forward(self, x):
        h = self.conv2a(F.relu(self.bn1a(self.conv1a(x))))
        middle = h + (x if self.stride == 1 else self.downsample(x))
        y = F.relu(self.outbna(middle))
        h = self.conv2b(F.relu(self.bn1b(self.conv1b(y))))
        return F.relu(self.outbnb(h + middle))


class VisualFrontend(nn.Module):
    def __init__(self, stem, widths):
        super().__init__()
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, stem, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(stem, momentum=0.01, eps=0.001),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.resnet = nn.Module()
        for number, (a, b) in enumerate(zip([stem, *widths], widths, strict=False)):
            layer = ResNetLayer(a, b, 1 if number == 0 else 2)
            setattr(self.resnet, f"layer{number + 1}", layer)
        self.count = len(widths)

    def forward(self, video):
        x = ((video / 255 - 0.4161) / 0.1688)[:, None]
        x = self.frontend3D(x).transpose(1, 2)
        batch, time = x.shape[:2]
        x = x.flatten(0, 1)
        for number in range(self.count):
            x = getattr(self.resnet, f"layer{number + 1}")(x)
        return x.mean((2, 3)).view(batch, time, -1)


class GlobalLayerNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, channels, 1))
        self.beta = nn.Parameter(torch.rand(1, channels, 1))

    def forward(self, y):
        mean = y.mean((1, 2), keepdim=True)
        var = ((y - mean) ** 2).mean((1, 2), keepdim=True)
        return self.gamma * (y - mean) / (var + 1e-8) ** 0.5 + self.beta


class DSConv1d(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(c),
            nn.Conv1d(c, c, 3, padding=1, groups=c, bias=False),
            nn.PReLU(),
            GlobalLayerNorm(c),
            nn.Conv1d(c, c, 1, bias=False),
        )

    def forward(self, x):
        return x + self.net(x)


class Sequence(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.net = nn.Sequential(*parts)

    def forward(self, x):
        return self.net(x)


class SELayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        hidden = max(c // 8, 1)
        self.fc = nn.Sequential(
            nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, c), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class SEBasicBlock(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.se = SELayer(outside)
        self.downsample = None
        if stride != (1, 1) or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False),
                nn.BatchNorm2d(outside),
            )

    def forward(self, x):
        y = self.bn1(F.relu(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AudioEncoder(nn.Module):
    def __init__(self, blocks, widths):
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 7, (2, 1), 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inside = widths[0]
        strides = [(1, 1), (2, 2), (2, 2), (1, 1)]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            layer = []
            for place in range(count):
                stride = strides[number] if place == 0 else (1, 1)
                layer.append(SEBasicBlock(inside, width, stride))
                inside = width
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))

    def forward(self, mfcc):
        x = F.relu(self.bn1(self.conv1(mfcc.transpose(1, 2)[:, None])))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(2).transpose(1, 2)


class AttentionLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, src, tar):
        seen, _ = self.self_attn(tar, src, src, need_weights=False)
        s = self.norm1(src + seen)
        return self.norm2(s + self.linear2(F.relu(self.linear1(s))))


class TalkNet(nn.Module):
    def __init__(
        self,
        stem=64,
        visual_widths=(64, 128, 256, 512),
        hidden=256,
        temporal_blocks=5,
        audio_blocks=(3, 4, 6, 3),
        audio_widths=(16, 32, 64, 128),
        heads=8,
    ):
        super().__init__()
        c, width = visual_widths[-1], audio_widths[-1]
        self.visualFrontend = VisualFrontend(stem, visual_widths)
        self.visualTCN = Sequence(*(DSConv1d(c) for _ in range(temporal_blocks)))
        self.visualConv1D = Sequence(
            nn.Conv1d(c, hidden, 5, padding=2),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, width, 1),
        )
        self.audioEncoder = AudioEncoder(audio_blocks, audio_widths)
        self.crossA2V = AttentionLayer(width, heads)
        self.crossV2A = AttentionLayer(width, heads)
        self.selfAV = AttentionLayer(2 * width, heads)

    def forward(self, video, mfcc):
        v = self.visualFrontend(video).transpose(1, 2)
        v = self.visualConv1D(self.visualTCN(v)).transpose(1, 2)
        a = self.audioEncoder(mfcc)
        heard, seen = self.crossA2V(a, v), self.crossV2A(v, a)
        both = torch.cat([heard, seen], -1)
        return self.selfAV(both, both), heard, seen


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.FC = nn.Linear(width, 2)


class MTL(nn.Module):
    """The official wrapper, with the declared projections that nothing uses."""

    def __init__(self, **options):
        super().__init__()
        self.model = TalkNet(**options)
        width = options.get("audio_widths", (128,))[-1]
        self.lossAV = Head(2 * width)
        self.lossCont_Spea = nn.Module()
        self.lossCont_Spea.projection_A = nn.Linear(512, 256)

    def forward(self, video, mfcc):
        fused, heard, seen = self.model(video, mfcc)
        return self.lossAV.FC(fused), heard, seen


class TMCTC(nn.Module):
    def __init__(self, kind, width, heads, layers, hidden, classes, inputs=321):
        super().__init__()
        self.kind = kind
        if kind == "audio":
            self.audioConv = nn.Conv1d(inputs, width, 4, 4)

        def stack():
            layer = nn.TransformerEncoderLayer(
                width, heads, hidden, dropout=0.1, batch_first=True
            )
            return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

        setattr(self, f"{kind}Encoder", stack())
        setattr(self, f"{kind}Decoder", stack())
        self.outputConv = nn.Conv1d(width, classes, 1)
        self.width = width

    def forward(self, x):
        if self.kind == "audio":
            x = self.audioConv(x.transpose(1, 2)).transpose(1, 2)
        place = torch.arange(x.shape[1]).double()[:, None]
        angle = place / 10000 ** (torch.arange(0, self.width, 2) / self.width)
        table = torch.zeros(x.shape[1], self.width).double()
        table[:, 0::2], table[:, 1::2] = torch.sin(angle), torch.cos(angle)
        x = x + table.to(x.dtype)
        x = getattr(self, f"{self.kind}Encoder")(x)
        x = getattr(self, f"{self.kind}Decoder")(x)
        return F.softmax(self.outputConv(x.transpose(1, 2)).transpose(1, 2), -1)


def disturb(network, seed=0):
    """Moves every parameter and running statistic away from where it started."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network.eval()
