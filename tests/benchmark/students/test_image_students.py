"""The convolutional students against torch's own layers and automatic derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmark.students import image_students
from benchmark.students.image_students import (
    ImageStudents,
    classify,
    initial_students,
    train_image_students,
)

IMAGES, STEPS, RATE = 2, 2, 5.0


def students(count: int) -> ImageStudents:
    drawn = initial_students([torch.Generator().manual_seed(k) for k in range(count)])
    return ImageStudents(*(weight.double() for weight in drawn))


def data(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(count, IMAGES, 784, generator=generator, dtype=torch.float64)
    labels = torch.rand(IMAGES, 10, generator=generator, dtype=torch.float64).softmax(-1)
    return images, labels


def by_torch(weights: list[Tensor], images: Tensor) -> Tensor:
    """Logits `[N, 10]` of one student, by torch's layers in their own layout."""
    kernel, kernel_bias, dense, dense_bias, output, output_bias = weights
    places = functional.conv2d(
        images.view(-1, 1, 28, 28), kernel.T.view(16, 1, 3, 3), kernel_bias[0], padding=1
    ).relu()
    features = places.permute(0, 2, 3, 1).flatten(1)  # flax flattens channels last
    hidden = functional.linear(features, dense.T, dense_bias[0]).relu()
    return functional.linear(hidden, output.T, output_bias[0])


def test_training_and_classifying_agree_with_automatic_derivatives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, (images, labels) = students(2), data(2)
    expected = []
    for k in range(2):
        weights = [weight[k].clone().requires_grad_() for weight in trained]
        for _ in range(STEPS):
            loss = -(by_torch(weights, images[k]).log_softmax(-1) * labels).mean()  # all 20 entries
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= RATE * gradient
        expected.append(weights)
    before = [weight.clone() for weight in trained]
    train_image_students(trained, images, labels, STEPS, RATE)
    for place, weight in enumerate(trained):
        assert (weight - before[place]).abs().max() > 1e-6  # each layer learned
        for k in range(2):
            torch.testing.assert_close(
                weight[k], expected[k][place].detach(), rtol=1e-9, atol=1e-12
            )
    monkeypatch.setattr(image_students, "CHUNK", 2)
    real = torch.rand(3, 784, dtype=torch.float64)  # more than pass at a time
    for k in range(2):
        found = by_torch(expected[k], real).log_softmax(-1)
        torch.testing.assert_close(
            classify(trained, real)[k], found.detach(), rtol=1e-9, atol=1e-12
        )


def test_initialisation_is_that_of_flax() -> None:
    """LeCun's normal, truncated at two deviations; biases uniform in 0 to 0.05, the last ones 0."""
    drawn = initial_students([torch.Generator().manual_seed(k) for k in range(2)])
    for weight, fan_in in ((drawn.kernel, 9), (drawn.dense, 12544), (drawn.output, 128)):
        scaled = weight * fan_in**0.5
        assert abs(float(scaled.std()) - 1) < 0.06
        assert 2.1 < float(scaled.abs().max()) <= 2 / 0.8796 + 1e-3
    for bias in (drawn.kernel_bias, drawn.dense_bias):
        assert 0 <= float(bias.min()) < 0.01 and 0.04 < float(bias.max()) <= 0.05
    assert not drawn.output_bias.any()


def test_a_generator_gives_one_student_wherever_it_stands() -> None:
    one, two = students(1), students(2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    copies = two.repeated(2)
    assert torch.equal(copies.dense[1], two.dense[0]) and torch.equal(copies.dense[2], two.dense[1])
