"""The comparisons that three pages make, from the shipped records: `python -m tests.docs.claims`.

The pages are docs/paper.md, results/all_methods.md and docs/findings.md.

A claim of a paper is held against differences of cells here, whatever a page says of it: each
with its t interval (paired where both have the same seeds), and apart from zero or not at 5 %,
corrected (Holm) for all comparisons that a page makes of the same exhibit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd

from results import cell_table, curves_frame, runs_frame
from results.differences import Difference, holm, mean_difference
from results.record_store import SHIPPED, load_sweep, sweep_records
from results.statistics import LEVEL, stratified
from results.study_results import study_frame, study_results

Side = Mapping[str, Mapping[int, float]]
"""Score by seed of every dataset that the mean is over."""


class Fixed(dict[str, Mapping[int, float]]):
    """A side that is one number, not a mean over seeds: a published one, or chance."""


@dataclass(frozen=True)
class Claim:
    """A row of the page that compares.

    Args:
        row: Words of the paper's claim, as the page has them.
        exhibit: Exhibit that the numbers are from; its claims share a correction.
        pairs: Sides that are compared.
        says: "higher", where the paper says that the first is; "equal", where it says that the
            second is as good; "nothing", where it makes no such claim; "untested", where no run
            here can speak for or against it.
        decimals: Decimals of the numbers.
    """

    row: str
    exhibit: str
    pairs: tuple[tuple[Side, Side], ...]
    says: Literal["higher", "equal", "nothing", "untested"] = "higher"
    decimals: int = 1

    @property
    def here(self) -> str:
        """The means with their intervals."""
        return "; ".join(
            f"{self._mean(one)} against {self._mean(other)}" for one, other in self.pairs
        )

    @property
    def differences(self) -> list[Difference]:
        """First less second side of every pair."""
        return [mean_difference(one, other) for one, other in self.pairs]

    @property
    def difference_texts(self) -> list[str]:
        """The differences with their intervals, and the p-value of one that the correction took."""
        texts = []
        for found, p in zip(self.differences, self.p_values, strict=True):
            e, places = found.estimate, self.decimals
            text = f"{e.value:+.{places}f} [{e.low:.{places}f}, {e.high:.{places}f}]"
            lost = found.p < 1 - LEVEL <= p
            texts.append(text + (f" (corrected p = {p:.2g})" if lost else ""))
        return texts

    @property
    def largest_loss(self) -> str:
        """How far the second side may lie below the first, at the intervals' level."""
        return f"{max(found.estimate.high for found in self.differences):.{self.decimals}f}"

    @property
    def p_values(self) -> list[float]:
        """Corrected p-values of the differences."""
        family = [claim for claim in (*claims(), *findings()) if claim.exhibit == self.exhibit]
        corrected = iter(holm([one.p for claim in family for one in claim.differences]))
        return {claim.row: [next(corrected) for _ in claim.pairs] for claim in family}[self.row]

    @property
    def verdict(self) -> str:
        """Word that the differences and what the paper says allow."""
        if self.says == "nothing":
            return "no claim"
        if self.says == "untested":
            return "not tested"
        signs = [
            (1 if one.estimate.value > 0 else -1) if p < 1 - LEVEL else 0
            for one, p in zip(self.differences, self.p_values, strict=True)
        ]
        if not any(signs):
            return "not told apart"
        wanted = 1 if self.says == "higher" else 0
        word = "shows" if wanted in signs and self.says == "higher" else "opposite"
        whole = {1} if word == "shows" else {1, -1} if self.says == "equal" else {-1}
        return word if set(signs) <= whole else f"{word} in part"

    def _mean(self, side: Side) -> str:
        found = stratified({task: list(scores.values()) for task, scores in side.items()})
        places = self.decimals
        if isinstance(side, Fixed):
            return f"{found.value:.{places}f}"
        return f"{found.value:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def _cells(sweep: str, label: str, *datasets: str) -> Side:
    """Scores of a method of a shipped sweep; on every dataset without any named."""
    table = _table(sweep)
    rows = table[table["label"] == label]
    rows = rows[rows["dataset"].isin(datasets)] if datasets else rows
    return {
        row["dataset"]: dict(zip(row["seeds"], row["scores"], strict=True))
        for _, row in rows.iterrows()
    }


