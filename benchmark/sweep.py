"""Sweeps: a grid of cells and seeds from one TOML file.

```toml
name = "sizes"
datasets = ["hopper/medium-expert"]
seeds = 5                      # or a list
protocol = "quick"             # or a table
teacher = "td3_bc"             # or per dataset, as density:
                               # { default = "td3_bc", "hopper/medium-replay" = "cal_ql" }
density = "maf"

[student]
width = 64                     # or recipe = "hades", and what differs from it

[grid]                         # every combination of these
synthetic_size = [16, 64]      # a hyper-parameter, for the methods that have it
"student.depth" = [2, 4]

[[methods]]
name = "av_pbc"
outer_steps = 1000
seeds = 10                               # only for this method
datasets = ["hopper/*"]                  # likewise: those of the sweep's that match a pattern
grid.outer_learning_rate = [0.1, 0.3]    # likewise
```
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import filter as matching
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from benchmark.config import BadConfiguration, build
from benchmark.datasets.source import DatasetName
from benchmark.errors import did_you_mean
from benchmark.files import UnfitFile, read_small
from benchmark.names import check_name
from benchmark.protocol import Protocol, protocol_named
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec, build_student

MOST_RUNS = 1_000_000
RECIPES = {"teacher": RunSpec.teacher, "density": RunSpec.density}
"""Keys that name a recipe, with their defaults; each may be an axis of a grid too."""
OF_ENTRY = ("name", "datasets", "grid", "seeds")
"""Keys of a [[methods]] entry that are not hyper-parameters."""
TAKEN = (*OF_ENTRY, *RECIPES)
"""Names that no hyper-parameter may have: an entry or a grid would set something else by them."""


@dataclass(frozen=True)
class _SweepFile:
    """The tables of a sweep's file, by their types."""

    name: str
    datasets: Annotated[list[str], Meta(min_length=1)]
    methods: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    description: str = ""
    seeds: Any = 1
    protocol: str | dict[str, Any] = "obd"
    teacher: str | dict[str, str] = RECIPES["teacher"]
    density: str | dict[str, str] = RECIPES["density"]
    student: dict[str, Any] = field(default_factory=dict)
    evaluation_student: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A named list of runs, in the order that they are worked through: seed by seed."""

    name: str
    description: str
    runs: tuple[RunSpec, ...]

    def __post_init__(self) -> None:
        check_name("The name of a sweep", self.name)

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
        values = tomllib.loads(read_small(path).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise BadConfiguration(
            f"The sweep file {path} does not exist. Give the path of a TOML file, or the name of a "
            f"shipped sweep without .toml (obdbench list)."
        ) from error
    except (OSError, UnfitFile) as error:
        raise BadConfiguration(f"The sweep file {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # of TOML, UTF-8, or integers of 4,300 digits
        raise BadConfiguration(f"{path} is not TOML: {error}.") from error
    return build_sweep(values, str(path))


def build_sweep(values: Mapping[str, Any], where: str) -> Sweep:
    """A sweep from its parsed TOML.

    Args:
        values: The tables of the file.
        where: Name of the file, for messages.

    Raises:
        BadConfiguration: A key is unknown (with the nearest valid ones), or a value does not fit.
        BadName: The sweep's name cannot be the name of a file.
    """
    file = build(_SweepFile, values, where)
    for method in file.methods:
        if not isinstance(method.get("name"), str):
            raise BadConfiguration(f"Every [[methods]] of {where} needs a name; got {method!r}.")
    check_name(f"The name in {where}", file.name)
    _check_once([str(DatasetName.parse(name)) for name in file.datasets], f"datasets of {where}")
    shared = _seeds(file.seeds, f"seeds in {where}")
    rows = [
        _MethodRow(
            method["name"],
            *_grid(file, method, where),
            _seeds(method.get("seeds", shared), f"seeds of {method['name']} in {where}"),
            _datasets(file, method, where),
        )
        for method in file.methods
    ]
    count = sum(len(row.datasets) * row.runs for row in rows)
    if count > MOST_RUNS:
        raise BadConfiguration(
            f"{where} asks for {count:,} runs; expected at most {MOST_RUNS:,}. Take fewer seeds or "
            f"choices in its grids, or divide it into several sweeps."
        )
    cells = [
        (row, cell)
        for dataset in file.datasets
        for row in rows
        if dataset in row.datasets
        for cell in _cells(file, dataset, row, where)
    ]
    _check_varied(file, where)
    _check_apart(cells, where)
    every_seed = dict.fromkeys(seed for row, _ in cells for seed in row.seeds)
    runs = [cell.with_seed(s) for s in every_seed for row, cell in cells if s in row.seeds]
    return Sweep(file.name, file.description, _unique(runs))


@dataclass(frozen=True)
class _MethodRow:
    """One entry of [[methods]]: the values and axes that hold for it, its seeds and datasets."""

    name: str
    fixed: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    datasets: Set[str]

    @property
    def runs(self) -> int:
        """Number of runs on each dataset, at most: a method may not have the axis of a recipe."""
        return math.prod(map(len, self.grid.values())) * len(self.seeds)


def _check_once(choices: Sequence[Any], where: str) -> None:
    """Raise BadConfiguration where a choice stands twice, which would be the same runs twice."""
    counts = Counter(map(repr, choices))  # a choice may be a list, which has no hash
    if twice := [choice for choice, count in counts.items() if count > 1]:
        raise BadConfiguration(f"{twice[0]} stands twice in {where}; expected each once.")


def _check_apart(cells: Sequence[tuple[_MethodRow, RunSpec]], where: str) -> None:
    """Raise BadConfiguration where two entries of [[methods]] ask for the same runs."""
    rows: dict[str, list[_MethodRow]] = {}
    for row, cell in cells:
        others = rows.setdefault(cell.cell_id, [])
        if any(o is not row and not set(o.seeds).isdisjoint(row.seeds) for o in others):
            raise BadConfiguration(
                f"Two entries of [[methods]] of {where} ask for the same runs: those of {row.name} "
                f"with the same settings ({cell.cell_id}). Remove one of them."
            )
        others.append(row)


def _datasets(file: _SweepFile, method: Mapping[str, Any], where: str) -> set[str]:
    """The sweep's datasets that a method's own `datasets` match; all where it has none."""
    patterns = method.get("datasets", file.datasets)
    wanted = f"datasets of {method['name']} in {where}"
    if not (isinstance(patterns, list) and patterns and all(isinstance(p, str) for p in patterns)):
        raise BadConfiguration(
            f"{wanted} is {patterns!r}; expected a list of names or patterns, such as "
            f"{file.datasets[:1]} or ['hopper/*']."
        )
    found: set[str] = set()
    for pattern in patterns:
        if not (matched := matching(file.datasets, pattern)):
            raise BadConfiguration(
                f"{pattern!r} in {wanted} matches none of the sweep's datasets. "
                f"{did_you_mean(pattern, file.datasets)}"
            )
        found.update(matched)
    return found


def _seeds(seeds: Any, where: str) -> Sequence[int]:
    if isinstance(seeds, range):
        return seeds
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds < sys.maxsize:
        return range(seeds)
    if isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds):
        if len(set(seeds)) < len(seeds):
            raise BadConfiguration(f"{where} is {seeds!r}; expected each seed once.")
        return seeds
    raise BadConfiguration(
        f"{where} is {seeds!r}; expected how many (1 or more), or a list of them."
    )


def _grid(
    file: _SweepFile, method: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The values of one method, and its axes: its own grid times the sweep's.

    A value or an axis that a method gives itself goes before the sweep's grid.
    """
    name = method["name"]
    fields = _hyper_parameters(name)
    fixed = {k: v for k, v in method.items() if k not in OF_ENTRY}
    own_grid = _axes(method.get("grid", {}), f"the grid of {name} in {where}")
    shared_grid = _axes(file.grid, f"[grid] of {where}")
    _check_axes(shared_grid, file.methods, f"[grid] of {where}")
    _check_axes(own_grid, [method], f"the grid of {name} in {where}")
    if twice := sorted(fixed.keys() & own_grid.keys()):
        raise BadConfiguration(
            f"{twice[0]!r} of [[methods]] {name} in {where} has a value and an axis in its grid; "
            f"expected one of them."
        )
    shared = {k: v for k, v in shared_grid.items() if "." in k or k in RECIPES or k in fields}
    return fixed, {k: v for k, v in shared.items() if k not in fixed} | own_grid


