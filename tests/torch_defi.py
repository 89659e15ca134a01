"""DeFI-Net in PyTorch, with the names of the official checkpoints.

Written from the paper's blocks and from the layout of the published state dictionary,
apart from the library's own network. The widths are free.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

SLOW = 0.01  # momentum of the backbone's norms, in torch's sense


def norm(width, momentum=0.1):
    return nn.BatchNorm2d(width, momentum=momentum)


def unit(inputs, outputs, kernel, stride, relu, momentum):
    """Convolution without bias, norm, and perhaps a ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        norm(outputs, momentum),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class Residual(nn.Module):
    def __init__(self, kernels, widths, momentum):
        super().__init__()
        self.count = len(kernels)
        pairs = itertools.pairwise(widths)
        for i, (kernel, (a, b)) in enumerate(zip(kernels, pairs, strict=True), 1):
            conv = nn.Conv2d(a, b, kernel, 1, kernel // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", norm(b, momentum))
        self.downsample = None
        if widths[0] != widths[-1]:
            self.downsample = unit(widths[0], widths[-1], 1, 1, False, momentum)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Module(nn.Module):
    def __init__(self, widths, blocks, momentum):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(Residual((3, 3), (w, w, w), momentum) for _ in range(blocks))
            )
            for w in widths
        )
        rows = [
            [self.link(widths, i, j, momentum) for j in range(len(widths))]
            for i in range(len(widths))
        ]
        self.fuse_layers = nn.ModuleList(nn.ModuleList(row) for row in rows)

    @staticmethod
    def link(widths, i, j, momentum):
        if i == j:
            return None
        if j > i:
            return unit(widths[j], widths[i], 1, 1, False, momentum)
        chain = []
        for k in range(i - j):
            last = k == i - j - 1
            width = widths[i] if last else widths[j]
            chain.append(unit(widths[j], width, 3, 2, not last, momentum))
        return nn.Sequential(*chain)

    def forward(self, maps):
        grown = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        outputs = []
        for i, row in enumerate(self.fuse_layers):
            total = 0
            for j, link in enumerate(row):
                y = grown[j] if i == j else link(grown[j])
                if j > i:
                    size = grown[i].shape[2:]
                    y = F.interpolate(y, size=size, mode="bilinear", align_corners=True)
                total = total + y
            outputs.append(F.relu(total))
        return outputs


