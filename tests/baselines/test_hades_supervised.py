"""The supervised search: its start, its gradient, its decays and its draws."""

from __future__ import annotations

import pytest
import torch

from baselines import hades_supervised
from baselines.hades_supervised import SupervisedHaDES
from benchmark.images import MNIST, LabelledImages
from benchmark.seeds import torch_generator
from benchmark.students.image_students import ImageStudents

COUNT = 30


def real() -> LabelledImages:
    """Noisy images, each class with a bright row of its own."""
    labels = torch.arange(COUNT) % 10
    pixels = 0.3 * torch.rand(COUNT, 784, generator=torch.Generator().manual_seed(0))
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[56 * label : 56 * label + 28] += 0.7
    return LabelledImages(MNIST, "invented", pixels, labels, "0")


SMALL = SupervisedHaDES(
    generations=2, population=4, students_per_candidate=2, inner_steps=2, fitness_images=5,
)  # fmt: skip


def test_no_generation_gives_the_class_means() -> None:
    images = SupervisedHaDES(generations=0).distill(real(), seed=0)
    assert torch.equal(images, real().class_means())


def test_a_generation_is_a_step_of_adam_on_the_antithetic_estimate() -> None:
    """One generation by hand: Adam's first step is the sign of the gradient, times its rate."""
    seen = []

    class Seen(SupervisedHaDES):
        def losses(
            self, candidates: torch.Tensor, real: LabelledImages, generator: torch.Generator
        ) -> torch.Tensor:
            seen.append(candidates.clone())
            return candidates.double().square().sum((1, 2))  # least where all pixels are 0

    data = real()
    images = Seen(generations=1, population=6).distill(data, seed=3)
    (candidates,) = seen
    mean = data.class_means()
    noise = (candidates - mean) / 0.02
    torch.testing.assert_close(noise[:3], -noise[3:], rtol=0, atol=1e-4)  # in mirrored pairs
    loss = candidates.double().square().sum((1, 2))
    gradient = (loss[:, None, None] * noise).sum(0)
    clear = gradient.abs() > 1e-3 * gradient.abs().max()
    moved = (images - mean)[clear]
    torch.testing.assert_close(moved, -0.01 * gradient[clear].sign().float(), rtol=1e-3, atol=1e-5)


def test_sigma_decays_with_every_generation_to_its_limit() -> None:
    spreads = []

    class Seen(SupervisedHaDES):
        def losses(
            self, candidates: torch.Tensor, real: LabelledImages, generator: torch.Generator
        ) -> torch.Tensor:
            spreads.append(float((candidates[0] - candidates[1]).std() / 2))
            return torch.zeros(len(candidates), dtype=torch.float64)

    Seen(generations=3, population=2, decay=0.5, sigma_limit=0.008).distill(real(), seed=0)
    for found, expected in zip(spreads, (0.02, 0.01, 0.008), strict=True):
        assert abs(found / expected - 1) < 0.05


def test_the_learning_rate_decays_with_every_generation() -> None:
    class Noise(SupervisedHaDES):
        def losses(
            self, candidates: torch.Tensor, real: LabelledImages, generator: torch.Generator
        ) -> torch.Tensor:
            return torch.tensor([-1.0, 1.0], dtype=torch.float64)

    first, both = (
        Noise(
            generations=generations, population=2, decay=0.5, beta1=0.0, sigma_limit=0.02
        ).distill(real(), seed=0)
        for generations in (1, 2)
    )
    assert float((first - real().class_means()).abs().median()) == pytest.approx(0.01, rel=0.01)
    # Gradients are independent normals g1, g2, and Adam's second step is its rate times
    # |g2| / sqrt((g1^2 + g2^2) / 2) = sqrt(2) |sin(angle)|, whose median is 1.
    assert float((both - first).abs().median()) == pytest.approx(0.005, rel=0.03)


def test_candidates_have_common_students_and_common_images() -> None:
    data = real()
    same = data.class_means().expand(3, -1, -1)
    losses = SMALL.losses(same, data, torch_generator(x=1))
    assert torch.equal(losses, losses[:1].expand(3))
    other = SMALL.losses(same, data, torch_generator(x=2))
    assert float((losses - other).abs().min()) > 0


def test_students_of_a_candidate_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[ImageStudents] = []
    monkeypatch.setattr(
        hades_supervised, "train_image_students", lambda students, *rest: trained.append(students)
    )
    SMALL.losses(real().class_means()[None], real(), torch_generator(x=1))
    assert len(trained[0].dense) == 2 and not torch.equal(trained[0].dense[0], trained[0].dense[1])


def test_a_seed_gives_one_set() -> None:
    one, again, other = (SMALL.distill(real(), seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
