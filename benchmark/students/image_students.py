"""Convolutional students of HaDES's supervised runs, which ten images teach to classify.

Network, initialisation and loss are those of the authors' code (arXiv 2406.15042): convolution
3 x 3 of 16 channels that keeps the size, ReLU, dense 128, ReLU, dense 10; full-batch SGD on the
cross-entropy averaged over all `[N, 10]` entries, which is a tenth of the usual one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.images import CLASSES, SIDE

CHANNELS = 16
KERNEL = 3
WIDTH = 128
BIAS = 0.05
"""Upper end of the uniform biases at the start; those of the last layer are 0 (the code)."""
TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal cut at -2 and 2, by which JAX divides."""
CHUNK = 500
"""Real images that pass through a network at a time, for memory."""


class ImageStudents(NamedTuple):
    """Weights of S students; an input row comes first, as in `x @ weight + bias`.

    Attributes:
        kernel: `[S, 9, 16]`, from the 3 x 3 pixels around a place to its channels.
        kernel_bias: `[S, 1, 16]`.
        dense: `[S, 784 * 16, 128]`; the channels of a place stand next to each other.
        dense_bias: `[S, 1, 128]`.
        output: `[S, 128, 10]`.
        output_bias: `[S, 1, 10]`.
    """

    kernel: Tensor
    kernel_bias: Tensor
    dense: Tensor
    dense_bias: Tensor
    output: Tensor
    output_bias: Tensor

    def repeated(self, times: int) -> ImageStudents:
        """Each student `times` times, copies next to each other."""
        return ImageStudents(*(weight.repeat_interleave(times, 0) for weight in self))


def initial_students(generators: Sequence[torch.Generator]) -> ImageStudents:
    """Draw a student per generator: LeCun's truncated normal weights, small positive biases."""
    drawn = [_initial(generator) for generator in generators]
    return ImageStudents(*map(torch.stack, zip(*drawn, strict=True)))


def _initial(generator: torch.Generator) -> list[Tensor]:
    weights: list[Tensor] = []
    places = SIDE * SIDE * CHANNELS
    for fan_in, fan_out in ((KERNEL**2, CHANNELS), (places, WIDTH), (WIDTH, CLASSES)):
        weight = torch.empty(fan_in, fan_out)
        torch.nn.init.trunc_normal_(weight, a=-2, b=2, generator=generator)
        weights.append(weight / (TRUNCATED * fan_in**0.5))
        last = fan_out == CLASSES
        bias = torch.zeros(1, fan_out) if last else torch.rand(1, fan_out, generator=generator)
        weights.append(BIAS * bias)
    return weights


def patches(images: Tensor) -> Tensor:
    """Pixels around every place, 0 outside: from `[..., N, 784]` to `[..., N * 784, 9]`."""
    squares = images.reshape(-1, 1, SIDE, SIDE)
    unfolded = torch.nn.functional.unfold(squares, KERNEL, padding=KERNEL // 2).mT
    return unfolded.reshape(*images.shape[:-2], -1, KERNEL**2)


def train_image_students(
    students: ImageStudents, images: Tensor, labels: Tensor, steps: int, learning_rate: float
) -> None:
    """Train students in place, each on its own images.

    Args:
        students: S students.
        images: Their images `[S, N, 784]`.
        labels: Label distributions `[N, 10]` of all of them.
        steps: Full-batch SGD steps (1,000 in the paper).
        learning_rate: Their rate (0.1 in the paper).
    """
    # The gradient by hand: autograd would hold and write the largest weight's gradient, 6 MB per
    # student and step, where the outer product can be added to the weight at once.
    kernel, kernel_bias, dense, dense_bias, output, output_bias = students
    pixels = patches(images)
    for _ in range(steps):
        features, hidden, logits = _forward(students, pixels)
        d_logits = (logits.softmax(-1) - labels) / labels.numel()
        d_hidden = (d_logits @ output.mT) * hidden.sign()  # ReLU passes where its output is > 0
        d_features = (d_hidden @ dense.mT) * features.sign()
        d_places = d_features.view(len(kernel), -1, CHANNELS)
        for weight, bias, inputs, gradient in (
            (output, output_bias, hidden, d_logits),
            (dense, dense_bias, features, d_hidden),
            (kernel, kernel_bias, pixels, d_places),
        ):
            weight.baddbmm_(inputs.mT, gradient, alpha=-learning_rate)
            bias.sub_(gradient.sum(1, keepdim=True), alpha=learning_rate)


def _forward(students: ImageStudents, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features `[S, N, 784 * 16]`, hidden `[S, N, 128]` and logits `[S, N, 10]` of patches."""
    kernel, kernel_bias, dense, dense_bias, output, output_bias = students
    places = torch.baddbmm(kernel_bias, pixels, kernel).relu_()
    features = places.view(len(kernel), -1, SIDE * SIDE * CHANNELS)
    hidden = torch.baddbmm(dense_bias, features, dense).relu_()
    return features, hidden, torch.baddbmm(output_bias, hidden, output)


def mean_loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """The authors' loss `[S]` on real images: the cross-entropy divided by the number of classes.

    Args:
        log_probabilities: What students give the images `[S, M, 10]`.
        labels: Classes of the images `[M]`.
    """
    given = log_probabilities[:, torch.arange(len(labels)), labels]
    return -given.double().mean(1) / CLASSES


def classify(students: ImageStudents, images: Tensor) -> Tensor:
    """Log probabilities `[S, M, 10]` that students give real images `[M, 784]`.

    Raises:
        ObdBenchError: They are not finite: a student diverged.
    """
    count = len(students.kernel)
    found = [
        _forward(students, patches(chunk).expand(count, -1, -1))[-1].log_softmax(-1)
        for chunk in torch.split(images, CHUNK)
    ]
    log_probabilities = torch.cat(found, 1)
    if not bool(log_probabilities.isfinite().all()):
        raise ObdBenchError(
            "A student of a set of images diverged: it gives no finite probability. Train it at a "
            "lower learning rate, on images of pixels near 0 to 1."
        )
    return log_probabilities
