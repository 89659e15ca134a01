"""The same distillation step in plain PyTorch: networks, RLD loss and update."""

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ``jaxkd.models.resnet``."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.has_projection = stride != 1 or inputs != width
        if self.has_projection:
            self.shortcut_conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[batch, inputs, h, w]`` to ``[batch, width, h/stride, w/stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.has_projection:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return F.relu(x + y)


class ResNet(nn.Module):
    """The CIFAR residual network with ``blocks`` blocks in each of three stages."""

    def __init__(self, num_classes: int, blocks: int, stem: int, widths: Any):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.blocks, inputs = [], stem
        for stage, width in enumerate(widths, start=1):
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"stage{stage}_block{index}"
                self.add_module(name, Block(inputs, width, stride))
                self.blocks.append(name)
                inputs = width
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images ``[batch, 3, h, w]`` to logits ``[batch, num_classes]``."""
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


def make_resnet(network: Any, variables: Any) -> ResNet:
    """Makes the twin of a ``jaxkd`` ResNet with the same variables."""
    twin = ResNet(network.num_classes, network.blocks, network.stem, network.widths)
    state = dict(twin.state_dict())
    copied = {}
    for collection in ("params", "batch_stats"):
        copied.update(_flatten(variables[collection]))
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    if set(state) - counters != set(copied):
        raise ValueError(
            "The networks differ: only one of them has "
            f"{sorted((set(state) - counters) ^ set(copied))}."
        )
    twin.load_state_dict(state | copied)
    return twin


def _flatten(tree: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    names = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            # Convolutions: HWIO to OIHW; dense layers: [in, out] to [out, in].
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
            array = np.array(np.transpose(value, axes), order="C")
            flat[prefix + names[name]] = torch.from_numpy(array)
    return flat


def rld(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    beta: float,
    temperature: float,
) -> torch.Tensor:
    """Computes refined logit distillation (arXiv:2408.07703), averaged over the batch.

    Sample confidence: ``T^2 KL((a, 1 - a) || (q, 1 - q))`` with the teacher's largest
    probability ``a`` and the student's probability of the label ``q``. Masked
    correlation: ``T^2 KL`` of the softmaxes over the classes that the teacher ranks
    below the label.
    """
    label = F.one_hot(labels, student.shape[1]).bool()
    top = F.one_hot(teacher.argmax(1), teacher.shape[1]).bool()
    masked = teacher >= (teacher * label).sum(1, keepdim=True)
    student, teacher = student / temperature, teacher / temperature
    confidence = _divergence(_split(teacher, top), _split(student, label))
    correlation = _divergence(
        teacher.masked_fill(masked, -1e9), student.masked_fill(masked, -1e9)
    )
    return temperature**2 * (alpha * confidence + beta * correlation)


def _split(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Pools all classes but the chosen one: logits ``[batch, 2]``."""
    others = logits.masked_fill(chosen, -torch.inf).logsumexp(1)
    return torch.stack([(logits * chosen).sum(1), others], 1)


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return F.kl_div(
        F.log_softmax(student, 1),
        F.log_softmax(teacher, 1),
        reduction="batchmean",
        log_target=True,
    )


class Trainer:
    """One student's training step, in one layout, precision and mode.

    Attributes:
      compile_seconds: the first step, which compiles (or, eagerly, sets up) what it
        needs.
    """

    def __init__(
        self,
        teacher: ResNet,
        student: ResNet,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        weights: tuple[float, float, float],
        sgd: dict[str, Any],
        dtype: str = "float32",
        layout: str = "nchw",
        mode: str = "eager",
    ):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        layouts = {
            "nchw": torch.contiguous_format,
            "channels_last": torch.channels_last,
        }
        where: dict[str, Any] = {
            "device": self.device,
            "memory_format": layouts[layout],
        }
        self._teacher = teacher.to(**where).eval().requires_grad_(False)
        self._student = student.to(**where).train()
        self._images = [
            torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().to(**where)
            for batch in images
        ]
        self._labels = torch.from_numpy(labels).long().to(self.device)
        self._weights, self._bfloat16 = weights, dtype == "bfloat16"
        self._optimizer = torch.optim.SGD(self._student.parameters(), fused=True, **sgd)
        self._loss = self._compute_loss
        if mode != "eager":
            options = {"compile": "default", "cuda_graphs": "reduce-overhead"}
            self._loss = torch.compile(self._compute_loss, mode=options[mode])
        self._graphs, self._step = mode == "cuda_graphs", 0

    def warm_up(self) -> None:
        """Does the first step and notes how long it took."""
        began = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - began

    def _compute_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            with torch.no_grad():
                targets = self._teacher(images)
            logits = self._student(images)
        logits, targets = logits.float(), targets.float()
        distilled = rld(logits, targets, labels, *self._weights)
        return F.cross_entropy(logits, labels) + distilled

    def run(self, steps: int) -> torch.Tensor:
        """Trains for some steps, waits, and returns the loss of the last one."""
        for _ in range(steps):
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            batch = self._step % len(self._images)
            loss = self._loss(self._images[batch], self._labels[batch])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._step += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach()


def allow_tf32(allowed: bool) -> None:
    """Allows float32 products on an NVIDIA GPU to be rounded to TF32, as JAX does."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def prepare() -> int:
    """Lets PyTorch choose its fastest convolutions, and returns its threads."""
    torch.backends.cudnn.benchmark = True
    return torch.get_num_threads()
