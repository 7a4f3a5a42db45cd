"""Every table and figure of the papers by name: which records it needs, and what it shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmark.artefacts.score import ArtefactScore
from benchmark.datasets.source import STAND_IN
from benchmark.errors import ObdBenchError
from benchmark.record import Summary, check_set, record_folder
from benchmark.spec import RunSpec
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from paper_figures.beyond_return import (
    fairness_figure,
    fairness_table,
    privacy_figure,
    privacy_table,
)
from paper_figures.curves import (
    against_environment_steps,
    against_seconds,
    convergence,
    pruning,
    sizes,
)
from paper_figures.drawn_states import cartpole_pairs, rendered_states
from paper_figures.equal_seconds import equal_seconds
from paper_figures.figure import write_formats
from paper_figures.main_table import main_table
from paper_figures.over_datasets import aggregate, cost, improvement, profiles, ranks
from paper_figures.paired_curves import paired_curves
from paper_figures.reproduction_table import reproduction_table, rescored_table
from paper_figures.robustness import robustness, robustness_table
from paper_figures.step_or_weighting import step_or_weighting
from paper_figures.study_figures import misalignment, multi_task, state_density, transfer
from paper_figures.supervised_images import evolved_sets, image_sets, supervised_table
from paper_figures.table import Table
from paper_figures.training_cost import training_cost
from paper_figures.use import use, use_table
from results import cell_table, curves_frame, runs_frame
from results.author_files import scores_beside
from results.comparison import compare, file_cells, published_cells
from results.labels import cell_settings
from results.record_store import (
    all_records,
    load_sweep,
    started_sweeps,
    sweep_records,
)
from results.stores import store_option
from results.study_results import study_frame, study_results
from results.study_sources import check_sources


@dataclass(frozen=True)
class StoredResults:
    """Results in a store that an exhibit is made from.

    Args:
        records: Records of its sweep, or of the whole store.
        asked: Runs that its sweep asked for.
        measured: Rows of its study.
        played: Who played how many episodes in the study, e.g. "10 students x 2 episodes".
        store: Folder that holds the records' synthetic sets.
        scores: Scores of the authors' artefacts.
    """

    records: Sequence[Summary] = ()
    asked: Sequence[RunSpec] = ()
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    played: str = ""
    store: Path | None = None
    scores: Sequence[ArtefactScore] = ()

    @cached_property
    def every_run(self) -> pd.DataFrame:
        """One row per run, those without a record included."""
        return runs_frame(self.records, self.asked)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per checkpoint."""
        return curves_frame(self.records, self.asked)

    def with_parameters(self, *names: str) -> pd.DataFrame:
        """Add these hyper-parameters to `every_run` as columns; missing where a run has none."""
        of_run = {spec.run_id: cell_settings(spec) for spec in self.asked}
        of_run |= {record.run_id: dict(record.parameters) for record in self.records}
        runs = self.every_run
        columns = {name: [of_run[run].get(name) for run in runs["run_id"]] for name in names}
        return runs.assign(**columns)

    def table(self) -> Table:
        """Draw up the main table of these records."""
        return main_table(cell_table(self.every_run))

    def published(self, paper: str, method: str) -> dict[str, dict[str, float]]:
        """Normalized returns that a paper prints for sets as large, by dataset and description.

        D4RL's stand next to the data that stand in for it, which have its references.
        """
        scales = {
            (record.spec.dataset, record.parameters.get("synthetic_size")): record.normalisation
            for record in self.records
        }
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for cell in published_cells():
            settings = {**cell.settings, **cell.wanted}
            dataset = cell.dataset.replace("d4rl/", STAND_IN)
            scale = scales.get((dataset, settings.get("synthetic_size")))
            of_others = settings.get("protocol.ensemble", 1) > 1 or any(
                name.startswith("evaluation_student.") for name in settings
            )
            if (cell.paper, cell.method) != (paper, method) or of_others or not scale:
                continue
            if cell.unit == "return":
                found[dataset][f"published: {cell.value:,.0f}"] = float(scale.normalise(cell.value))
            else:
                found[dataset][f"published: {cell.value:.1f}"] = cell.value
        return dict(found)

    def sets(self, method: str) -> dict[str, SyntheticSet]:
        """Load the last synthetic sets of a method's complete runs, by seed and return."""
        assert self.store is not None
        found = {}
        for record in self.records:
            if record.spec.method != method or record.status != "complete":
                continue
            last = record.checkpoints[-1]
            if last.synthetic_set:
                title = f"seed {record.spec.seed}, return {record.mean_score.return_:.0f}"
                folder = self.store / record_folder(record.run_id)
                found[title] = load_synthetic_set(check_set(record, last, folder))[0]
        return found


