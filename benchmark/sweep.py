"""Sweeps: a grid of cells and seeds from one TOML file.

```toml
name = "sizes"
datasets = ["hopper/medium-expert"]
seeds = 5                      # or a list
protocol = "quick"             # or a table
teacher = "td3_bc"
density = "maf"

[student]
width = 64

[grid]                         # every combination of these
synthetic_size = [16, 64]      # a hyper-parameter, for the methods that have it
"student.depth" = [2, 4]

[[methods]]
name = "av_pbc"
outer_steps = 1000
seeds = 10                               # for this method alone
grid.outer_learning_rate = [0.1, 0.3]    # likewise
```
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmark.config import BadConfiguration, build
from benchmark.errors import did_you_mean
from benchmark.evaluation import Protocol, protocol_named
from benchmark.method import METHODS
from benchmark.spec import RunSpec
from benchmark.students.student import StudentSpec

T = TypeVar("T")

KEYS = (
    "name", "description", "datasets", "seeds", "protocol", "teacher", "density",
    "student", "evaluation_student", "grid", "methods",
)  # fmt: skip

RECIPES = {"teacher": RunSpec.teacher, "density": RunSpec.density}
"""Keys that name a recipe, with their defaults; each may be an axis of a grid too."""


@dataclass(frozen=True)
class Sweep:
    """A named list of runs, in the order that they are worked through: seed by seed."""

    name: str
    description: str
    runs: tuple[RunSpec, ...]

    @property
    def cells(self) -> dict[str, list[RunSpec]]:
        """The runs of each cell."""
        cells: dict[str, list[RunSpec]] = {}
        for run in self.runs:
            cells.setdefault(run.cell_id, []).append(run)
        return cells


def read_sweep(path: Path) -> Sweep:
    """The sweep of a TOML file.

    Raises:
        BadConfiguration: The file is missing or not TOML, a key is unknown (with the nearest valid
            ones), or a value does not fit.
    """
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadConfiguration(f"The sweep file {path} does not exist.") from error
    except OSError as error:
        raise BadConfiguration(f"The sweep file {path} cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path} is not TOML: {error}.") from error
    return build_sweep(values, str(path))


def build_sweep(values: Mapping[str, Any], where: str) -> Sweep:
    """A sweep from its parsed TOML; `where` names it in messages."""
    _check(values, where)
    shared = _seeds(values.get("seeds", 1), f"seeds in {where}")
    cells = [
        (cell, _seeds(method.get("seeds", shared), f"seeds of {method['name']} in {where}"))
        for dataset in values["datasets"]
        for method in values["methods"]
        for cell in _cells(values, dataset, method, where)
    ]
    every_seed = dict.fromkeys(seed for _, seeds in cells for seed in seeds)
    runs = [cell.with_seed(seed) for seed in every_seed for cell, seeds in cells if seed in seeds]
    if not re.fullmatch(r"[\w.-]+", values["name"]) or values["name"].startswith("."):
        raise BadConfiguration(
            f"The name in {where} is {values['name']!r}; it names files, so it may hold letters, "
            f"digits, '_', '-' and '.' only."
        )
    return Sweep(values["name"], values.get("description", ""), _unique(runs))


def _check(values: Mapping[str, Any], where: str) -> None:
    """That the keys are known, and that names and methods have the types they need."""
    for key in values:
        if key not in KEYS:
            raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, KEYS)}")
    for key, kind, what in (
        ("name", str, "string"),
        ("datasets", list, "non-empty list"),
        ("methods", list, "non-empty list"),
    ):
        if not isinstance(values.get(key), kind) or not values[key]:
            raise BadConfiguration(f"{where} needs {key!r}, a {what}; got {values.get(key)!r}.")
    if not all(isinstance(dataset, str) for dataset in values["datasets"]):
        raise BadConfiguration(f"datasets in {where} is {values['datasets']!r}; expected names.")
    for method in values["methods"]:
        if not isinstance(method, Mapping) or not isinstance(method.get("name"), str):
            raise BadConfiguration(f"Every [[methods]] of {where} needs a name; got {method!r}.")
    for table in ("student", "evaluation_student"):
        if not isinstance(values.get(table, {}), Mapping):
            raise BadConfiguration(f"[{table}] of {where} must be a table; got {values[table]!r}.")


def _seeds(seeds: Any, where: str) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds):
        return seeds
    raise BadConfiguration(
        f"{where} is {seeds!r}; expected how many (1 or more), or a list of them."
    )


def _cells(
    values: Mapping[str, Any], dataset: str, method: Mapping[str, Any], where: str
) -> Iterator[RunSpec]:
    """Every cell of one method on one dataset: its own grid times the sweep's.

    What a method says of itself, as a value or as an axis, goes before the sweep's grid.
    """
    name = method["name"]
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    fixed = {k: v for k, v in method.items() if k not in ("name", "grid", "seeds")}
    own_grid = _axes(method.get("grid", {}), f"the grid of {name} in {where}")
    shared_grid = _axes(values.get("grid", {}), f"[grid] of {where}")
    _check_axes(shared_grid, values["methods"], f"[grid] of {where}")
    _check_axes(own_grid, [method], f"the grid of {name} in {where}")
    if twice := sorted(fixed.keys() & own_grid.keys()):
        raise BadConfiguration(
            f"{twice[0]!r} of [[methods]] {name} in {where} has a value and an axis in its grid; "
            f"expected one of them."
        )
    shared = {k: v for k, v in shared_grid.items() if "." in k or k in RECIPES or k in fields}
    grid = {k: v for k, v in shared.items() if k not in fixed} | own_grid
    for combination in itertools.product(*grid.values()):
        chosen = dict(zip(grid, combination, strict=True))
        parameters = fixed | {k: v for k, v in chosen.items() if "." not in k and k not in RECIPES}
        yield RunSpec.create(
            method=name,
            dataset=dataset,
            parameters=parameters,
            where=f"[[methods]] {name} of {where}",
            teacher=_recipe("teacher", values, chosen, where),
            density=_recipe("density", values, chosen, where),
            student=_table(StudentSpec, "student", values, chosen, where),
            evaluation_student=_evaluation_student(values, chosen, where),
            protocol=_protocol(values, chosen, where),
        )


def _axes(grid: Any, where: str) -> dict[str, list[Any]]:
    """A grid with dotted keys; TOML reads `student.width = [..]` as a nested table."""
    if not isinstance(grid, Mapping):
        raise BadConfiguration(f"{where} is {grid!r}; expected a table of lists of choices.")
    axes: dict[str, list[Any]] = {}
    for key, value in grid.items():
        if isinstance(value, Mapping):
            axes |= {f"{key}.{inner}": choices for inner, choices in _axes(value, where).items()}
        elif isinstance(value, list) and value:
            axes[key] = value
        else:
            raise BadConfiguration(f"{key} in {where} is {value!r}; expected a list of choices.")
    return axes


def _check_axes(grid: Mapping[str, Any], methods: list[Mapping[str, Any]], where: str) -> None:
    """Every axis must vary something: a dotted table, a recipe, or some method's parameter."""
    known = {f.name for m in methods for f in dataclasses.fields(METHODS[m["name"]])}
    tables = {"student": StudentSpec, "evaluation_student": StudentSpec, "protocol": Protocol}
    for key in grid:
        table, dot, _ = key.partition(".")
        if dot and table in tables:
            continue
        if not dot and (key in known or key in RECIPES):
            continue
        dotted = {f"{t}.{f.name}" for t, cls in tables.items() for f in dataclasses.fields(cls)}
        names = known | RECIPES.keys() | dotted
        raise BadConfiguration(f"Unknown axis {key!r} in {where}. {did_you_mean(key, names)}")


