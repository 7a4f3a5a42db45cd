"""Accuracy of fresh students of a published set of images, on real images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from benchmark.artefacts.artefact import Artefact, ArtefactProblem
from benchmark.images import CLASS_COUNTS, LabelledImages
from benchmark.seeds import torch_generator
from benchmark.students.image_students import (
    WIDTH,
    classify,
    initial_students,
    train_image_students,
)

Variant = Literal["set", "population"]
"""The set itself; or for every student a set of its own, drawn from the last population."""

_ONLY = {
    "NET": "CNN", "WIDTH": WIDTH, "ACTIVATION": "relu", "MOMENTUM": 0, "DATA_NOISE": 0,
    "NORMALIZE": True, "OVERFIT": False,
}  # fmt: skip
"""Settings of the authors' runs that the students here have; of some others there is no file."""


def score_images(
    artefact: Artefact,
    real: LabelledImages,
    variant: Variant,
    students: int,
    on_student: Callable[[int], None] | None = None,
) -> list[float]:
    """Train students on a set as its authors did, and let them classify real images.

    The published accuracy is that on the 60,000 training images. A sample estimates it: each class
    counts by its share of them, whatever its share of the sample.

    Args:
        artefact: A set of images of HaDES.
        real: Images of the same data set.
        variant: What the students learn from.
        students: Number of students S, each with an initialisation of its own.
        on_student: Called after each student with their number.

    Returns:
        Accuracy of each student.

    Raises:
        ArtefactProblem: The set is of another data set, or its students were others.
    """
    card = artefact.card
    settings = card["settings"]
    if card["environment"] != real.name:
        raise ArtefactProblem(
            f"{artefact.name} is a set for {card['environment']}, but the images are of {real.name}"
            f" ({real.source}). Name the images of its data set."
        )
    for key, expected in _ONLY.items():
        if settings.get(key) != expected:
            raise ArtefactProblem(
                f"{artefact.name} has {key} = {settings.get(key)!r}, expected {expected!r}: there "
                f"are no such students here."
            )
    images, labels = artefact.tensors["observations"], artefact.tensors["actions"]
    whole = torch.tensor(CLASS_COUNTS[real.name], dtype=torch.float64)
    weights = (whole / whole.sum() / real.labels.bincount())[real.labels]
    accuracies = []
    for k in range(students):
        generator = torch_generator(artefact=artefact.name, student=k)
        network = initial_students([generator])
        own = images
        if variant == "population":
            noise = torch.randn(images.shape, generator=generator)
            own = images + artefact.tensors["sigma_observations"] * noise
        train_image_students(network, own[None], labels, settings["UPDATE_EPOCHS"], settings["LR"])
        right = classify(network, real.pixels)[0].argmax(-1) == real.labels
        accuracies.append(float(right.double() @ weights))
        if on_student:
            on_student(k + 1)
    return accuracies