@dataclass(frozen=True)
class Exhibit:
    """One table or figure.

    Args:
        name: Name on the command line and of the files.
        shows: Content, in a sentence.
        make: Function that makes it.
        sweep: Sweep whose records it needs.
        study: Study whose results it needs. With neither: every record of a store.
    """

    name: str
    _: KW_ONLY
    shows: str
    make: Callable[[StoredResults], Table | Figure]
    sweep: str = ""
    study: str = ""

    @property
    def source(self) -> str:
        """What makes its records, in Markdown: "`main_table`", "the study `transfer`"."""
        if self.study:
            return f"the study `{self.study}`"
        return f"`{self.sweep}`" if self.sweep else "every record"


def _next_to_published(stored: StoredResults) -> Figure:
    """Curves of Av-PBC on a stand-in, next to the number of OBD's Table 1."""
    return convergence(stored.curves, published=stored.published("obd", "av_pbc"))


EXHIBITS = (
    Exhibit("scale-pilot", sweep="scale_pilot", make=lambda stored: convergence(stored.curves),
        shows="Where curves flatten: Av-PBC to 5,000 outer steps in each environment."),
    Exhibit("obd-table-1", sweep="main_table", make=StoredResults.table,
        shows="OBD's main results: every method on every dataset, and the mean over datasets."),
    Exhibit("obd-figure-1", sweep="main_table", make=lambda stored: convergence(stored.curves),
        shows="OBD's convergence: normalized return against outer step, one panel per dataset."),
    Exhibit("obd-aggregate", sweep="main_table", make=lambda stored: aggregate(stored.every_run),
        shows="The same over all datasets: interquartile mean and mean with stratified intervals."),
    Exhibit("obd-improvement", sweep="main_table",
        make=lambda stored: improvement(stored.every_run),
        shows="Probability that a run of one of them beats one of another, over all datasets."),
    Exhibit("obd-figure-2", study="rendered_states",
        make=lambda stored: rendered_states(stored.measured),
        shows="OBD's distilled states, drawn by MuJoCo, and the states that follow."),
    Exhibit("obd-table-2", sweep="cross_architecture", make=StoredResults.table,
        shows="OBD's cross-architecture study: Av-PBC sets scored with other students."),
    Exhibit("obd-table-3", sweep="ensembles", make=StoredResults.table,
        shows="OBD's ensembles: sets scored by ensembles of ten students."),
    Exhibit("obd-table-4", sweep="main_table",
        make=lambda stored: training_cost(stored.records, stored.asked),
        shows="OBD's training cost: gradient steps on the whole data and on a set."),
    Exhibit("obd-table-5", sweep="sizes", make=StoredResults.table,
        shows="OBD's synthetic sizes: scores of 16 to 256 pairs."),
    Exhibit("obd-table-5-figure", sweep="sizes", make=lambda stored: sizes(stored.every_run),
        shows="The same as a curve."),
    Exhibit("size-rates", sweep="size_rates", make=StoredResults.table,
        shows="Sizes at the published learning rate, and at one that follows the size."),
    Exhibit("kept-fractions", sweep="pruning",
        make=lambda stored: pruning(stored.with_parameters("fraction", "criterion")),
        shows="How little of the data Av-PBC needs: scores by the share that four criteria keep."),
    Exhibit("step-or-weighting", sweep="step_or_weighting",
        make=lambda stored: step_or_weighting(stored.every_run),
        shows="What of Av-PBC's gain over PBC is a larger step, and what its weighting."),
    Exhibit("progressive-sets", sweep="progressive", make=StoredResults.table,
        shows="Progressive sets and one set of equal total size, by what becomes of velocities."),
    Exhibit("adjoint-precision", sweep="precision",
        make=lambda stored: paired_curves(stored.curves, stored.every_run),
        shows="Av-PBC with its adjoint in bf16 next to float32 throughout, at every checkpoint."),
    Exhibit("adjoint-precision-figure", sweep="precision",
        make=lambda stored: convergence(stored.curves),
        shows="The same as curves."),
    Exhibit("standin-hopper", sweep="standin_hopper_medium", make=StoredResults.table,
        shows="Av-PBC as published, at the paper's size, on states like D4RL's hopper-medium."),
    Exhibit("standin-hopper-figure", sweep="standin_hopper_medium",
        make=_next_to_published,
        shows="The same against outer steps, next to the published number."),
    Exhibit("standin-hopper-expert", sweep="standin_hopper_medium_expert",
        make=StoredResults.table, shows="The same on states like D4RL's hopper-medium-expert."),
    Exhibit("standin-hopper-expert-figure", sweep="standin_hopper_medium_expert",
        make=_next_to_published,
        shows="That against outer steps, next to the published number."),
    Exhibit("standin-hopper-replay", sweep="standin_hopper_medium_replay",
        make=StoredResults.table, shows="The same on states like D4RL's hopper-medium-replay."),
    Exhibit("standin-hopper-replay-figure", sweep="standin_hopper_medium_replay",
        make=_next_to_published,
        shows="That against outer steps, next to the published number."),
    Exhibit("standin-methods", sweep="standin_hopper_medium_methods", make=StoredResults.table,
        shows="Exact gradient, step and weighting at the paper's size, 250 outer steps."),
    Exhibit("standin-sdw", sweep="standin_hopper_sdw", make=StoredResults.table,
        shows="SDW-OBD at the paper's size on the three, 250 outer steps."),
    Exhibit("standin-sdw-medium", sweep="standin_hopper_medium_sdw",
        make=lambda stored: convergence(
            stored.curves, published=stored.published("sdw_obd", "sdw_obd")),
        shows="It to 1,000 on states like D4RL's hopper-medium, next to the published number."),
    Exhibit("sdw-main", sweep="sdw_main", make=StoredResults.table,
        shows="SDW-OBD's main results: Av-PBC with and without density weights on every dataset."),
    Exhibit("sdw-misalignment", study="misalignment",
        make=lambda stored: misalignment(stored.measured, stored.played),
        shows="Return, pivotal and surrounding error of policies of quality or diverse states."),
    Exhibit("sdw-density", study="state_density",
        make=lambda stored: state_density(stored.measured),
        shows="The state density that SDW-OBD weights with, and where synthetic states lie."),
    Exhibit("sdw-tau", sweep="tau", make=StoredResults.table,
        shows="SDW-OBD's exponent: scores from tau = 0 (Av-PBC) to 1."),
    Exhibit("hades-cartpole", sweep="hades_cartpole", make=StoredResults.table,
        shows="HaDES on CartPole from two pairs, next to evolution of the weights."),
    Exhibit("hades-cartpole-figure", sweep="hades_cartpole",
        make=lambda stored: convergence(stored.curves),
        shows="The same against generations."),
    Exhibit("hades-hopper", sweep="hades_hopper", make=StoredResults.table,
        shows="HaDES on Hopper from 4 to 256 pairs, next to evolution of the weights."),
    Exhibit("hades-hopper-figure", sweep="hades_hopper",
        make=lambda stored: convergence(stored.curves),
        shows="The same against generations."),
    Exhibit("ppmo-table", sweep="ppmo", make=StoredResults.table,
        shows="PPMO's set of one gradient step on Hopper, next to HaDES at equal steps played."),
    Exhibit("ppmo-figure", sweep="ppmo",
        make=lambda stored: against_environment_steps(stored.curves, {}),
        shows="The same against environment steps."),
    Exhibit("hades-sizes", sweep="hades_hopper", make=lambda stored: sizes(stored.every_run),
        shows="HaDES's sets of different sizes on Hopper, as a curve."),
    Exhibit("hades-transfer", study="transfer",
        make=lambda stored: transfer(stored.measured, stored.played),
        shows="HaDES's sets under other architectures and hyper-parameters, as heat maps."),
    Exhibit("hades-multi-task", study="multi_task",
        make=lambda stored: multi_task(stored.measured, stored.played),
        shows="Students of the merged sets of two tasks, next to students of each task's own set."),
    Exhibit("hades-cartpole-pairs", sweep="hades_cartpole",
        make=lambda stored: cartpole_pairs(stored.sets("hades")),
        shows="HaDES's two pairs of each seed on CartPole, as carts and poles."),
    Exhibit("hades-brax", sweep="hades_brax", make=StoredResults.table,
        shows="HaDES in Brax: Hopper from four pairs at a small budget of environment steps."),
    Exhibit("hades-brax-figure", sweep="hades_brax",
        make=lambda stored: against_environment_steps(
            stored.curves, stored.published("hades", "hades")),
        shows="The same against environment steps, next to what the paper's sets reach."),
    Exhibit("hades-images", study="supervised_images",
        make=lambda stored: supervised_table(stored.measured),
        shows="HaDES on digits at a small budget, next to class means and to real images."),
    Exhibit("hades-images-figure", study="supervised_images",
        make=lambda stored: image_sets(evolved_sets(stored.measured)),
        shows="The evolved images, and the class means that they began as."),
    Exhibit("all-methods", sweep="all_methods", make=StoredResults.table,
        shows="Twenty-four methods on two datasets, with what they used and what they cost."),
    Exhibit("all-methods-seconds", sweep="all_methods_seconds",
        make=lambda stored: equal_seconds(runs_frame(stored.records, stored.asked)),
        shows="Every method at equal CPU seconds on three datasets, in the order of families."),
    Exhibit("all-methods-convergence", sweep="all_methods",
        make=lambda stored: convergence(stored.curves),
        shows="Normalized return against outer step for all of them."),
    Exhibit("aggregate", sweep="all_methods", make=lambda stored: aggregate(stored.every_run),
        shows="Interquartile mean and mean over datasets with stratified intervals."),
    Exhibit("profiles", sweep="all_methods", make=lambda stored: profiles(stored.every_run),
        shows="Performance profiles: the fraction of runs above every score."),
    Exhibit("improvement", sweep="all_methods", make=lambda stored: improvement(stored.every_run),
        shows="Probability that a run of one method beats one of another."),
    Exhibit("ranks", sweep="all_methods", make=lambda stored: ranks(stored.every_run),
        shows="How stable the ranking is when the seeds are drawn again."),
    Exhibit("cost", sweep="all_methods", make=lambda stored: cost(stored.every_run),
        shows="Score against processor seconds, with the methods that no cheaper one beats."),
    Exhibit("kernel-against-unrolled", sweep="kernel_against_unrolled",
        make=lambda stored: against_seconds(stored.curves),
        shows="Kernels and implicit gradients next to unrolling, against processor seconds."),
    Exhibit("kernel-against-unrolled-table", sweep="kernel_against_unrolled",
        make=StoredResults.table,
        shows="The same at the end, with the seconds that each took."),
    Exhibit("kernel-paper-size", sweep="kernel_paper_size",
        make=lambda stored: against_seconds(stored.curves),
        shows="The same question at the size of OBD's paper, on Hopper."),
    Exhibit("kernel-paper-size-table", sweep="kernel_paper_size",
        make=StoredResults.table,
        shows="The same at the end, with the seconds that each took."),
    Exhibit("axes-privacy", study="privacy", make=lambda stored: privacy_table(stored.measured),
        shows="What policies and sets tell of the episodes that they were made from."),
    Exhibit("axes-privacy-figure", study="privacy",
        make=lambda stored: privacy_figure(stored.measured),
        shows="The same as a figure."),
    Exhibit("axes-fairness", study="fairness", make=lambda stored: fairness_table(stored.measured),
        shows="SDW-OBD next to Av-PBC on rare states, in the worst cell and in the worst tenth."),
    Exhibit("axes-fairness-figure", study="fairness",
        make=lambda stored: fairness_figure(stored.measured),
        shows="Error of every method's policies from the rarest states to the densest."),
    Exhibit("axes-robustness", study="robustness",
        make=lambda stored: robustness_table(stored.measured, stored.played),
        shows="What noise, attacks and changed physics leave of the return of taught policies."),
    Exhibit("axes-robustness-figure", study="robustness",
        make=lambda stored: robustness(stored.measured, stored.played),
        shows="The same as curves."),
    Exhibit("axes-use", study="use", make=lambda stored: use_table(stored.measured, stored.played),
        shows="What a set is worth as a warm start of cloning 1 % of the data."),
    Exhibit("axes-use-figure", study="use", make=lambda stored: use(stored.measured, stored.played),
        shows="The same as curves."),
    Exhibit("reproduction",
        make=lambda stored: reproduction_table(
            compare(published_cells(), stored.records, stored.scores)),
        shows="Every published number next to what the authors' files score, or the nearest "
        "records, with a verdict."),
    Exhibit("authors-files",
        make=lambda stored: rescored_table(compare(file_cells(), (), stored.scores), stored.scores),
        shows="Every score that a file of the authors states, next to what it scores again."),
)  # fmt: skip