def _cells(file: _SweepFile, dataset: str, row: _MethodRow, where: str) -> Iterator[RunSpec]:
    """Every cell of one method on one dataset."""
    from benchmark.method import METHODS  # it takes torch along, which a list of runs does not need

    for combination in itertools.product(*row.grid.values()):
        chosen = dict(zip(row.grid, combination, strict=True))
        parameters = {**row.fixed} | {
            k: v for k, v in chosen.items() if "." not in k and k not in RECIPES
        }
        entry = f"[[methods]] {row.name} of {where}"
        method = build(METHODS[row.name], parameters, entry)
        values = _overwritten("student", file.student, chosen)
        student = build_student(values, f"[student] of {where}", method.own_student)
        student = method.student_for(student)
        # Who scores is the student with the differences of [evaluation_student], if any.
        values = _overwritten("evaluation_student", file.evaluation_student, chosen)
        scoring = build_student(values, f"[evaluation_student] of {where}", student)
        yield RunSpec.create(
            method=row.name,
            dataset=dataset,
            parameters=parameters,
            where=entry,
            teacher=_recipe("teacher", file, dataset, chosen, where),
            density=_recipe("density", file, dataset, chosen, where),
            student=student,
            evaluation_student=scoring,
            protocol=_protocol(file.protocol, chosen, where),
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
            _check_once(value, f"{key} in {where}")
            axes[key] = value
        else:
            raise BadConfiguration(f"{key} in {where} is {value!r}; expected a list of choices.")
    return axes


def _check_axes(grid: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], where: str) -> None:
    """Check that every axis varies something: a table's field, a recipe, or a hyper-parameter.

    Raises:
        BadConfiguration: An axis varies nothing, with the nearest names that do.
    """
    known = set().union(*(_hyper_parameters(method["name"]) for method in methods))
    tables = {"student": StudentSpec, "evaluation_student": StudentSpec, "protocol": Protocol}
    for key in grid:
        table, dot, _ = key.partition(".")
        if table in tables if dot else key in known or key in RECIPES:
            continue
        dotted = {f"{t}.{f.name}" for t, cls in tables.items() for f in dataclasses.fields(cls)}
        names = known | RECIPES.keys() | dotted
        raise BadConfiguration(f"Unknown axis {key!r} in {where}. {did_you_mean(key, names)}")


