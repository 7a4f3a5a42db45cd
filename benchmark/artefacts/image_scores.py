"""Accuracy of fresh students of a published set of images, on real images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch

from benchmark.artefacts.artefact import Artefact, ArtefactProblem
from benchmark.artefacts.score import ArtefactScore
from benchmark.images import CLASS_COUNTS, LabelledImages
from benchmark.monitor import now
from benchmark.provenance import provenance
from benchmark.record import Origin
from benchmark.seeds import torch_generator
from benchmark.students.image_students import (
    WIDTH,
    classify,
    initial_students,
    train_image_students,
)

Variant = Literal["set", "population"]
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
    seed: int = 0,
    on_student: Callable[[int], None] | None = None,
) -> ArtefactScore:
    """Train students on a set as its authors did, and let them classify real images.

    The published accuracy is that on the 60,000 training images. A sample estimates it: each class
    counts by its share of them, whatever its share of the sample.

    Args:
        artefact: A set of images of HaDES.
        real: Images of the same data set.
        variant: "set"; or "population": for every student a set of its own around the set.
        students: Number of students, each with an initialisation of its own.
        seed: Seed of all draws. Student k of either variant starts alike.
        on_student: Called after each student with their number.

    Raises:
        ArtefactProblem: The set is of another data set, or its students were others.
    """
    _require_fitting(artefact, real)
    wall, cpu = time.monotonic(), time.process_time()
    accuracies = []
    for student in range(students):
        accuracies.append(_accuracy(artefact, real, variant, student, seed))
        if on_student:
            on_student(student + 1)
    card, settings = artefact.card, artefact.card["settings"]
    mean = sum(accuracies) / students
    return ArtefactScore(
        artefact=artefact.name,
        file=card["file"],
        file_sha256=card["file_sha256"],
        tensors_sha256=card["sha256"],
        environment=card["environment"],
        variant=variant,
        student={
            key: settings[key] for key in ("NET", "WIDTH", "ACTIVATION", "LR", "UPDATE_EPOCHS")
        },
        actions="mode",
        normalization="pixels divided by 255",
        unit="accuracy",
        statistic="accuracy",
        images=len(real),
        images_source=real.source,
        images_sha256=real.sha256,
        seed=seed,
        returns=[[[accuracy]] for accuracy in accuracies],
        lengths=[[[1]]] * students,
        score=mean,
        first=mean,
        wall_seconds=time.monotonic() - wall,
        cpu_seconds=time.process_time() - cpu,
        origin=Origin(**provenance("cpu")),
        finished=now(),
    )


def _require_fitting(artefact: Artefact, real: LabelledImages) -> None:
    """Raise ArtefactProblem unless these images and students are those of the set."""
    card = artefact.card
    if card["environment"] != real.name:
        raise ArtefactProblem(
            f"{artefact.name} is a set for {card['environment']}, but the images are of {real.name}"
            f" ({real.source}). Name the images of its data set."
        )
    for key, expected in _ONLY.items():
        if card["settings"].get(key) != expected:
            raise ArtefactProblem(
                f"{artefact.name} has {key} = {card['settings'].get(key)!r}, expected {expected!r}:"
                f" there are no such students here."
            )
    steps, rate = (card["settings"].get(key) for key in ("UPDATE_EPOCHS", "LR"))
    if type(steps) is not int or steps < 1 or type(rate) not in (int, float) or rate <= 0:
        raise ArtefactProblem(
            f"{artefact.name} has UPDATE_EPOCHS = {steps!r} and LR = {rate!r}, expected a number "
            f"of steps and a learning rate above 0. Import it again."
        )


def _accuracy(
    artefact: Artefact, real: LabelledImages, variant: Variant, student: int, seed: int
) -> float:
    """The accuracy of one student."""
    generator = torch_generator(artefact=artefact.name, student=student, seed=seed)
    network = initial_students([generator])
    images, labels = artefact.tensors["observations"], artefact.tensors["actions"]
    if variant == "population":
        noise = torch.randn(images.shape, generator=generator)
        images = images + artefact.tensors["sigma_observations"] * noise
    settings = artefact.card["settings"]
    train_image_students(network, images[None], labels, settings["UPDATE_EPOCHS"], settings["LR"])
    right = classify(network, real.pixels)[0].argmax(-1) == real.labels
    whole = torch.tensor(CLASS_COUNTS[real.name], dtype=torch.float64)
    weights = whole / whole.sum() / real.labels.bincount()  # of an image, by its class
    return float(right.double() @ weights[real.labels])
