"""Published numbers next to the authors' own files, scored again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from benchmark.artefacts.score import ArtefactScore, stored_scores, write_score
from benchmark.artefacts.scoring import with_means
from benchmark.datasets.d4rl_facts import d4rl_reference
from benchmark.errors import ObdBenchError
from results.author_files import ACCURACY_MARGIN, SHARE, published_files
from results.comparison import JUDGED, PublishedCell, compare, file_cells, published_cells
from results.record_store import SHIPPED
from results.shipping import ship_scores
from tests.benchmark.artefacts.test_score import score

BY_PLACE = {(c.paper, c.table, c.row, c.dataset): c for c in published_cells()}
HOPPER = BY_PLACE["hades", "size_64", "hades", "brax/hopper"]
FIXED = BY_PLACE["hades", "size_64", "hades_fixed_init", "brax/hopper"]


def scored(name: str, rows: Sequence[float], **changes: Any) -> ArtefactScore:
    """A score of an artefact, with these returns of its students."""
    file = published_files()[name]
    values = {
        "artefact": name, "file_sha256": file.sha256, "environment": file.dataset,
        "variant": file.variant, "returns": [[[float(row)]] for row in rows],
        "lengths": [[[1]]] * len(rows),
    }  # fmt: skip
    return score(**values | changes)


def scores_of(cell: PublishedCell, rows: Sequence[float], **changes: Any) -> list[ArtefactScore]:
    return [scored(name, rows, **changes) for name in cell.artefacts]


def test_every_published_number_of_sets_is_the_mean_of_what_its_files_state() -> None:
    checked = 0
    for cell in published_cells():
        if not cell.artefacts or cell.paper == "obd":
            continue
        files = [published_files()[name] for name in cell.artefacts]
        mean = float(np.mean([file.value for file in files if file.value is not None]))
        decimals = len(str(cell.value).partition(".")[2].rstrip("0"))
        assert abs(mean - cell.value) <= 0.51 * 10**-decimals, cell
        missing = 2 if (cell.row, cell.dataset) == ("256", "brax/humanoid") else 0
        assert len(files) == 3 - missing
        checked += 1
    assert checked == 16 + 2 + 12 + 8 + 4 + 2


def test_obds_teachers_are_nine_files_and_nothing_else_of_its_paper_is_one() -> None:
    cells = [cell for cell in published_cells() if cell.paper == "obd" and cell.artefacts]
    assert {cell.row for cell in cells} == {"teacher"}
    assert sorted(name for cell in cells for name in cell.artefacts) == sorted(
        name for name in published_files() if name.startswith("obd/")
    )


def test_files_are_facts_of_their_own_that_no_paper_count_has() -> None:
    files = file_cells()
    assert len(files) == 226 + 24
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in published_files().values())
    assert {cell.table for cell in files} == {"files"}
    assert not [cell for cell in published_cells() if cell.table == "files"]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([1781.0] * 5, "reproduced"),
        ([1700.0, 1750.0, 1781.0, 1800.0, 1850.0], "reproduced"),
        ([1781.0 * (1 - SHARE) + 0.1] * 5, "reproduced"),
        ([1781.0 * (1 - SHARE) - 0.1] * 5, "differs"),
        ([900.0, 1000.0, 1100.0, 1000.0, 950.0], "differs"),
        ([1000.0, 2000.0, 3000.0, 500.0, 1500.0], "inconclusive"),
        ([1781.0] * 4, "inconclusive"),
    ],
)
def test_verdicts_by_a_tenth_of_the_published_number(rows: list[float], verdict: str) -> None:
    (found,) = compare([HOPPER], [], scores_of(HOPPER, rows))
    assert (found.verdict, found.reasons) == (verdict, ())
    assert found.reproduced is not None
    assert found.reproduced.n == 3 * len(rows)


@pytest.mark.parametrize(("share", "verdict"), [(1.05, "reproduced"), (1.2, "differs")])
def test_a_negative_return_has_a_margin_too(share: float, verdict: str) -> None:
    reacher = BY_PLACE["hades", "size_64", "hades", "brax/reacher"]
    assert reacher.value < 0
    rows = share * reacher.value + np.linspace(-0.1, 0.1, 10)
    (found,) = compare([reacher], [], scores_of(reacher, rows))
    assert found.verdict == verdict


def test_the_interval_stands_on_students_within_the_seeds_and_not_on_the_seeds() -> None:
    rows = np.random.default_rng(0).normal([[1500], [1800], [2000]], [[20], [40], [80]], (3, 6))
    given = [scored(n, list(r)) for n, r in zip(HOPPER.artefacts, rows, strict=True)]
    (found,) = compare([HOPPER], [], given)
    variances = rows.var(1, ddof=1) / 6
    spread = np.sqrt(variances.sum()) / 3
    degrees = variances.sum() ** 2 / (variances**2 / 5).sum()  # Welch and Satterthwaite
    half = stats.t.ppf(0.975, degrees) * spread
    assert found.reproduced is not None
    np.testing.assert_allclose(
        [found.reproduced.low, found.reproduced.high], [rows.mean() - half, rows.mean() + half]
    )


def test_what_is_missing_or_other_keeps_a_number_from_a_verdict() -> None:
    whole = scores_of(HOPPER, [1781.0] * 5)
    (found,) = compare([HOPPER], [], whole[:2])
    assert found.verdict == "not tested"
    assert found.reasons == (f"no score of {HOPPER.artefacts[2]}",)
    other = msgspec.structs.replace(whole[0], file_sha256="0" * 64)
    (found,) = compare([HOPPER], [], [other, *whole[1:]])
    assert found.verdict == "not tested"
    assert "scored from another file" in found.reasons[0]
    (found,) = compare(
        [HOPPER], [], [scored(n, [1781.0] * 5, variant="set") for n in HOPPER.artefacts]
    )
    assert (found.verdict, found.reproduced) == ("not tested", None)
    fresh = [scored(name, [1837.0] * 5, variant="population") for name in FIXED.artefacts]
    (found,) = compare([FIXED], [], fresh)
    assert found.verdict == "not tested"
    assert "fresh initializations" in found.reasons[0]
    (found,) = compare([FIXED], [], scores_of(FIXED, [1837.0] * 5))
    assert found.verdict == "reproduced"


def test_a_published_zero_is_met_by_zero_alone() -> None:
    cell = BY_PLACE["hades", "minatar", "hades", "minatar/freeway"]
    assert compare([cell], [], scores_of(cell, [0.0] * 5))[0].verdict == "reproduced"
    assert compare([cell], [], scores_of(cell, [0.1] * 5))[0].verdict == "differs"


def test_a_teacher_is_judged_by_its_episodes_in_the_papers_unit() -> None:
    cell = BY_PLACE["obd", "table1", "teacher", "d4rl/hopper-medium-v2"]
    reference = d4rl_reference("hopper-medium-v2")
    span = reference.expert - reference.random
    rows = [[[reference.random + span * p / 100] for p in (55.0, 57.0, 58.0)]] * 3
    given = scored(cell.artefacts[0], [0.0], statistic="first", horizon=None, returns=rows,
                   lengths=[[[1]] * 3] * 3)  # fmt: skip
    (found,) = compare([cell], [], [given])
    assert found.verdict == "reproduced"
    assert found.reproduced is not None
    assert (found.reproduced.n, found.reproduced.value) == (9, pytest.approx(170 / 3))


def test_an_accuracy_has_the_interval_of_its_sample_too() -> None:
    cell = BY_PLACE["hades", "supervised", "hades", "images/mnist"]
    for images, expected in ((60_000, "reproduced"), (200, "inconclusive")):
        given = scores_of(
            cell, [0.893, 0.894, 0.895, 0.896, 0.897], unit="accuracy", statistic="accuracy",
            images=images,
        )  # fmt: skip
        (found,) = compare([cell], [], given)
        assert found.verdict == expected
        assert found.reproduced is not None
        half = (found.reproduced.high - found.reproduced.low) / 2
        assert half == pytest.approx(1.96 * np.sqrt(0.895 * 0.105 / images), rel=0.2)
    assert ACCURACY_MARGIN == 0.02


def test_scores_are_shipped_only_from_committed_code(tmp_path: Path) -> None:
    store, target = tmp_path / "store", tmp_path / "shipped"
    with pytest.raises(ObdBenchError, match="has no scores"):
        ship_scores(store, target)
    one = score()
    write_score(store, one)
    assert ship_scores(store, target) == 1
    assert list(stored_scores(target)) == [one]
    origin = msgspec.structs.replace(one.origin, dirty=True)
    write_score(store, msgspec.structs.replace(one, origin=origin))
    with pytest.raises(ObdBenchError, match="uncommitted"):
        ship_scores(store, target)


def test_shipped_scores_are_of_the_published_files_by_committed_code() -> None:
    for one in stored_scores(SHIPPED):
        assert one.origin.dirty is False
        if (file := published_files().get(one.artefact)) is not None:
            assert one.file_sha256 == file.sha256
        anew = with_means(one)
        assert (anew.score, anew.first) == pytest.approx((one.score, one.first), rel=1e-12)


def test_a_number_without_scores_is_held_against_records_as_ever() -> None:
    found = compare(published_cells(), [], [])
    assert not [one for one in found if one.verdict in JUDGED]