class NoRecords(ObdBenchError):
    """The store holds no record of an exhibit's sweep."""


def gather(exhibit: Exhibit, store: Path) -> StoredResults:
    """Read the results that an exhibit is made from.

    Raises:
        NoRecords: Its sweep was not started here, or none of its runs has a record.
        NoStudy: Its study has no result here.
        BadStudyResult: A result is damaged, or of runs that have been done again since.
    """
    if exhibit.study:
        results = study_results(store, exhibit.study)
        check_sources(store, results)
        return StoredResults(measured=study_frame(results), played=_played(results[0].settings))
    if not exhibit.sweep:
        return StoredResults(list(all_records(store)), scores=scores_beside(store))
    name = exhibit.sweep
    sweep = load_sweep(store, name) if name in started_sweeps(store) else None
    records = sweep_records(store, sweep) if sweep else []
    if sweep is None or not records:
        raise NoRecords(
            f"{store} holds no record of the sweep {name}: obdbench sweep {name}"
            f"{store_option(store)}"
        )
    return StoredResults(records, sweep.runs, store=store)


def _played(settings: Mapping[str, Any]) -> str:
    """Say who played in a study, by its settings; "" where no policy played."""
    who = next((name for name in ("students", "policies") if name in settings), None)
    return f"{settings[who]} {who} x {settings['episodes']} episodes" if who else ""


def write(exhibit: Exhibit, store: Path, folder: Path) -> list[Path]:
    """Make an exhibit and write it: a table as .md, .csv, .tex, a figure as .pdf, .png, .svg.

    The same records give the same bytes.

    Raises:
        NoRecords: There is nothing to make it from.
        FigureError: The records do not suffice.
    """
    made = exhibit.make(gather(exhibit, store))
    if isinstance(made, Figure):
        return write_formats(made, folder, exhibit.name)
    return made.write(folder, exhibit.name)