@cache
def _table(sweep: str) -> pd.DataFrame:
    return cell_table(runs_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, sweep))))


@cache
def _curves(sweep: str) -> pd.DataFrame:
    return curves_frame(sweep_records(SHIPPED, load_sweep(SHIPPED, sweep)))


def _by_seed(rows: pd.DataFrame) -> Side:
    """Normalized returns of rows that have one of every dataset and seed."""
    return {
        str(dataset): dict(zip(found["seed"], found["normalized_return"], strict=True))
        for dataset, found in rows.groupby("dataset")
    }


@cache
def _study(name: str) -> pd.DataFrame:
    return study_frame(study_results(SHIPPED, name))


def _stage(environment: str, kind: str, steps: int, quantity: str = "normalized_return") -> Side:
    """The study `misalignment`'s policies of one kind of states after some gradient steps."""
    rows = _study("misalignment").query(
        f"environment == {environment!r} and kind == 'medium-{kind}' and steps == {steps}"
    )
    return {"": dict(zip(rows["policy"], rows[quantity], strict=True))}


def _student(environment: str, grid: str, student: str = "home") -> Side:
    """The study `transfer`'s sets under their own student, or the worst other one of the words."""
    rows = _study("transfer").query(f"environment == {environment!r} and grid == {grid!r}")
    rows = rows.query(student if student == "home" else f"({student}) and not home")
    students = [found for _, found in rows.groupby(["depth", "width", "learning_rate", "steps"])]
    worst = min(students, key=lambda found: float(found["return"].mean()))
    return {"": dict(enumerate(worst.sort_values("item")["return"]))}


def _task(method: str, task: str, trained_on: str) -> Side:
    """The study `multi_task`'s students on a task, trained on its own set or the merged ones."""
    rows = _study("multi_task").query(
        f"method == {method!r} and task == '{task}/medium-expert' and trained_on == {trained_on!r}"
    )
    return {"": dict(enumerate(rows.sort_values("item")["return"]))}


@cache
def claims() -> tuple[Claim, ...]:
    """Every row of the pages that compares, in their order."""
    return (*_obd(), *_sdw(), *_hades(), *_all_methods())


def _obd() -> list[Claim]:
    def main(one: str, other: str, *datasets: str) -> tuple[Side, Side]:
        return _cells("main_table", one, *datasets), _cells("main_table", other, *datasets)

    def other_students(*students: str) -> tuple[tuple[Side, Side], ...]:
        own = _cells("cross_architecture", "av_pbc")
        labels = [f"av_pbc (evaluation_student{student})" for student in students]
        return tuple((own, _cells("cross_architecture", label)) for label in labels)

    def ensemble(method: str) -> tuple[Side, Side]:
        return (
            _cells("ensembles", method),
            _cells("main_table", method, "hopper/medium-expert"),
        )

    def size(pairs: int) -> Side:
        return _cells("sizes", f"av_pbc (synthetic_size={pairs})")

    def two(method: str) -> Side:
        return _cells("step_or_weighting", method)

    poor = ("halfcheetah/medium-replay", "hopper/medium-replay", "walker2d/medium-replay")
    adam = ".learning_rate=0.003, evaluation_student.optimizer=adam"
    return [
        Claim("Av-PBC above PBC", "obd-table-1", (main("av_pbc", "pbc"),)),
        Claim("PBC above DBC", "obd-table-1", (main("pbc", "dbc"),)),
        Claim("DBC above random pairs", "obd-table-1", (main("dbc", "random"),)),
        Claim(
            "BC on the whole data above Av-PBC", "obd-table-1", (main("bc_whole", "av_pbc"),)
        ),
        Claim(
            "A set teaches more than the whole of a poor dataset", "obd-table-1",
            tuple(main("av_pbc", "bc_whole", dataset) for dataset in poor),
        ),
        Claim(
            "Sets serve students of two, three layers", "obd-table-2",
            other_students(".depth=2", ".depth=3", "=residual"), "equal",
        ),
        Claim(
            "The same for Adam, AdamW, momentum", "obd-table-2",
            other_students(adam, f"{adam}w", ".momentum=0.9"), "equal",
        ),
        Claim(
            "Lower scores for five and six layers", "obd-table-2",
            other_students(".depth=5", ".depth=6"),
        ),
        Claim(
            "Ensembles of ten students score higher than single students", "obd-table-3",
            (ensemble("dbc"), ensemble("pbc")),
        ),
        Claim("None such for Av-PBC", "obd-table-3", (ensemble("av_pbc")[::-1],), "equal"),
        Claim("Score rises with the number of pairs", "obd-table-5", ((size(64), size(16)),)),
        Claim("256 above 64", "obd-table-5", ((size(256), size(64)),)),
        Claim(
            "(Av-PBC's step without its weighting, and its weighting at that step",
            "step-or-weighting",
            ((two("pbc_scaled"), two("pbc")), (two("av_pbc"), two("pbc_scaled"))), "nothing",
        ),
    ]  # fmt: skip


