"""HaDES for supervised learning: one image per class, evolved (arXiv 2406.15042).

    D <- the mean image of every class
    repeat                                                            (a generation)
        D_1, ..., D_P ~ Normal(D, sigma^2)                            (ten images each)
        theta_ik <- SGD on D_i from initialisation k                  (K students a candidate)
        f_i <- minus the mean loss of theta_i1, ..., theta_iK on real images
        D <- one step of OpenES on f; sigma and the learning rate decay

Labels are fixed, one per class. It has no environment and no episodes, so that it is a study
(`supervised_images`) and not a method of a sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.gaussian_search import OpenES, raw_fitness
from benchmark.images import CLASSES, LabelledImages
from benchmark.seeds import torch_generator
from benchmark.students.image_students import (
    classify,
    initial_students,
    mean_loss,
    train_image_students,
)


@dataclass(frozen=True)
class SupervisedHaDES:
    """Settings of the search; the defaults are those of the authors' runs.

    Args:
        generations: Steps of the evolution strategy.
        population: Candidates per generation, an even number.
        students_per_candidate: K; all candidates of a generation have the same initialisations.
        inner_steps, inner_learning_rate: Full-batch SGD that trains a student.
        fitness_images: Real images on which students are judged, drawn anew for every generation;
            None for all, as the authors do.
        sigma, sigma_limit: Standard deviation of the candidates at the start, and the least.
        learning_rate, beta1: Adam's.
        decay: Factor of sigma and of the learning rate per generation.
    """

    generations: int = 1_000
    population: int = 512
    students_per_candidate: int = 2
    inner_steps: int = 1_000
    inner_learning_rate: float = 0.1
    fitness_images: int | None = None
    sigma: float = 0.02
    sigma_limit: float = 0.001
    learning_rate: float = 0.01
    beta1: float = 0.99
    decay: float = 0.999

    def distill(
        self, real: LabelledImages, seed: int, on_generation: Callable[[int], None] | None = None
    ) -> Tensor:
        """Evolve ten images `[10, 784]`, in the order of their classes.

        Args:
            real: Real images.
            seed: Seed of all draws.
            on_generation: Called after each generation with their number.
        """
        mean = real.class_means()
        search = OpenES(mean.flatten(), self.sigma, self.learning_rate, raw_fitness, self.beta1)
        for generation in range(self.generations):
            generator = torch_generator(study="hades_supervised", seed=seed, generation=generation)
            noise = search.draw(self.population, generator)
            candidates = search.candidates(noise).view(self.population, *mean.shape)
            search.update(noise, -self.losses(candidates, real, generator))
            search.sigma = (self.decay * search.sigma).clamp(min=self.sigma_limit)
            search.learning_rate *= self.decay
            if on_generation:
                on_generation(generation + 1)
        return search.mean.view(mean.shape)

    def losses(
        self, candidates: Tensor, real: LabelledImages, generator: torch.Generator
    ) -> Tensor:
        """Mean loss `[P]` on real images of the students of each candidate `[P, 10, 784]`."""
        chosen = torch.randperm(len(real), generator=generator)[: self.fitness_images]
        pixels, labels = real.pixels[chosen], real.labels[chosen]
        copies = self.students_per_candidate
        first = initial_students([generator] * copies)  # one after the other from one generator
        losses = []
        for candidate in candidates:  # one by one: a student's weights stay in the cache
            students = first.repeated(1)
            images = candidate.expand(copies, -1, -1)
            train_image_students(
                students, images, torch.eye(CLASSES), self.inner_steps, self.inner_learning_rate
            )
            losses.append(mean_loss(classify(students, pixels), labels).mean())
        return torch.stack(losses)
