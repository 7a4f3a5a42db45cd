"""Damage the files of a small store in many ways, and see that no number changes unnoticed.

    python -m tests.fuzz_campaign --seed 0 --count 300

The store holds three runs that are done and one that was interrupted. Each attempt damages one file
of a copy and runs `status`, `table` and one further command in this process, figures left out.
Nothing may end in a traceback or an undocumented exit status, or take a minute, and a table that
differs from that of the undamaged store must say so: by the name of the file on the error stream,
or by a cell that lacks seeds. The exit status is 1 where one of these does not hold.

The kinds "old record" and "old list" have no digest, like files of older versions: what is checked
there is the score of every cell, and for lists only that commands end as documented.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.heartbeat import ALIVE
from benchmark.monitor import STATE
from benchmark.record import FILE
from benchmark.run import Conditions, execute, run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import build_sweep
from results.record_store import save_sweep
from tests.commands import Ended, command

DATASET = "cartpole/mixed@1000"
SWEEP = f"""
name = "fuzz"
datasets = ["{DATASET}"]
seeds = 2
protocol = {{name = "tiny", students = 2, episodes = 2, checkpoint_every = 2, last = 2}}
student = {{width = 8, depth = 2, steps = 4}}
[[methods]]
name = "random"
synthetic_size = 4
[[methods]]
name = "dbc"
synthetic_size = 4
outer_batch = 8
outer_steps = 6
"""
STATUSES = {0, 1, 3}
SCORES = ["label", "value", "low", "high", "n", "n_failed"]
Row = dict[str, Any]
KINDS = ("record", "old record", "list", "old list", "set", "state", "sign", "card", "data")


def wrong(ended: Ended) -> str:
    """What may never be: a traceback, an undocumented status; "" where all is well."""
    if ended.escaped or ended.status in STATUSES:
        return ended.escaped[:300]
    return f"exit status {ended.status}"


@dataclass
class Store:
    """A store with its datasets, in a folder of its own."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def sweep_file(self) -> Path:
        return self.root / "fuzz.toml"

    def copy(self, root: Path) -> Store:
        shutil.copytree(self.root, root)
        return Store(root)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        variables = {
            "OBDBENCH_STORE": self.runs, "OBDBENCH_CACHE": self.root / "cache",
            "MINARI_DATASETS_PATH": self.root / "data",
        }  # fmt: skip
        with mock.patch.dict(os.environ, {name: str(path) for name, path in variables.items()}):
            yield

    def files(self, kind: str) -> list[Path]:
        """Files that an attempt of a kind may damage."""
        pattern = {
            "record": f"runs/*/*/{FILE}", "list": "runs/sweeps/*.json", "set": "runs/*/*/set-*",
            "state": f"runs/*/*/{STATE}", "sign": f"runs/*/*/{ALIVE}",
            "card": "data/**/card.json", "data": "data/**/*[s5]",
        }  # fmt: skip
        return sorted(p for p in self.root.glob(pattern[kind.removeprefix("old ")]) if p.is_file())


class _Interrupt(BaseException):
    pass


def small_store(root: Path) -> tuple[Store, RunSpec]:
    """Make the store that is damaged; its last run was interrupted halfway."""
    store = Store(root)
    root.mkdir(parents=True)
    store.sweep_file.write_text(SWEEP)
    sweep = build_sweep(tomllib.loads(SWEEP), "fuzz.toml")
    *rest, last = sweep.runs

    def interrupt(_: str, step: int, total: int) -> None:
        if step == 4:
            raise _Interrupt

    with store.in_use():
        build_dataset(DatasetName.parse(DATASET))
        save_sweep(store.runs, sweep)
        for run in rest:
            execute([run], Conditions(store.runs))
        with contextlib.suppress(_Interrupt):
            execute([last], Conditions(store.runs, save_every=0.0, on_progress=interrupt))
    assert (run_folder(store.runs, last) / STATE).exists()
    return store, last


