"""Every table and figure of the papers by name: which records it needs, and what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from benchmark.errors import ObdBenchError
from benchmark.record import Record, check_set, record_folder
from benchmark.spec import RunSpec
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from paper_figures import over_datasets
from paper_figures.convergence import convergence
from paper_figures.density_map import state_density
from paper_figures.drawn_states import cartpole_pairs, rendered_states
from paper_figures.figure import write_both
from paper_figures.main_table import main_table
from paper_figures.misalignment_curves import misalignment
from paper_figures.multi_task_table import multi_task
from paper_figures.reproduction_table import reproduction_table
from paper_figures.sizes import sizes
from paper_figures.table import Table
from paper_figures.training_cost import training_cost
from paper_figures.transfer_heat_maps import transfer
from results import cell_table, curves_frame, runs_frame
from results.comparison import compare, published_cells
from results.record_store import all_records, load_sweep, started_sweeps, sweep_records
from results.study_results import study_frame, study_results


@dataclass(frozen=True)
class Material:
    """What an exhibit is made from.

    Args:
        records: Of its sweeps.
        asked: The runs of its sweeps.
        measured: Rows of its study.
        played: Who played how many episodes in it, e.g. "10 students x 2 episodes".
        store: Where the records' synthetic sets are.
    """

    records: Sequence[Record]
    asked: Sequence[RunSpec] = ()
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    played: str = ""
    store: Path | None = None

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run."""
        return runs_frame(self.records)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a checkpoint."""
        return curves_frame(self.records)

    def table(self) -> Table:
        """The main table of these records."""
        return main_table(cell_table(runs_frame(self.records, self.asked)))


@dataclass(frozen=True)
class Exhibit:
    """One table or figure.

    Args:
        name: On the command line and of its files.
        shows: What it shows, in a sentence.
        sweeps: Whose records it needs, all of them.
        make: Makes it.
        study: Whose results it needs. With neither sweep nor study: every record of a store.
    """

    name: str
    shows: str
    sweeps: tuple[str, ...]
    make: Callable[[Material], Table | Figure]
    study: str = ""

    @property
    def source(self) -> str:
        """What makes its records, for people: "`main_table`", "the study `transfer`"."""
        if self.study:
            return f"the study `{self.study}`"
        return ", ".join(f"`{sweep}`" for sweep in self.sweeps) or "every record"


EXHIBITS = (
    Exhibit(
        "obd-table-1",
        "OBD's main results: every method on every dataset, and the mean over datasets.",
        ("main_table",),
        Material.table,
    ),
    Exhibit(
        "obd-figure-1",
        "OBD's convergence: normalized return against outer step, a panel a dataset.",
        ("main_table",),
        lambda material: convergence(material.curves),
    ),
    Exhibit(
        "obd-aggregate",
        "The same over all datasets: interquartile mean and mean with stratified intervals.",
        ("main_table",),
        lambda material: over_datasets.aggregate(material.runs),
    ),
    Exhibit(
        "obd-improvement",
        "Probability that a run of one of them beats one of another, over all datasets.",
        ("main_table",),
        lambda material: over_datasets.improvement(material.runs),
    ),
    Exhibit(
        "obd-figure-2",
        "OBD's distilled states, drawn by MuJoCo, and the states that follow.",
        (),
        lambda material: rendered_states(material.measured),
        "rendered_states",
    ),
    Exhibit(
        "obd-table-2",
        "OBD's cross-architecture study: Av-PBC sets scored with other students.",
        ("cross_architecture",),
        Material.table,
    ),
    Exhibit(
        "obd-table-3",
        "OBD's ensembles: sets scored by ensembles of ten students.",
        ("ensembles",),
        Material.table,
    ),
    Exhibit(
        "obd-table-4",
        "OBD's training cost: gradient steps of BC on the whole data and of a student on a set.",
        ("main_table",),
        lambda material: training_cost(material.records),
    ),
    Exhibit(
        "obd-table-5",
        "OBD's synthetic sizes: scores of 16 to 256 pairs.",
        ("sizes",),
        Material.table,
    ),
    Exhibit(
        "obd-table-5-figure",
        "The same as a curve.",
        ("sizes",),
        lambda material: sizes(material.runs),
    ),
    Exhibit(
        "sdw-main",
        "SDW-OBD's main results: Av-PBC with and without density weights on every dataset.",
        ("sdw_main",),
        Material.table,
    ),
    Exhibit(
        "sdw-misalignment",
        "Return, pivotal and surrounding error of policies from states of quality or diversity.",
        (),
        lambda material: misalignment(material.measured, material.played),
        "misalignment",
    ),
    Exhibit(
        "sdw-density",
        "The state density that SDW-OBD weights with, and where synthetic states lie.",
        (),
        lambda material: state_density(material.measured),
        "state_density",
    ),
    Exhibit(
        "sdw-tau",
        "SDW-OBD's exponent: scores from tau = 0 (Av-PBC) to 1.",
        ("tau",),
        Material.table,
    ),
    Exhibit(
        "hades-cartpole",
        "HaDES on CartPole from two pairs, beside evolution of the weights.",
        ("hades_cartpole",),
        Material.table,
    ),
    Exhibit(
        "hades-cartpole-figure",
        "The same against generations.",
        ("hades_cartpole",),
        lambda material: convergence(material.curves),
    ),
    Exhibit(
        "hades-hopper",
        "HaDES on Hopper from 4 to 256 pairs, beside evolution of the weights.",
        ("hades_hopper",),
        Material.table,
    ),
    Exhibit(
        "hades-hopper-figure",
        "The same against generations.",
        ("hades_hopper",),
        lambda material: convergence(material.curves),
    ),
    Exhibit(
        "hades-sizes",
        "HaDES's sets of different sizes on Hopper, as a curve.",
        ("hades_hopper",),
        lambda material: sizes(material.runs),
    ),
    Exhibit(
        "hades-transfer",
        "HaDES's sets under students of other architectures and hyper-parameters, as heat maps.",
        (),
        lambda material: transfer(material.measured, material.played),
        "transfer",
    ),
    Exhibit(
        "hades-multi-task",
        "Students on the merged sets of two tasks, beside students of each alone.",
        (),
        lambda material: multi_task(material.measured, material.played),
        "multi_task",
    ),
    Exhibit(
        "hades-cartpole-pairs",
        "HaDES's two pairs of each seed on CartPole, as carts and poles.",
        ("hades_cartpole",),
        lambda material: cartpole_pairs(_sets(material, "hades")),
    ),
    Exhibit(
        "all-methods",
        "Every method of the suite on two datasets, with what it used and what it cost.",
        ("all_methods",),
        Material.table,
    ),
    Exhibit(
        "all-methods-convergence",
        "Normalized return against outer step for all of them.",
        ("all_methods",),
        lambda material: convergence(material.curves),
    ),
    Exhibit(
        "aggregate",
        "Interquartile mean and mean over datasets with stratified intervals.",
        ("all_methods",),
        lambda material: over_datasets.aggregate(material.runs),
    ),
    Exhibit(
        "profiles",
        "Performance profiles: the fraction of runs above every score.",
        ("all_methods",),
        lambda material: over_datasets.profiles(material.runs),
    ),
    Exhibit(
        "improvement",
        "Probability that a run of one method beats one of another.",
        ("all_methods",),
        lambda material: over_datasets.improvement(material.runs),
    ),
    Exhibit(
        "ranks",
        "How stable the ranking is when the seeds are drawn anew.",
        ("all_methods",),
        lambda material: over_datasets.ranks(material.runs),
    ),
    Exhibit(
        "cost",
        "Score against seconds, with the methods that no cheaper one beats.",
        ("all_methods",),
        lambda material: over_datasets.cost(material.runs),
    ),
    Exhibit(
        "reproduction",
        "Every published number beside the records that come nearest to it, with a verdict.",
        (),
        lambda material: reproduction_table(compare(published_cells(), material.records)),
    ),
)


class NoRecords(ObdBenchError):
    """An exhibit's sweeps have left no record in the store."""