def _sdw() -> list[Claim]:
    def against(environment: str, *kinds: str, sign: int = 1) -> tuple[tuple[Side, Side], ...]:
        names = ("sdw_obd", "av_pbc")[::sign]
        datasets = [f"{environment}/{kind}" for kind in kinds]
        return tuple(
            (_cells("sdw_main", names[0], x), _cells("sdw_main", names[1], x)) for x in datasets
        )

    low = ("medium", "medium-expert")
    replay = tuple(
        pair
        for environment in ("halfcheetah", "hopper", "walker2d")
        for pair in against(environment, "medium-replay", sign=-1)
    )
    none = _cells("tau", "sdw_obd (tau=0.0)")
    return [
        Claim(
            "SDW-OBD above Av-PBC", "sdw-main",
            ((_cells("sdw_main", "sdw_obd"), _cells("sdw_main", "av_pbc")),), "untested",
        ),
        Claim(
            "The gain is on data of low diversity", "sdw-main", against("halfcheetah", *low),
            "untested",
        ),
        Claim("The same on Hopper", "sdw-main", against("hopper", *low), "untested"),
        Claim("The same on Walker2d", "sdw-main", against("walker2d", *low), "untested"),
        Claim("(diverse data, medium-replay", "sdw-main", replay, "nothing"),
        Claim(
            "Diverse states (medium-replay) are better", "sdw-misalignment",
            (
                (_stage("hopper", "replay", 128), _stage("hopper", "expert", 128)),
                (_stage("walker2d", "replay", 128), _stage("walker2d", "expert", 256)),
                (_stage("halfcheetah", "replay", 128), _stage("halfcheetah", "expert", 128)),
            ),
        ),
        Claim(
            "States of quality are better at the smallest loss", "sdw-misalignment",
            tuple(
                (_stage(x, "expert", 8192), _stage(x, "replay", 8192))
                for x in ("halfcheetah", "hopper", "walker2d")
            ),
        ),
        Claim(
            "Diverse states leave a larger pivotal error", "sdw-misalignment",
            tuple(
                (
                    _stage(x, "replay", 8192, "pivotal_error"),
                    _stage(x, "expert", 8192, "pivotal_error"),
                )
                for x in ("halfcheetah", "hopper", "walker2d")
            ),
            decimals=3,
        ),
        Claim(
            "States of quality leave a larger surrounding error", "sdw-misalignment",
            tuple(
                (
                    _stage(x, "expert", steps, "surrounding_error"),
                    _stage(x, "replay", steps, "surrounding_error"),
                )
                for x, steps in (("halfcheetah", 64), ("hopper", 32))
            ),
            decimals=3,
        ),
        Claim(
            "Weights raise the score", "sdw-tau",
            tuple((_cells("tau", f"sdw_obd (tau={x})"), none) for x in (0.1, 0.25, 0.5, 1.0)),
            "untested",
        ),
    ]  # fmt: skip