class Damage:
    """Ways to damage a file, drawn from one generator."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def bytes(self, content: bytes) -> bytes:
        """Other bytes: flipped, cut, doubled, inserted, or none."""
        draw, changed = self.draw, bytearray(content)
        match draw.randrange(6):
            case 0 | 1:
                for _ in range(draw.randint(1, 3)):
                    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            case 2:
                return content[: draw.randrange(len(content))]
            case 3:
                at = draw.randrange(len(content))
                changed[at:at] = draw.randbytes(draw.randint(1, 9))
            case 4:
                return draw.choice([b"", b"\x00" * len(content), b"[" * 5000, content * 2])
            case 5:
                at = draw.randrange(len(content))
                del changed[at : at + draw.randint(1, 99)]
        return bytes(changed)

    def json(self, values: Any) -> Any:
        """Another value at a random place, of the same or another type; or a key more or less."""
        draw = self.draw
        places = list(_places(values))
        if not places:
            return None
        holder, key = draw.choice(places)
        match draw.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(["x", "sha256", "seed", "name", "__class__"])] = holder[key]
            case _:
                holder[key] = self._other(holder[key])
        return values

    def _other(self, value: Any) -> Any:
        draw = self.draw
        if draw.random() < 0.4:  # a valid one
            match value:
                case bool():
                    return not value
                case int():
                    return value + draw.choice([-1, 1, 10])
                case float():
                    return draw.choice([value + 1, value * 1.01, -value, 0.0])
                case str():
                    return draw.choice([value + "x", value.replace("0", "1"), value[::-1], ""])
                case list():
                    return draw.choice([value[::-1], value[1:], value * 2])
        return draw.choice(
            [None, True, -1, 0, 10**9, 2**63, 10**30, 1e308, 0.5, "", "../../x", "[red]$x$[/]",
             "\ud800", "complete", [], {}, [[]], {"": None}, float("nan"), float("inf")]
        )  # fmt: skip


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key."""
    children = values.items() if isinstance(values, dict) else enumerate(values)
    for key, child in list(children):
        yield values, key
        if isinstance(child, dict | list):
            yield from _places(child)


def damage(path: Path, kind: str, draw: random.Random) -> None:
    """Write a damaged file over a sound one."""
    content, ways = path.read_bytes(), Damage(draw)
    as_json = path.suffix == ".json" and (kind.startswith("old ") or draw.random() < 0.7)
    if as_json:
        values = json.loads(content)
        if kind.startswith("old "):
            values.pop("sha256", None)
        text = json.dumps(ways.json(values), indent=draw.choice([None, 1]))
        path.write_bytes(text.encode(errors="surrogatepass"))
    else:
        path.write_bytes(ways.bytes(content))


def rows(ended: Ended) -> list[Row] | None:
    """The rows that `table --json` printed; None where it printed none."""
    try:
        found: list[Row] = json.loads(ended.out)["rows"]
    except (json.JSONDecodeError, KeyError):
        return None
    return found


@dataclass(frozen=True)
class Reference:
    """What undamaged stores give.

    Args:
        before: Rows of the table while one run is interrupted.
        after: Rows of the table when all runs are done.
        sets: Last set of every run, as CSV.
    """

    before: list[Row]
    after: list[Row]
    sets: list[str]


@dataclass
class Tally:
    """Counts of one kind of file."""

    attempts: int = 0
    named: int = 0
    same: int = 0
    wrong: list[str] = field(default_factory=list)


def check(
    store: Store, kind: str, path: Path, reference: Reference,
    draw: random.Random, last: RunSpec, tally: Tally,
) -> None:  # fmt: skip
    """Run the commands on a damaged store, and note what may not be."""

    def note(ended: Ended, words: str) -> None:
        if fault := wrong(ended):
            tally.wrong.append(f"{kind} ({path.name}): {words}: {fault}")

    def compare(ended: Ended, words: str, expected: list[Row]) -> None:
        note(ended, words)
        found, named = rows(ended), str(path) in ended.err or last.run_id in ended.err
        if kind == "old list":
            return
        columns = SCORES if kind == "old record" else list(expected[0])
        changed = found is None or not _same(found, expected, columns)
        tally.named += named
        tally.same += not changed
        if changed and not (named or ended.status == 1 or _lacks_seeds(found, expected, columns)):
            tally.wrong.append(f"{kind} ({path.name}): {words}: the table differs without a word")

    note(command("status", "fuzz", *(["--json"] if draw.random() < 0.3 else [])), "status")
    compare(command("table", "fuzz", "--json"), "table", reference.before)
    done = path.parent if path.name == FILE else next(store.runs.glob("*dbc*/seed0"))
    match draw.choice(["report", "collect", "verify", "export", "sweep", "retry"]):
        case "report":
            note(command("report", "fuzz"), "report")
        case "collect":
            compare(command("collect", "fuzz", "--json"), "collect", reference.before)
        case "verify":
            note(command("verify", done), "verify")
        case "export":
            to = store.root / "set.csv"
            ended = command("export", done, "--format", "csv", "--to", to)
            note(ended, "export")
            if ended.status == 0 and to.read_text() not in reference.sets:
                tally.wrong.append(f"{kind} ({path.name}): export: another set without a word")
        case "sweep" | "retry" as how:
            retry = ["--retry", "failed"] if how == "retry" else []
            note(command("sweep", store.sweep_file, "--jobs", "1", *retry), how)
            after = command("table", "fuzz", "--json")
            if kind != "old list":  # the list is written anew, so all must be there
                compare(after, how, reference.after)


