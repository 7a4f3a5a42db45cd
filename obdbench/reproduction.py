"""What it takes to reproduce one table or figure of a paper: a sweep, and what its runs stand on.

A sweep is chosen by its scale and its data. The small scale is the shipped sweep of the exhibit,
the paper's is the one named `d4rl_` and the same; each has data of its own, the suite's and D4RL's,
which can be exchanged.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal, get_args

from benchmark.config import BadConfiguration, build
from benchmark.datasets.catalog import dataset_card, is_stored
from benchmark.datasets.source import DatasetName, find_source
from benchmark.density.log_densities import IMPORTED, Fit
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.method import METHODS
from benchmark.protocol import protocol_named
from benchmark.spec import NONE
from benchmark.sweep import RECIPES, Sweep, build_sweep
from benchmark.teachers.teacher import TEACHERS, TeacherRecipe
from benchmark.teachers.teacher_files import (
    AUTHORS,
    SHIPPED,
    TeacherName,
    load_teacher,
    missing_import,
    teacher_file,
)
from benchmark.work import Rates
from obdbench.sweeps import shipped_sweeps
from paper_figures.exhibits import EXHIBITS, Exhibit
from results.costs import fitting_seconds, training_seconds

Scale = Literal["small", "paper"]
Data = Literal["own", "d4rl"]
Kind = Literal["dataset", "teacher", "density"]

ON_D4RL = "d4rl_"
"""First part of the names of the sweeps at the paper's scale."""
TEACHERS_OF_DATA: dict[Data, str] = {"own": "td3_bc", "d4rl": "cal_ql_corl"}
"""The suite ships a TD3+BC teacher for each of its own datasets; the papers' is CORL's Cal-QL."""
TEACHER_AT: dict[Scale, dict[str, Any]] = {
    "small": {},
    "paper": {"steps": 1_000_000, "decay_from": 1.0},
}
"""Settings of the teachers that are trained: a million steps at constant rates in the papers."""
AT_ONCE = 9
"""Datasets whose server is asked at a time: those of a table."""
TABLES = ("student", "evaluation_student", "protocol")
TOP_LEVEL = ("seeds", "datasets", *RECIPES)


@dataclass(frozen=True)
class Step:
    """One thing that the sweep's runs stand on.

    Args:
        kind: What it is.
        dataset: Name of the dataset that it is, or belongs to.
        recipe: Name of the teacher or of the density recipe; "" for a dataset.
        done: Whether it is there.
        says: Where it comes from, or what is to be done for it.
        problem: Why it cannot be had, and what to do; "" where it can.
        fetched: Bytes to fetch; None where there are none, or the server does not say.
    """

    kind: Kind
    dataset: str
    recipe: str = ""
    done: bool = False
    says: str = ""
    problem: str = ""
    fetched: int | None = None


@dataclass(frozen=True)
class Reproduction:
    """An exhibit with the sweep that it is to be made from.

    Args:
        exhibit: The table or figure, on the records of `sweep`.
        sweep: The runs.
        teacher_settings: Settings of the recipes of teachers that must be trained.
        asked: Teacher settings that the user gave; the others are those of the scale.
    """

    exhibit: Exhibit
    sweep: Sweep
    teacher_settings: Mapping[str, Any]
    asked: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def steps(self) -> list[Step]:
        """What the runs stand on, in the order in which it must be made, as it is now."""
        runs = self.sweep.runs
        wanted = [
            *(Step("dataset", run.dataset) for run in runs),
            *(Step("teacher", run.dataset, run.teacher) for run in runs if run.teacher != NONE),
            *(Step("density", run.dataset, run.density) for run in runs if run.density != NONE),
        ]
        with ThreadPoolExecutor(AT_ONCE) as pool:  # each may have to wait for a server
            return list(pool.map(self.look, dict.fromkeys(wanted)))

    def look(self, step: Step) -> Step:
        """The step as it is now."""
        now = Step(step.kind, step.dataset, step.recipe)
        name = DatasetName.parse(step.dataset)
        try:
            sha256 = dataset_card(name)["sha256"] if is_stored(name) else None
            if step.kind == "teacher":
                return self._teacher(now, sha256)
            return _density(now, name, sha256) if step.kind == "density" else _dataset(now, name)
        except ObdBenchError as error:
            return dataclasses.replace(now, problem=str(error))

    def seconds(self, step: Step, rates: Rates) -> float | None:
        """CPU seconds of a step that is to be done; None where they are not known.

        Fetching and building data is not counted.
        """
        if step.done or step.kind == "dataset":
            return 0.0
        if step.problem:
            return None
        if step.kind == "density":
            recipe = Fit.of(step.recipe)
            return fitting_seconds(recipe.built(), step.dataset, rates)
        return training_seconds(self._teacher_recipe(step), step.dataset, rates)

    def _teacher_recipe(self, step: Step) -> TeacherRecipe:
        name = TeacherName.parse(step.recipe).recipe
        return build(TEACHERS[name], self.teacher_settings, f"the recipe {name}")

    def _teacher(self, step: Step, sha256: str | None) -> Step:
        teacher = TeacherName.parse(step.recipe)
        path = teacher_file(step.dataset, sha256, teacher)
        if teacher.recipe == AUTHORS:
            if path is None:
                raise ObdBenchError(missing_import(step.dataset))
            return dataclasses.replace(step, done=True, says="imported")
        recipe = self._teacher_recipe(step)
        if path is None:
            steps = getattr(recipe, "steps", None)
            says = "to train" + ("" if steps is None else f", {steps:,} steps")
            return dataclasses.replace(step, says=says)
        facts = load_teacher(path).facts.get("parameters", {})
        steps = f", {facts['steps']:,} steps" if "steps" in facts else ""
        if path.parent == SHIPPED:
            for key, wanted in self.asked.items():
                if (found := facts.get(key)) != wanted:
                    raise ObdBenchError(
                        f"The shipped {step.recipe} teacher of {step.dataset} was trained with "
                        f"{key} = {found}, and {wanted} is asked for. Leave --set teacher.{key} "
                        f"out to take it; or train another, which goes before it: `obdbench "
                        f"teacher train {step.dataset} --recipe {teacher.recipe} --seed "
                        f"{teacher.seed} --set {key}={wanted}`."
                    )
            return dataclasses.replace(step, done=True, says=f"shipped{steps}")
        for key, wanted in self.teacher_settings.items():
            if (found := facts.get(key)) != wanted:
                raise ObdBenchError(
                    f"{path} was trained with {key} = {found}, and {wanted} is asked for. Remove "
                    f"it, and it is trained anew; or keep it with --set teacher.{key}={found}."
                )
        return dataclasses.replace(step, done=True, says=f"trained here{steps}")