class HRNet(nn.Module):
    def __init__(self, stem, planes, widths, momentum=SLOW, channels=3, modules=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        self.bn1 = norm(stem, momentum)
        self.conv2 = nn.Conv2d(stem, stem, 3, 1, 1, bias=False)
        self.bn2 = norm(stem, momentum)
        first = Residual((1, 3, 1), (stem, planes, planes, 4 * planes), momentum)
        wide = 4 * planes
        second = Residual((1, 3, 1), (wide, planes, planes, wide), momentum)
        self.layer1 = nn.Sequential(first, second)
        self.transition1 = nn.ModuleList(
            [
                unit(wide, widths[0], 3, 1, True, momentum),
                nn.Sequential(unit(wide, widths[1], 3, 2, True, momentum)),
            ]
        )
        for s in (2, 3):
            new = nn.Sequential(unit(widths[s - 1], widths[s], 3, 2, True, momentum))
            setattr(self, f"transition{s}", nn.ModuleList([None] * s + [new]))
        for s in (2, 3, 4):
            chain = (Module(widths[:s], 2, momentum) for _ in range(modules))
            setattr(self, f"stage{s}", nn.Sequential(*chain))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer1(F.relu(self.bn2(self.conv2(x))))
        maps = self.stage2([step(x) for step in self.transition1])
        maps = self.stage3([*maps, self.transition2[2](maps[-1])])
        return self.stage4([*maps, self.transition3[3](maps[-1])])


def up(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def down(x):
    return F.max_pool2d(x, 3, 2, 1)


def block(width, before=()):
    conv = nn.Conv2d(width, width, 3, 1, 1)
    return nn.Sequential(*before, conv, norm(width), nn.SiLU())


class Half(nn.Module):
    def __init__(self, points, width):
        super().__init__()
        self.conv1x1_dict = nn.ModuleDict(
            {name: nn.Conv2d(inputs, width, 1) for name, inputs in points.items()}
        )
        self.blocks = nn.ModuleList(block(width) for _ in range(4))

    def point(self, name, *parts):
        return self.conv1x1_dict[str(name)](torch.cat(parts, 1))


class DFPL(nn.Module):
    def __init__(self, widths, c):
        super().__init__()
        reduce = {f"10{i}": w for i, w in enumerate(widths, 1)}
        self.td_fusion = Half(
            {**reduce, "1": 2 * c, "2": 4 * c, "3": 4 * c, "4": 3 * c}, c
        )
        self.bu_fusion = Half({"1": 2 * c, "2": 4 * c, "3": 4 * c, "4": 3 * c}, c)
        self.blocks = nn.ModuleList(block(c, (nn.Conv2d(w + c, c, 1),)) for w in widths)

    def forward(self, x):
        td, bu = self.td_fusion, self.bu_fusion
        r = [td.point(f"10{i}", x[i - 1]) for i in range(1, 5)]
        t4 = td.point(1, down(r[2]), r[3])
        t3 = td.point(2, down(r[1]), r[2], up(r[3]), up(t4))
        t2 = td.point(3, down(r[0]), r[1], up(r[2]), up(t3))
        t1 = td.point(4, r[0], up(r[1]), up(t2))
        y = [td.blocks[3 - i](t) for i, t in enumerate((t1, t2, t3, t4))]
        s1 = bu.point(1, y[0], up(y[1]))
        s2 = bu.point(2, down(s1), down(y[0]), y[1], up(y[2]))
        s3 = bu.point(3, down(s2), down(y[1]), y[2], up(y[3]))
        s4 = bu.point(4, down(s3), down(y[2]), y[3])
        z = [bu.blocks[i](s) for i, s in enumerate((s1, s2, s3, s4))]
        return [self.blocks[i](torch.cat((x[i], z[i]), 1)) for i in range(4)]


class EdgeHead(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.bn1, self.conv1 = norm(c), nn.Conv2d(c, c, 3, 1, 1, bias=False)
        self.bn2, self.conv2 = norm(c), nn.Conv2d(c, 1, 1)

    def forward(self, x):
        x = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(x)))


class REAM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.edge_head = EdgeHead(c)
        self.conv1 = nn.Conv2d(2, 1, 7, 1, 3, bias=False)
        for name in ("mid", "low2", "low1", "fuse"):
            setattr(self, f"conv3x3_{name}", nn.Conv2d(c, c, 3, 1, 1))
            setattr(self, f"bn_{name}", norm(c))

    def branch(self, name, x):
        return getattr(self, f"bn_{name}")(getattr(self, f"conv3x3_{name}")(x))

    def forward(self, low1, low2, mid):
        a = F.relu(up(self.branch("mid", mid)) + self.branch("low2", low2))
        g = F.relu(up(self.branch("fuse", a)) + self.branch("low1", low1))
        both = torch.cat((mid.mean(1, keepdim=True), mid.amax(1, keepdim=True)), 1)
        r = 1 - torch.sigmoid(self.conv1(both))
        r = F.interpolate(r, size=low1.shape[2:], mode="bilinear", align_corners=False)
        return g, self.edge_head(g * r)


class Weights(nn.Module):
    def __init__(self, width):
        super().__init__()
        for i in (1, 2, 3):
            layers = (nn.Conv2d(width, width, 1), norm(width))
            setattr(self, f"conv{i}", nn.Sequential(*layers))

    def forward(self, x):
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class SAFF(nn.Module):
    def __init__(self, c):
        super().__init__()

        def rise(width):
            large = nn.ConvTranspose2d(width, width, 16, 8, 4, bias=False)
            return nn.Sequential(nn.Conv2d(c, width, 1), norm(width), large)

        self.ada_learner = Weights(4)
        self.low_mid = nn.Sequential(nn.Conv2d(c, 2, 1), norm(2))
        self.high, self.high_prior = rise(2), rise(4)
        self.seghead = nn.Conv2d(2, 1, 1)

    def forward(self, low_mid, high):
        w = self.ada_learner(self.high_prior(high))
        low, high = self.low_mid(low_mid), self.high(high)
        sums = [w[:, 2 * k] * high[:, k] + w[:, 2 * k + 1] * low[:, k] for k in (0, 1)]
        return self.seghead(torch.stack(sums, 1))


class DefiNet(nn.Module):
    def __init__(self, stem=64, planes=64, widths=(18, 36, 72, 144), c=64):
        super().__init__()
        self.hrnet = HRNet(stem, planes, widths)
        self.gfpn = DFPL(widths, c)
        self.ream, self.dff = REAM(c), SAFF(c)

    def forward(self, x):
        maps = self.hrnet(x)
        levels = self.gfpn(maps)
        g, edge = self.ream(*levels[:3])
        taps = {f"level{i}": level for i, level in enumerate(levels, 1)}
        return self.dff(g, levels[3]), {"edge": edge, **taps}