def _hades() -> list[Claim]:
    def size(pairs: int) -> Side:
        return _cells("hades_hopper", f"hades (synthetic_size={pairs})")

    def students(limit: str, grid: str = "architecture") -> tuple[tuple[Side, Side], ...]:
        return tuple(
            (_student(x, grid), _student(x, grid, limit)) for x in ("CartPole-v1", "Hopper-v5")
        )

    def merged(task: str, *methods: str) -> tuple[tuple[Side, Side], ...]:
        return tuple((_task(m, task, "own"), _task(m, task, "merged")) for m in methods)

    weights = _cells("hades_hopper", "evolution_strategies")
    return [
        Claim(
            "(evolution of the weights next to it)", "hades-cartpole",
            (tuple(_cells("hades_cartpole", x) for x in ("evolution_strategies", "hades")),),
            "nothing",
        ),
        Claim(
            "Four pairs are enough", "hades-hopper",
            ((size(16), size(4)), (size(64), size(4))), "untested",
        ),
        Claim("256 pairs do as well as 64", "hades-hopper", ((size(256), size(64)),), "untested"),
        Claim(
            "(evolution of the weights, the same environment steps", "hades-hopper",
            ((weights, size(64)),), "nothing",
        ),
        Claim(
            "Sets carry over to other architectures", "hades-transfer", students("width >= 64"),
            "equal", decimals=0,
        ),
        Claim(
            "(limits: five layers of 16 units", "hades-transfer",
            students("depth == 5 and width == 16"), "nothing", decimals=0,
        ),
        Claim(
            "(limits: a tenth of the rate", "hades-transfer",
            students("learning_rate == 0.01 and steps == 12", "training"), "nothing", decimals=0,
        ),
        Claim(
            "One student of the merged sets does each task", "hades-multi-task",
            merged("hopper", "hades", "av_pbc"), "equal", decimals=0,
        ),
        Claim(
            "The same on HalfCheetah", "hades-multi-task",
            merged("halfcheetah", "av_pbc", "hades"), "equal", decimals=0,
        ),
    ]  # fmt: skip


def _all_methods() -> list[Claim]:
    """Claims on two datasets: all differences on HalfCheetah, then all on Hopper."""

    def pairs(*names: tuple[str, str]) -> tuple[tuple[Side, Side], ...]:
        return tuple(
            (_cells("all_methods", one, dataset), _cells("all_methods", other, dataset))
            for dataset in ("halfcheetah/medium-expert", "hopper/medium-expert")
            for one, other in names
        )

    def above_random(*names: str) -> tuple[tuple[Side, Side], ...]:
        return pairs(*((name, "random") for name in names))

    selections = ("kmeans_pp", "k_centre", "herding", "sdr", "top_q", "top_return")
    matching = ("gradient_matching", "distribution_matching", "trajectory_matching")
    of = "all-methods"
    return [
        Claim("DBC < PBC < Av-PBC", of, pairs(("pbc", "dbc"), ("av_pbc", "pbc"))),
        Claim("Distillation beats random pairs", of, above_random("dbc", "pbc", "av_pbc")),
        Claim("SDW-OBD above Av-PBC", of, pairs(("sdw_obd", "av_pbc")), "untested"),
        Claim("Truncated back-propagation", of, pairs(("av_pbc", "truncated_av_pbc")), "equal"),
        Claim("Progressive sets", of, pairs(("av_pbc", "progressive_av_pbc")), "equal"),
        Claim("DC-style matching", of, above_random(*matching)),
        Claim("Selection above random", of, above_random(*selections)),
        Claim("HaDES", of, above_random("hades"), "untested"),
        Claim("BC on all data far above any set", of, pairs(("bc_whole", "av_pbc"))),
    ]


def _of_study(study: str, method: str, quantity: Callable[[pd.Series], float], by: str) -> Side:
    """A quantity of a method in a study, by dataset (column `by`) and seed."""
    rows = _study(study)
    rows = rows[rows["method"] == method]
    found: dict[str, dict[int, float]] = {}
    for _, row in rows.iterrows():
        found.setdefault(str(row[by]), {})[int(row["seed"])] = quantity(row)
    return found


def fair(method: str, quantity: Callable[[pd.Series], float]) -> Side:
    """A quantity of a method in the study `fairness`, by dataset and seed."""
    return _of_study("fairness", method, quantity, "item")


def _private(method: str, quantity: str) -> Side:
    return _of_study("privacy", method, lambda row: float(row[quantity]), "dataset")


