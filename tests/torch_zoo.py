"""The networks in PyTorch, with the names that published checkpoints use.

Written from the papers and from the layout of published state dictionaries, apart from
the library's own networks. Every ``forward`` returns logits and taps under the names
that the library gives them.
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv3(inputs, outputs, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=bias)


def conv1(inputs, outputs, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False)


def pooled(x):
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv3(inputs, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3(width, width), nn.BatchNorm2d(width)
        self.name = shortcut
        add_shortcut(self, inputs, width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y)) + shortcut_of(self, x)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv1(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.name = shortcut
        add_shortcut(self, inputs, 4 * width, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y)) + shortcut_of(self, x)


def add_shortcut(block, inputs, outputs, stride):
    if stride != 1 or inputs != outputs:
        layers = conv1(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        setattr(block, block.name, nn.Sequential(*layers))


def shortcut_of(block, x):
    return getattr(block, block.name)(x) if hasattr(block, block.name) else x


class ResNet(nn.Module):
    def __init__(
        self,
        classes,
        blocks,
        stem,
        widths,
        strides=(1, 2, 2),
        block=Basic,
        photographs=False,
        shortcut="downsample",
        head="fc",
    ):
        super().__init__()
        self.head, self.photographs, self.stages = head, photographs, len(widths)
        self.conv1 = conv3(3, stem)
        if photographs:
            self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for stage, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            layers = []
            for index in range(blocks):
                first = stride if index == 0 else 1
                layers.append(block(inputs, width, first, shortcut))
                inputs = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        setattr(self, head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        taps = {"stem": x}
        if self.photographs:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            for block in getattr(self, f"layer{stage}"):
                preact = block(x)
                x = F.relu(preact)
            taps |= {f"stage{stage}_preact": preact, f"stage{stage}": x}
        taps["pooled"] = pooled(x)
        return getattr(self, self.head)(taps["pooled"]), taps


class WideBlock(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3(inputs, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3(width, width)
        self.equal = inputs == width
        if not self.equal:
            self.convShortcut = conv1(inputs, width, stride)

    def forward(self, x):
        preact = self.bn1(x)
        active = F.relu(preact)
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return (x if self.equal else self.convShortcut(active)) + y, preact


class WideStage(nn.Module):
    def __init__(self, inputs, width, count, stride):
        super().__init__()
        rest = [WideBlock(width, width, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, width, stride), *rest)


class WideResNet(nn.Module):
    """Evaluates each norm once; the published code does three of them twice."""

    def __init__(self, classes, blocks, factor):
        super().__init__()
        widths = [16, 16 * factor, 32 * factor, 64 * factor]
        self.conv1 = conv3(3, 16)
        self.block1 = WideStage(widths[0], widths[1], blocks, 1)
        self.block2 = WideStage(widths[1], widths[2], blocks, 2)
        self.block3 = WideStage(widths[2], widths[3], blocks, 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x):
        x = self.conv1(x)
        taps, preacts = {"stem": x}, []
        for number, stage in enumerate((self.block1, self.block2, self.block3), 1):
            for index, block in enumerate(stage.layer):
                x, preact = block(x)
                if index == 0:
                    preacts.append(preact)
            taps[f"stage{number}"] = x
        preacts.append(self.bn1(x))
        taps |= {f"stage{n}_preact": preacts[n] for n in (1, 2, 3)}
        taps["pooled"] = pooled(F.relu(preacts[3]))
        return self.fc(taps["pooled"]), taps


class VGG(nn.Module):
    def __init__(self, classes, blocks):
        super().__init__()
        inputs = 3
        for number, widths in enumerate(blocks):
            layers = []
            for width in widths:
                layers += [conv3(inputs, width, bias=True), nn.BatchNorm2d(width)]
                layers += [nn.ReLU()]
                inputs = width
            setattr(self, f"block{number}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x):
        taps, height = {}, x.shape[2]
        for number, tap in enumerate(("stem", "stage1", "stage2", "stage3", "stage4")):
            preact = getattr(self, f"block{number}")(x)
            x = F.relu(preact)
            taps |= {f"{tap}_preact": preact, tap: x}
            if number < 3 or (number == 3 and height == 64):
                x = F.max_pool2d(x, 2, 2)
        taps["pooled"] = pooled(x)
        return self.classifier(taps["pooled"]), taps


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        inner = inputs * expansion
        self.add = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv1(inputs, inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv3(inner, inner, stride, inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            conv1(inner, outputs),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes, stem, groups, head, tapped):
        super().__init__()
        self.tapped = tapped
        self.conv1 = nn.Sequential(conv3(3, stem, 2), nn.BatchNorm2d(stem), nn.ReLU())
        self.blocks = nn.ModuleList()
        inputs = stem
        for expansion, width, count, stride in groups:
            blocks = []
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(Inverted(inputs, width, first, expansion))
                inputs = width
            self.blocks.append(nn.Sequential(*blocks))
        self.conv2 = nn.Sequential(conv1(inputs, head), nn.BatchNorm2d(head), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(head, classes))

    def forward(self, x):
        x = self.conv1(x)
        taps = {"stem": x}
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in self.tapped:
                tap = f"stage{self.tapped.index(number) + 1}"
                taps |= {tap: x, f"{tap}_preact": x}
        taps["pooled"] = pooled(self.conv2(x))
        return self.classifier(taps["pooled"]), taps


class MobileNetV1(nn.Module):
    def __init__(self, classes):
        super().__init__()

        def separable(inputs, outputs, stride):
            return nn.Sequential(
                conv3(inputs, inputs, stride, inputs),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                conv1(inputs, outputs),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )

        widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        self.model = nn.Sequential(
            nn.Sequential(conv3(3, 32, 2), nn.BatchNorm2d(32), nn.ReLU()),
            *map(separable, widths[:-1], widths[1:], strides),
        )
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        taps = {}
        for number, unit in enumerate(self.model):
            preact = unit[:-1](x)
            x = F.relu(preact)
            if number == 0:
                taps["stem"] = x
            if number in (3, 5, 11, 13):
                tap = f"stage{(3, 5, 11, 13).index(number) + 1}"
                taps |= {f"{tap}_preact": preact, tap: x}
        taps["pooled"] = pooled(x)
        return self.fc(taps["pooled"]), taps


def shuffle(x, groups):
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


class ShuffleBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.groups = stride, 1 if inputs == 24 else 3
        if stride == 2:
            outputs -= inputs
        inner = outputs // 4
        self.conv1 = conv1(inputs, inner, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3(inner, inner, stride, inner), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv1(inner, outputs, groups=3), nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        if self.stride == 1:
            return x + y
        return torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1)


class ShuffleV1(nn.Module):
    def __init__(self, classes, widths, blocks):
        super().__init__()
        self.conv1, self.bn1 = conv1(3, 24), nn.BatchNorm2d(24)
        inputs = 24
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
            rest = [ShuffleBlock(width, width, 1) for _ in range(count - 1)]
            first = ShuffleBlock(inputs, width, 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
            inputs = width
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        taps = {"stem": x}
        for stage in (1, 2, 3):
            for block in getattr(self, f"layer{stage}"):
                preact = block(x)
                x = F.relu(preact)
            taps |= {f"stage{stage}_preact": preact, f"stage{stage}": x}
        taps["pooled"] = pooled(x)
        return self.linear(taps["pooled"]), taps


class Down(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = conv3(inputs, inputs, 2, inputs), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = conv1(inputs, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv1(inputs, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = conv3(half, half, 2, half), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = conv1(half, half), nn.BatchNorm2d(half)

    def forward(self, x):
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], 1), 2), None


class Split(nn.Module):
    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = conv1(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = conv3(half, half, 1, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = conv1(half, half), nn.BatchNorm2d(half)

    def forward(self, x):
        kept, y = x.chunk(2, 1)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(y)))))
        y = self.bn3(self.conv3(y))
        out = shuffle(torch.cat([kept, F.relu(y)], 1), 2)
        return out, torch.cat([kept, y], 1)


class ShuffleV2(nn.Module):
    def __init__(self, classes, widths, blocks, head):
        super().__init__()
        self.conv1, self.bn1 = conv1(3, 24), nn.BatchNorm2d(24)
        inputs = 24
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
            rest = [Split(width) for _ in range(count)]
            setattr(self, f"layer{stage}", nn.Sequential(Down(inputs, width), *rest))
            inputs = width
        self.conv2, self.bn2 = conv1(inputs, head), nn.BatchNorm2d(head)
        self.linear = nn.Linear(head, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        taps = {"stem": x}
        for stage in (1, 2, 3):
            for block in getattr(self, f"layer{stage}"):
                x, preact = block(x)
            taps |= {f"stage{stage}_preact": preact, f"stage{stage}": x}
        taps["pooled"] = pooled(F.relu(self.bn2(self.conv2(x))))
        return self.linear(taps["pooled"]), taps