def _recipe(key: str, values: Mapping[str, Any], chosen: Mapping[str, Any], where: str) -> str:
    """The name of a teacher's or a density's recipe."""
    recipe = chosen.get(key, values.get(key, RECIPES[key]))
    if not isinstance(recipe, str):
        raise BadConfiguration(f"{key} in {where} is {recipe!r}; expected a name.")
    return recipe


def _table(
    cls: type[T], name: str, values: Mapping[str, Any], chosen: Mapping[str, Any], where: str
) -> T:
    """One of the sweep's tables, with the grid's choices for it written over."""
    table = values.get(name, {})
    if not isinstance(table, Mapping):
        raise BadConfiguration(f"[{name}] of {where} must be a table, got {table!r}.")
    prefix = f"{name}."
    over = {k.removeprefix(prefix): v for k, v in chosen.items() if k.startswith(prefix)}
    return build(cls, {**table, **over}, f"[{name}] of {where}")


def _evaluation_student(
    values: Mapping[str, Any], chosen: Mapping[str, Any], where: str
) -> StudentSpec | None:
    """The scoring student: [student] with the differences of [evaluation_student]."""
    table = values.get("evaluation_student", {})
    if not table and not any(k.startswith("evaluation_student.") for k in chosen):
        return None
    student = dataclasses.asdict(_table(StudentSpec, "student", values, chosen, where))
    merged = {"evaluation_student": {**student, **table}}
    return _table(StudentSpec, "evaluation_student", merged, chosen, where)


def _protocol(values: Mapping[str, Any], chosen: Mapping[str, Any], where: str) -> Protocol:
    protocol = values.get("protocol", "obd")
    if isinstance(protocol, str):
        protocol = {**dataclasses.asdict(protocol_named(protocol))}
    varied = any(k.startswith("protocol.") for k in chosen)
    if varied and isinstance(protocol, Mapping):
        protocol = {**protocol, "name": f"{protocol.get('name', 'custom')} (varied)"}
    return _table(Protocol, "protocol", {"protocol": protocol}, chosen, where)


def _unique(runs: list[RunSpec]) -> tuple[RunSpec, ...]:
    """Each run once, in the order of first mention."""
    return tuple({run.run_id: run for run in runs}.values())