def _constant(like: Side, value: float) -> Side:
    return Fixed({task: dict.fromkeys(scores, value) for task, scores in like.items()})


@cache
def findings() -> tuple[Claim, ...]:
    """Every row of docs/findings.md, which asks what no paper of the field has asked."""
    return (
        *_kernels(),
        *_paper_size(),
        *_standin(),
        *_gradient(),
        *_density_at_paper_size(),
        *_progressive(),
        *_pruning(),
        *_diversity(),
        *_fairness(),
        *_privacy(),
        *_robustness(),
        *_use(),
    )


def _pruning() -> list[Claim]:
    def kept(fraction: float, criterion: str = "random") -> Side:
        return _cells("pruning", f"pruned (criterion={criterion}, fraction={fraction})")

    of, whole = "kept-fractions", kept(1.0)
    return [
        Claim(
            "All of the data above 30, 10, 3, 1 % of it, drawn at random", of,
            tuple((whole, kept(fraction)) for fraction in (0.3, 0.1, 0.03, 0.01)), "equal",
        ),
        Claim(
            "1 % by early loss, late loss, utility above 1 % at random", of,
            tuple((kept(0.01, criterion), kept(0.01))
                  for criterion in ("early_loss", "late_loss", "utility")),
        ),
    ]  # fmt: skip


def _at(sweep: str, method: str, step: int) -> Side:
    """Scores of a method of a shipped sweep at an outer step."""
    curves = _curves(sweep)
    return _by_seed(curves[(curves["label"] == method) & (curves["outer_step"] == step)])


def _standin() -> list[Claim]:
    def rows(exhibit: str, sweep: str, published: float, of: str) -> list[Claim]:
        start, early, late = (_at(sweep, "av_pbc_published", x) for x in (0, 250, 1000))
        return [
            Claim(
                f"{of} after 1,000 outer steps above the paper's {published} after 20,000",
                exhibit, ((late, _constant(late, published)),), "untested",
            ),
            Claim(f"{of} after 1,000 above after 250", exhibit, ((late, early),)),
            Claim(
                f"{of} after 250 above its start, random pairs", exhibit, ((early, start),)
            ),
        ]  # fmt: skip

    return [
        *rows("standin-hopper", "standin_hopper_medium", 32.5, "On medium: Av-PBC"),
        *rows(
            "standin-hopper-expert", "standin_hopper_medium_expert", 38.7,
            "On medium-expert: Av-PBC",
        ),
        *rows(
            "standin-hopper-replay", "standin_hopper_medium_replay", 40.9,
            "On medium-replay: Av-PBC",
        ),
    ]  # fmt: skip


def _gradient() -> list[Claim]:
    def cell(method: str) -> Side:
        return _cells("standin_hopper_medium_methods", method)

    of, published = "standin-methods", _at("standin_hopper_medium", "av_pbc_published", 250)
    return [
        Claim("Exact meta-gradient above the published one", of, ((cell("av_pbc"), published),)),
        Claim(
            "Weighting above none, at the same step", of, ((cell("av_pbc"), cell("pbc_scaled")),)
        ),
        Claim("Av-PBC's step above PBC's", of, ((cell("pbc_scaled"), cell("pbc")),)),
    ]


def _density_at_paper_size() -> list[Claim]:
    def less(kind: str) -> tuple[Side, Side]:
        sweep = f"standin_hopper_{kind.replace('-', '_')}"
        of = f"standin/hopper-{kind}-v2"
        return _cells("standin_hopper_sdw", "sdw_obd", of), _at(sweep, "av_pbc_published", 250)

    kinds = ("medium", "medium-replay", "medium-expert")
    row = f"At the paper's size: SDW-OBD above Av-PBC on {', '.join(kinds)}"
    longer = _at("standin_hopper_medium_sdw", "sdw_obd", 1000)
    published = _at("standin_hopper_medium", "av_pbc_published", 1000)
    return [
        Claim(row, "standin-sdw", tuple(less(kind) for kind in kinds)),
        Claim(
            "On medium after 1,000 outer steps: SDW-OBD above Av-PBC",
            "standin-sdw-medium",
            ((longer, published),),
        ),
    ]