def _dataset(step: Step, name: DatasetName) -> Step:
    if is_stored(name):
        return dataclasses.replace(step, done=True, says="in the store")
    fetched = find_source(name.name).check(step.dataset)
    return dataclasses.replace(step, says=name.build_command, fetched=fetched)


def _density(step: Step, name: DatasetName, sha256: str | None) -> Step:
    fit = Fit.of(step.recipe)
    if sha256 is not None and fit.path_for(name, sha256).exists():
        return dataclasses.replace(step, done=True, says="in the store")
    if step.recipe == IMPORTED:
        raise ObdBenchError(
            f"No log densities were imported for {step.dataset}. Import a file with `obdbench "
            f"density import FILE.npy --dataset {step.dataset}`."
        )
    return dataclasses.replace(step, says="to fit")


def reproducible() -> dict[str, Exhibit]:
    """The exhibits that stand on a sweep, by name."""
    return {exhibit.name: exhibit for exhibit in EXHIBITS if exhibit.sweep}


def reproduction(
    name: str, scale: str = "small", data: str = "own", settings: Mapping[str, Any] | None = None
) -> Reproduction:
    """Find the sweep of an exhibit at a scale, on some data.

    Args:
        name: Table or figure.
        scale: "small" or "paper".
        data: "own" or "d4rl".
        settings: Changes to the sweep: seeds, datasets, teacher, density, `student.KEY`,
            `evaluation_student.KEY`, `protocol.KEY`, a hyper-parameter (for every method that has
            it), or `teacher.KEY` (of teachers that are trained).

    Raises:
        ObdBenchError: There is no such exhibit, or none at that scale or on those data.
        BadConfiguration: A setting changes nothing, or does not fit.
    """
    known, settings = reproducible(), dict(settings or {})
    for option, value, allowed in (("scale", scale, Scale), ("data", data, Data)):
        if value not in get_args(allowed):
            raise BadConfiguration(
                f"--{option} is {value!r}. {did_you_mean(value, get_args(allowed))}"
            )
    if name not in known:
        raise ObdBenchError(
            f"No table or figure that stands on a sweep is called {name!r}. "
            f"{did_you_mean(name, known)}"
        )
    exhibit, shipped = known[name], shipped_sweeps()
    found = exhibit.sweep if scale == "small" else ON_D4RL + exhibit.sweep
    if found not in shipped:
        at_scale = [e for e in known if ON_D4RL + known[e].sweep in shipped]
        raise ObdBenchError(
            f"{name} has no sweep at the paper's scale; expected one of {', '.join(at_scale)}. "
            f"Use --scale small."
        )
    values = tomllib.loads(shipped[found].read_text("utf-8-sig"))
    if data != ("own" if scale == "small" else "d4rl"):
        _exchange_data(values, "d4rl" if data == "d4rl" else "own", name)
    of_teacher = {k.removeprefix("teacher."): v for k, v in settings.items() if _of_teacher(k)}
    of_sweep = {k: v for k, v in settings.items() if not _of_teacher(k)}
    where = f"{found}.toml with --scale {scale} --data {data}"
    if of_sweep:
        _change(values, of_sweep, where)
    sweep = build_sweep(values, where)
    if of_teacher and {run.teacher for run in sweep.runs} <= {NONE, AUTHORS}:
        raise BadConfiguration(
            f"--set teacher.{next(iter(of_teacher))}: no run of {where} has a teacher that is "
            f"trained here. Leave it out."
        )
    teachers = {**TEACHER_AT["paper" if scale == "paper" else "small"], **of_teacher}
    return Reproduction(dataclasses.replace(exhibit, sweep=sweep.name), sweep, teachers, of_teacher)