def _check_varied(file: _SweepFile, where: str) -> None:
    """Check that every axis of [grid] holds for a method, which may give its own value instead.

    Raises:
        BadConfiguration: Every method that has it gives it itself.
    """
    for key in _axes(file.grid, f"[grid] of {where}"):
        every = "." in key or key in RECIPES
        takers = [m for m in file.methods if every or key in _hyper_parameters(m["name"])]
        own = [_axes(m.get("grid", {}), f"the grid of {m['name']} in {where}") for m in takers]
        if all(key in m or key in axes for m, axes in zip(takers, own, strict=True)):
            which = "every method" if len(takers) == len(file.methods) else "every method with it"
            raise BadConfiguration(
                f"{key} in [grid] of {where} varies nothing: {which} gives it itself. Remove it "
                f"from [grid], or from the methods that it is to vary."
            )


def _hyper_parameters(method: str) -> set[str]:
    """Names of the hyper-parameters of a registered method."""
    from benchmark.method import METHODS  # it takes torch along, which a list of runs does not need

    return {field.name for field in dataclasses.fields(METHODS[method])}


def _recipe(key: str, file: _SweepFile, dataset: str, chosen: Mapping[str, Any], where: str) -> str:
    """The name of a teacher's or a density's recipe on one dataset."""
    recipe = chosen.get(key, getattr(file, key))
    if isinstance(recipe, dict) and key not in chosen:
        for name in recipe:
            if name not in ("default", *file.datasets):
                raise BadConfiguration(
                    f"{name!r} in [{key}] of {where} is none of the sweep's datasets. "
                    f"{did_you_mean(name, ['default', *file.datasets])}"
                )
        recipe = recipe.get(dataset, recipe.get("default", RECIPES[key]))
    if not isinstance(recipe, str):
        raise BadConfiguration(f"{key} in {where} is {recipe!r}; expected a name.")
    return recipe


def _overwritten(name: str, table: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """One of the sweep's tables, with the grid's choices for it written over."""
    prefix = f"{name}."
    over = {k.removeprefix(prefix): v for k, v in chosen.items() if k.startswith(prefix)}
    return {**table, **over}


def _protocol(protocol: str | Mapping[str, Any], chosen: Mapping[str, Any], where: str) -> Protocol:
    if isinstance(protocol, str):
        protocol = dataclasses.asdict(protocol_named(protocol))
    if any(key.startswith("protocol.") for key in chosen):
        protocol = {**protocol, "name": f"{protocol.get('name', 'custom')} (varied)"}
    values = _overwritten("protocol", protocol, chosen)
    return build(Protocol, values, f"[protocol] of {where}")


def _unique(runs: Sequence[RunSpec]) -> tuple[RunSpec, ...]:
    """Each run once, in the order of first mention."""
    return tuple({run.run_id: run for run in runs}.values())