def _paper_size() -> list[Claim]:
    def less(one: str, *others: str) -> tuple[tuple[Side, Side], ...]:
        cells = {name: _cells("kernel_paper_size", name) for name in (one, *others)}
        return tuple((cells[one], cells[other]) for other in others)

    of, sweep = "kernel-paper-size-table", "kernel_paper_size"
    start, end = (_at(sweep, "av_pbc", step) for step in (0, 112))
    return [
        Claim("At paper size: unrolling above FRePo's kernel", of, less("av_pbc", "frepo")),
        Claim(
            "... above implicit gradients, cold and warm", of,
            less("av_pbc", "implicit_gradient", "implicit_gradient_warm"),
        ),
        Claim(
            "... truncation, and a kernel's start, above unrolling", of,
            (*less("truncated_av_pbc", "av_pbc"), *less("kernel_then_unrolled", "av_pbc")),
        ),
        Claim(
            "... unrolling after 112 outer steps above its start, random pairs", of, ((end, start),)
        ),
    ]  # fmt: skip


def _progressive() -> list[Claim]:
    def cell(method: str, *others: str, rate: float = 0.01, momentum: float = 0.9) -> Side:
        student = (f"student.learning_rate={rate}", f"student.momentum={momentum}")
        return _cells("progressive", f"{method} ({', '.join((*student, *others))})")

    of, stages, plain = "progressive-sets", "progressive_av_pbc", {"rate": 0.1, "momentum": 0.0}
    carried, restarted = (cell(stages, f"velocity={v}") for v in ("carried", "restarted"))
    return [
        Claim(
            "Progressive sets above one set: plain SGD, momentum carried, momentum restarted", of,
            (
                (cell(stages, "velocity=carried", **plain), cell("av_pbc", **plain)),
                (carried, cell("av_pbc")), (restarted, cell("av_pbc")),
            ),
        ),
        Claim("Velocity carried over above restarted", of, ((carried, restarted),)),
        Claim("One set with momentum above plain SGD", of,
              ((cell("av_pbc"), cell("av_pbc", **plain)),)),
    ]  # fmt: skip


def _diversity() -> list[Claim]:
    """SDW-OBD's gain over Av-PBC on data of little diversity, next to that on diverse data."""

    def gain(environment: str, *kinds: str) -> dict[int, float]:
        """Mean over the datasets, by seed."""
        names = [f"{environment}/{kind}" for kind in kinds]
        ours, plain = (_cells("sdw_main", name, *names) for name in ("sdw_obd", "av_pbc"))
        return {
            seed: float(np.mean([ours[name][seed] - plain[name][seed] for name in names]))
            for seed in ours[names[0]]
        }

    environments = ("halfcheetah", "hopper", "walker2d")
    little = {name: gain(name, "medium", "medium-expert") for name in environments}
    diverse = {name: gain(name, "medium-replay") for name in environments}
    ours, plain = (_cells("sdw_main", method) for method in ("sdw_obd", "av_pbc"))
    row = "SDW-OBD's gain on medium and medium-expert above that on medium-replay"
    return [
        Claim("SDW-OBD above Av-PBC over the nine datasets", "sdw-main", ((ours, plain),)),
        Claim(row, "sdw-main", ((little, diverse),)),
    ]


def _robustness() -> list[Claim]:
    def score(method: str, kind: str, size: float) -> Side:
        rows = _study("robustness")
        of_kind = (rows["method"] == method) & (rows["kind"] == kind) & (rows["size"] == size)
        return _by_seed(rows[of_kind])

    of, methods = "axes-robustness", ("av_pbc", "sdw_obd", "teacher")
    lost = [
        ("An attack of 0.15 costs", "attack", 0.15),
        ("Noise of 0.15 on observations costs", "observation noise", 0.15),
        ("Noise of 0.3 on actions costs", "action noise", 0.3),
    ]
    return [
        Claim(
            f"{row}: Av-PBC, SDW-OBD, the teacher", of,
            tuple((score(m, "none", 0.0), score(m, kind, size)) for m in methods),
        )
        for row, kind, size in lost
    ]  # fmt: skip