def _of_teacher(key: str) -> bool:
    return key.startswith("teacher.")


def _exchange_data(values: dict[str, Any], data: Data, exhibit: str) -> None:
    """Put D4RL's datasets in place of the suite's own, or the reverse; the teacher follows."""
    lists = [values, *(method for method in values["methods"] if "datasets" in method)]
    for table in lists:
        table["datasets"] = [_counterpart(name, data, exhibit) for name in table["datasets"]]
    values["teacher"] = TEACHERS_OF_DATA[data]
    values["name"] = f"{values['name']}_{'on' if data == 'd4rl' else 'with'}_{data}_data"
    values["description"] = f"{values.get('description', '')} (here on {data} data)"


def _counterpart(name: str, data: Data, exhibit: str) -> str:
    """The dataset, or pattern, of the same task and quality: `d4rl/hopper-medium-v2`."""
    if data == "own":
        return re.sub(r"^d4rl/([^-]+)-(.+?)(-v2)?$", r"\1/\2", name)
    there = f"d4rl/{name.replace('/', '-')}-v2"
    try:
        find_source(there)
    except ObdBenchError as error:
        raise ObdBenchError(
            f"{exhibit} stands on {name}, of which D4RL has no counterpart. Use --data own."
        ) from error
    return there


def _change(values: dict[str, Any], settings: Mapping[str, Any], where: str) -> None:
    """Change a sweep's parsed TOML; its name gets a digest of the changes."""
    methods: list[dict[str, Any]] = values["methods"]
    grids = [values.get("grid", {}), *(method.get("grid", {}) for method in methods)]
    for key, value in settings.items():
        table, dot, field = key.partition(".")
        if dot and table in TABLES:
            values[table] = {**_table(values.get(table, {})), field: value}
        elif key in TOP_LEVEL:
            values[key] = value
            for method in methods if key == "seeds" else ():
                method.pop("seeds", None)
        else:
            fields = {m["name"]: _fields(m["name"]) for m in methods}
            having = [method for method in methods if key in fields[method["name"]]]
            if not having:
                known = {*TOP_LEVEL, *(f for names in fields.values() for f in names)}
                raise BadConfiguration(
                    f"--set {key}: nothing of {where} has such a setting. "
                    f"{did_you_mean(key, known)} Settings of students, of the protocol and of "
                    f"teachers are student.KEY, evaluation_student.KEY, protocol.KEY, teacher.KEY."
                )
            for method in having:
                method[key] = value
        for grid in grids:  # a fixed value goes before an axis, which TOML may have nested
            grid.pop(key, None)
            grid.get(table, {}).pop(field, None)
    if any(key.startswith("protocol.") for key in settings.keys() - {"protocol.name"}):
        values["protocol"]["name"] += " (varied)"
    if "datasets" in settings:
        values["methods"] = _methods_on(methods, values["datasets"])
        for key in RECIPES.keys() - settings.keys():
            if isinstance(recipes := values.get(key), dict):  # those of datasets left out go too
                kept = ("default", *values["datasets"])
                values[key] = {name: recipe for name, recipe in recipes.items() if name in kept}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    values["name"] = f"{values['name']}.{digest[:8]}"
    listed = ", ".join(f"{key} = {value}" for key, value in settings.items())
    values["description"] = f"{values.get('description', '')} (with {listed})"


def _table(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """A table of the sweep, a protocol's name written out."""
    return dataclasses.asdict(protocol_named(value)) if isinstance(value, str) else dict(value)


def _fields(method: str) -> set[str]:
    return {field.name for field in dataclasses.fields(METHODS[method])}


def _methods_on(methods: Sequence[dict[str, Any]], datasets: Any) -> list[dict[str, Any]]:
    """The entries that are for some of these datasets, patterns that match none left out."""
    entries = []
    for method in methods:
        if "datasets" in method and isinstance(datasets, list):
            patterns = [p for p in method["datasets"] if any(fnmatch(d, p) for d in datasets)]
            if not patterns:
                continue
            method = {**method, "datasets": patterns}
        entries.append(method)
    return entries
