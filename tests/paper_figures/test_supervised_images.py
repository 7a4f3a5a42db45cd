"""The study of supervised distillation, its table and its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.images import MNIST, LabelledImages
from paper_figures.figure import FigureError
from paper_figures.studies import supervised_images as module
from paper_figures.studies.study import STUDIES, perform
from paper_figures.studies.supervised_images import SupervisedImages
from paper_figures.supervised_images import evolved_sets, image_sets, supervised_table
from results.study_results import study_frame, study_results


def real() -> LabelledImages:
    labels = torch.arange(20) % 10
    pixels = torch.rand(20, 784, generator=torch.Generator().manual_seed(0))
    return LabelledImages(MNIST, "invented", pixels, labels, "0")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Rows of a study of tiny size."""

    class Tiny(SupervisedImages):
        def __init__(self) -> None:
            super().__init__(
                seeds=2, students_per_set=1, steps=1, generations=1, population=2, inner_steps=1,
                fitness_images=3,
            )  # fmt: skip

    monkeypatch.setattr(module, "load_images", lambda name: real())
    assert "supervised_images" in set(STUDIES)
    monkeypatch.setitem(STUDIES._entries, "supervised_images", Tiny)
    assert perform("supervised_images", tmp_path) == (5, 5)
    assert perform("supervised_images", tmp_path) == (0, 5)
    return study_frame(study_results(tmp_path, "supervised_images"))


def test_no_real_image_is_stored_and_evolved_ones_are(measured: pd.DataFrame) -> None:
    shown = measured.dropna(subset=["image"])
    assert set(shown["set"]) == {"class_means", "hades_supervised"}
    means = shown[shown["item"] == "class_means-seed0"].sort_values("image")
    np.testing.assert_allclose(
        np.array(list(means["pixels"])), real().class_means().numpy(), atol=6e-4
    )
    students = measured.dropna(subset=["accuracy"])
    assert len(students) == 5 and students["accuracy"].between(0, 1).all()
    sets = evolved_sets(measured)
    assert list(sets) == [
        "class means, seed 0", "hades supervised, seed 0", "hades supervised, seed 1",
    ]  # fmt: skip
    np.testing.assert_allclose(sets["class means, seed 0"], real().class_means(), atol=6e-4)


def test_the_table_has_means_over_sets_and_of_the_class_means_over_students() -> None:
    rows = pd.DataFrame(
        [
            {"item": f"{kind}-seed{k}", "set": kind, "student": s, "accuracy": value + k + 10 * s,
             "loss": 0.5}
            for kind, value, seeds in (
                ("random_images", 1.0, 3), ("class_means", 2.0, 1), ("hades_supervised", 3.0, 3)
            )
            for k in range(seeds)
            for s in range(2)
        ]
    )  # fmt: skip
    table = supervised_table(rows)
    data = table.data[table.data["what"] == "accuracy"].set_index("set")
    assert data["value"].to_dict() == {
        "random_images": 7.0, "class_means": 7.0, "hades_supervised": 9.0,
    }  # fmt: skip
    # Student's t over three sets of spread 1; over two students of 2 and 12 for the class means.
    width = (data["high"] - data["low"]) / 2
    assert width["random_images"] == pytest.approx(4.30265 / 3**0.5, rel=1e-4)
    assert width["class_means"] == pytest.approx(12.7062 * 50**0.5 / 2**0.5, rel=1e-4)
    assert "10" in table.caption


def test_what_is_no_set_of_images_is_refused() -> None:
    with pytest.raises(FigureError, match="11 numbers per image, expected 784"):
        image_sets({"brax": np.zeros((4, 11))})
    with pytest.raises(FigureError, match="There is no set of images"):
        image_sets({})
    with pytest.raises(FigureError, match="supervised_images"):
        supervised_table(pd.DataFrame())


def test_pictures_show_the_pixels_in_their_place() -> None:
    images = np.arange(2 * 784, dtype=float).reshape(2, 784)
    figure = image_sets({"one": images, "a name longer than a panel": images[:1] - 1})
    first = figure.axes[0].images[0]
    array = first.get_array()
    assert array is not None and np.array_equal(array, images[0].reshape(28, 28))
    assert first.get_clim() == (0.0, 1567.0)
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    assert [part.get_suptitle() for part in figure.subfigs] == ["one", "a name longer than a panel"]
    figure.draw_without_rendering()
    widths = [axes.get_window_extent().width for axes in figure.axes]
    starts = [axes.get_window_extent().x0 for axes in figure.axes]
    assert max(widths) < 1.01 * min(widths) and starts[:2] == pytest.approx(starts[2:], abs=1)


def test_a_study_that_is_half_done_says_what_is_missing_and_one_set_is_no_mean_over_sets() -> None:
    rows = pd.DataFrame(
        [
            {"item": f"{kind}-seed0", "set": kind, "student": s, "accuracy": 0.1 * s, "loss": 0.5}
            for kind in ("class_means", "hades_supervised", "random_images")
            for s in range(2)
        ]
    )
    with pytest.raises(FigureError, match="no rows of random_images yet"):
        supervised_table(rows[rows["set"] != "random_images"])
    assert (
        "where there is one over its students (ten real images drawn at random; "
        in supervised_table(rows).caption
    )
