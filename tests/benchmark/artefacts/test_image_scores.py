"""Scores of image sets: whose students they are, and what their accuracy is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.artefacts.artefact import Artefact, ArtefactProblem
from benchmark.artefacts.image_scores import score_images
from benchmark.artefacts.score import read_score, write_score
from benchmark.errors import ObdBenchError
from benchmark.images import CLASS_COUNTS, FASHION_MNIST, MNIST, LabelledImages
from benchmark.seeds import torch_generator
from benchmark.students.image_students import classify, initial_students, train_image_students

SETTINGS = {
    "NET": "CNN", "WIDTH": 128, "ACTIVATION": "relu", "MOMENTUM": 0, "DATA_NOISE": 0.0,
    "NORMALIZE": True, "OVERFIT": False, "UPDATE_EPOCHS": 2, "LR": 1.0,
}  # fmt: skip

CARD = {
    "environment": MNIST, "file": "results/x/data_final.pkl", "file_sha256": "f" * 64,
    "sha256": "a" * 64,
}  # fmt: skip


def artefact(sigma: float, **changed: Any) -> Artefact:
    images = torch.rand(10, 784, generator=torch.Generator().manual_seed(1))
    tensors = {
        "observations": images,
        "actions": torch.eye(10),
        "sigma_observations": torch.full_like(images, sigma),
    }
    return Artefact("hades/x", {**CARD, "settings": SETTINGS | changed}, tensors)


def real(name: str = MNIST) -> LabelledImages:
    labels = torch.tensor([*range(10), *[3] * 20])  # far from the shares of the data set
    pixels = torch.rand(len(labels), 784, generator=torch.Generator().manual_seed(2))
    return LabelledImages(name, "invented", pixels, labels, "e" * 64)


def test_accuracy_is_that_on_classes_as_frequent_as_in_the_data_set() -> None:
    found = score_images(artefact(0.1), real(), "set", 2).by_row()
    for k, accuracy in enumerate(found):
        network = initial_students([torch_generator(artefact="hades/x", student=k, seed=0)])
        train_image_students(
            network, artefact(0.1).tensors["observations"][None], torch.eye(10), 2, 1.0
        )
        answers = classify(network, real().pixels)[0].argmax(1)
        expected = 0.0
        for label, count in enumerate(CLASS_COUNTS[MNIST]):
            own = answers[real().labels == label]
            expected += count / 60_000 * float((own == label).double().mean())
        assert accuracy == pytest.approx(expected, abs=1e-12)
    assert found[0] != found[1]


def test_students_of_the_population_learn_from_sets_around_the_set() -> None:
    alone, around, far = (
        score_images(artefact(sigma), real(), variant, 1).score
        for sigma, variant in ((0.0, "set"), (0.0, "population"), (5.0, "population"))
    )
    assert alone == around != far


def test_the_record_can_be_stored_and_says_what_was_scored(tmp_path: Path) -> None:
    score = score_images(artefact(0.1), real(), "population", 1, seed=7)
    assert read_score(write_score(tmp_path, score)) == score
    assert (score.unit, score.images, score.seed) == ("accuracy", 30, 7)
    assert (score.images_source, score.images_sha256) == ("invented", "e" * 64)
    assert score.file_sha256 == "f" * 64
    assert score.student == {key: SETTINGS[key] for key in score.student or ()}


def test_another_data_set_or_other_students_are_refused() -> None:
    with pytest.raises(ArtefactProblem, match="a set for images/mnist, but the images are of"):
        score_images(artefact(0.1), real(FASHION_MNIST), "set", 1)
    with pytest.raises(ArtefactProblem, match="has NET = 'MLP', expected 'CNN'"):
        score_images(artefact(0.1, NET="MLP"), real(), "set", 1)
    for changed in ({"LR": "0.1"}, {"LR": 0.0}, {"UPDATE_EPOCHS": 0}, {"UPDATE_EPOCHS": True}):
        with pytest.raises(ArtefactProblem, match="expected a number of steps and a learning rate"):
            score_images(artefact(0.1, **changed), real(), "set", 1)


def test_students_that_diverge_are_an_error_and_no_accuracy() -> None:
    with pytest.raises(ObdBenchError, match="diverged"):
        score_images(artefact(0.1, LR=1e30, UPDATE_EPOCHS=4), real(), "set", 1)