def _same(found: list[Row], expected: list[Row], columns: list[str]) -> bool:
    """Whether the rows say the same; seconds are those of other runs after a sweep went on."""
    columns = [name for name in columns if name != "wall_seconds"]
    return [{c: row.get(c) for c in columns} for row in found] == [
        {c: row.get(c) for c in columns} for row in expected
    ]


def _lacks_seeds(found: list[Row] | None, expected: list[Row], columns: list[str]) -> bool:
    """Whether every row that differs is of fewer seeds than it was, which the table shows."""
    if found is None or len(found) != len(expected):
        return False
    return all(
        new["n"] < old["n"] or _same([new], [old], columns)
        for new, old in zip(found, expected, strict=True)
    )


def campaign(
    seed: int, count: int, root: Path, kinds: tuple[str, ...] = KINDS,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Tally]:  # fmt: skip
    """Damage files `count` times, the kinds in turn.

    Args:
        seed: Seed of every choice; an attempt depends on the seed and its number only.
        count: Number of attempts.
        root: Empty folder to work in.
        kinds: Kinds of files.
        progress: Called with each thing that may not be.
    """
    store, last = small_store(root / "whole")
    tallies = {kind: Tally() for kind in kinds}
    no_figures = pd.DataFrame({"status": []})
    with (
        mock.patch("paper_figures.exhibits.curves_frame", lambda *_: no_figures),
        mock.patch("obdbench.html_report.page.FIGURES", {}),
    ):
        with store.in_use():
            before = rows(command("table", "fuzz", "--json"))
        finished = store.copy(root / "finished")
        with finished.in_use():
            command("sweep", finished.sweep_file, "--jobs", "1")
            after = rows(command("table", "fuzz", "--json"))
            sets = []
            for number, folder in enumerate(sorted(finished.runs.glob("*/seed*"))):
                to = root / f"{number}.csv"
                command("export", folder, "--format", "csv", "--to", to)
                sets.append(to.read_text())
        assert before and after and before != after
        reference = Reference(before, after, sets)
        for number in range(count):
            draw = random.Random(f"{seed}.{number}")
            kind = kinds[number % len(kinds)]
            copy = store.copy(root / "damaged")
            with copy.in_use():
                path = draw.choice(copy.files(kind))
                damage(path, kind, draw)
                known = len(tallies[kind].wrong)
                check(copy, kind, path, reference, draw, last, tallies[kind])
                tallies[kind].attempts += 1
                for text in tallies[kind].wrong[known:]:
                    progress(f"attempt {number}: {text}")
            shutil.rmtree(copy.root)
    return tallies


def main() -> int:
    """Run the campaign, and print a table per kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tallies = campaign(asked.seed, asked.count, Path(folder), progress=print)
    print(f"{'kind':12} {'attempts':>8} {'named':>6} {'same':>6} {'wrong':>6}")
    for kind, tally in tallies.items():
        print(f"{kind:12} {tally.attempts:8} {tally.named:6} {tally.same:6} {len(tally.wrong):6}")
    found = sum(len(tally.wrong) for tally in tallies.values())
    print(f"seed {asked.seed}, {asked.count} attempts, {found} wrong, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