def _use() -> list[Claim]:
    rows = _study("use")

    def area(start: str, first: int = 0) -> Side:
        """Mean return over the steps from a stage on, by dataset and seed."""
        found: dict[str, dict[int, float]] = {}
        for (dataset, seed), curve in rows[rows["start"] == start].groupby(["dataset", "seed"]):
            curve = curve[curve["steps"] >= first].sort_values("steps")
            steps = curve["steps"].to_numpy()
            mean = np.trapezoid(curve["normalized_return"], steps) / (steps[-1] - steps[0])
            found.setdefault(str(dataset), {})[int(seed)] = float(mean)
        return found

    def at(start: str, step: int) -> Side:
        return _by_seed(rows[(rows["start"] == start) & (rows["steps"] == step)])

    of, starts, last = "axes-use", ("av_pbc", "sdw_obd", "random"), int(rows["steps"].max())
    return [
        Claim(
            "A warm start above none after 32 steps: Av-PBC, SDW-OBD, random pairs", of,
            tuple((at(start, 32), at("scratch", 32)) for start in starts),
        ),
        Claim(
            "... over all steps", of, tuple((area(start), area("scratch")) for start in starts)
        ),
        Claim(
            "... at the end", of, tuple((at(start, last), at("scratch", last)) for start in starts)
        ),
    ]  # fmt: skip


def _fairness() -> list[Claim]:
    def pair(one: str, other: str, of: Callable[[pd.Series], float]) -> tuple[tuple[Side, Side]]:
        return ((fair(one, of), fair(other, of)),)

    def claim(row: str, one: str, other: str, of: Callable[[pd.Series], float]) -> Claim:
        return Claim(row, "axes-fairness", pair(one, other, of), decimals=3)

    return [
        claim("Av-PBC errs more than SDW-OBD in the rarest tenth", "av_pbc", "sdw_obd",
              lambda row: float(row["by_density"][0])),
        claim("... in the worst of twenty cells", "av_pbc", "sdw_obd",
              lambda row: float(max(row["by_cell"]))),
        claim("SDW-OBD errs more than Av-PBC in the densest tenth", "sdw_obd", "av_pbc",
              lambda row: float(row["by_density"][-1])),
        claim("... over all states", "sdw_obd", "av_pbc", lambda row: float(row["error"])),
        claim("... in the worst tenth of states", "sdw_obd", "av_pbc",
              lambda row: float(row["tail"])),
    ]  # fmt: skip


def _privacy() -> list[Claim]:
    near = {method: _private(method, "nearer_member") for method in ("av_pbc", "sdw_obd")}
    of = "axes-privacy"
    return [
        Claim(
            "States nearer to a member than half the time: Av-PBC, SDW-OBD", of,
            tuple((side, _constant(side, 0.5)) for side in near.values()), decimals=2,
        ),
        Claim(
            "AUC above the teacher's: random pairs, Av-PBC, SDW-OBD, BC on all members", of,
            tuple((_private(method, "auc"), _private("teacher", "auc"))
                  for method in ("random", "av_pbc", "sdw_obd", "bc_whole")), decimals=4,
        ),
    ]  # fmt: skip


def _kernels() -> tuple[Claim, ...]:
    kernel = "kernel_against_unrolled"

    def less(one: str, *others: str) -> tuple[tuple[Side, Side], ...]:
        return tuple((_cells(kernel, one), _cells(kernel, other)) for other in others)

    of = "kernel-against-unrolled-table"
    return (
        Claim("Unrolling above kernels", of, less("av_pbc", "frepo", "frepo_descent", "rcig")),
        Claim(
            "Unrolling above implicit gradients", of,
            less("av_pbc", "implicit_gradient", "implicit_gradient_warm"),
        ),
        Claim("Truncation above whole unrolling", of, less("truncated_av_pbc", "av_pbc")),
        Claim("A kernel's start above unrolling", of, less("kernel_then_unrolled", "av_pbc")),
    )  # fmt: skip


if __name__ == "__main__":
    for claim in (*claims(), *findings()):
        found = "; ".join(claim.difference_texts)
        print(f"| {claim.row} | {claim.here} | {found} | {claim.verdict} |")