def gather(exhibit: Exhibit, store: Path) -> Material:
    """The records that an exhibit is made from.

    Raises:
        NoRecords: A sweep was not started here, or none of its runs has a record.
        NoStudy: Its study has no result here.
    """
    if exhibit.study:
        results = study_results(store, exhibit.study)
        return Material([], measured=study_frame(results), played=_played(results[0].settings))
    if not exhibit.sweeps:
        return Material(list(all_records(store)))
    records: list[Record] = []
    asked: list[RunSpec] = []
    seen: set[str] = set()
    for name in exhibit.sweeps:
        sweep = load_sweep(store, name) if name in started_sweeps(store) else None
        found = sweep_records(store, sweep) if sweep else []
        if sweep is None or not found:
            raise NoRecords(f"{store} holds no record of the sweep {name}: obdbench sweep {name}")
        records += [record for record in found if record.run_id not in seen]
        seen |= {record.run_id for record in found}
        asked += sweep.runs
    return Material(records, asked, store=store)


def _played(settings: Mapping[str, Any]) -> str:
    """Who played in a study, by its settings; "" where nobody did."""
    who = next((name for name in ("students", "policies") if name in settings), None)
    return f"{settings[who]} {who} x {settings['episodes']} episodes" if who else ""


def _sets(material: Material, method: str) -> dict[str, SyntheticSet]:
    """The last synthetic sets of a method's complete runs, by seed."""
    assert material.store is not None
    found = {}
    for record in material.records:
        if record.spec.method != method or record.status != "complete":
            continue
        last = record.checkpoints[-1]
        if last.synthetic_set:
            title = f"seed {record.spec.seed}, return {record.mean_score.return_:.0f}"
            folder = material.store / record_folder(record.run_id)
            found[title] = load_synthetic_set(check_set(record, last, folder))[0]
    return found


def write(exhibit: Exhibit, store: Path, folder: Path) -> list[Path]:
    """Makes an exhibit and writes it: a table as .md, .csv and .tex, a figure as .pdf and .png.

    The same records give the same bytes.

    Raises:
        NoRecords: There is nothing to make it from.
        FigureError: The records do not suffice.
    """
    made = exhibit.make(gather(exhibit, store))
    if isinstance(made, Figure):
        return list(write_both(made, folder, exhibit.name))
    return made.write(folder, exhibit.name)
