"""The index of a sweep's records: the same as the files say, whatever becomes of it or of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from benchmark.errors import ObdBenchError
from benchmark.record import FILE, BadRecord, Summary, read_record
from benchmark.run import run_folder
from benchmark.sweep import Sweep
from obdbench.sweep_status import sweep_status
from results import cell_table, runs_frame
from results import record_index as index_module
from results.record_store import readable_records, run_statuses, save_sweep, sweep_records
from tests.benchmarks.varied_store import template, varied_record, varied_sweep, write_record_fast

COUNT = 12


@pytest.fixture
def sweep() -> Sweep:
    return varied_sweep(COUNT, seeds=3)


@pytest.fixture
def store(tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of settled records, of which an index is written whatever their number."""
    monkeypatch.setattr(index_module, "FEWEST", 1)
    monkeypatch.setattr(index_module, "SETTLED_NANOSECONDS", 0)
    store = tmp_path / "store"
    save_sweep(store, sweep)
    shipped = template()
    for run in sweep.runs:
        write_record_fast(store, run, varied_record(run, shipped))
    return store


def index_of(store: Path, sweep: Sweep) -> Path:
    return store / "sweeps" / f"{sweep.name}.index"


def files(store: Path, sweep: Sweep) -> list[Path]:
    return [run_folder(store, run) / FILE for run in sweep.runs]


def from_files(store: Path, sweep: Sweep) -> list[Summary]:
    """What the files say, read one by one."""
    records = (read_record(path) for path in files(store, sweep) if path.exists())
    return [msgspec.convert(record, Summary, from_attributes=True) for record in records]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read from here on."""
    found: list[Path] = []

    def counted(path: Path) -> object:
        found.append(path)
        return read_record(path)

    monkeypatch.setattr(index_module, "read_record", counted)
    return found


def test_the_second_reading_reads_no_record_and_says_the_same(
    store: Path, sweep: Sweep, reads: list[Path]
) -> None:
    first = sweep_records(store, sweep)
    assert len(reads) == COUNT
    again = sweep_records(store, sweep)
    assert len(reads) == COUNT
    assert first == again == from_files(store, sweep)
    assert [record.as_dict() for record in again] == [
        {**values, "checkpoints": [
            {key: value for key, value in point.items() if key not in ("returns", "lengths")}
            for point in values["checkpoints"]
        ]}
        for values in (read_record(path).as_dict() for path in files(store, sweep))
    ]  # fmt: skip
    assert sweep_status(store, sweep).counts == {"done": COUNT}
    assert len(reads) == COUNT


def put_another_score(path: Path, *, times: bool = False, size: bool = False) -> None:
    """Alter a number of a record by hand, and its times or its size back."""
    before, text = path.stat(), path.read_text()
    at = text.index('"normalized_return": ') + len('"normalized_return": ')
    digit = str((int(text[at + 3]) + 1) % 10)
    path.write_text(text[: at + 3] + digit + text[at + 4 :] + ("" if size else "\n"))
    if times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("size", [False, True])
def test_a_record_that_was_altered_by_hand_is_refused_whatever_its_size_and_time(
    store: Path, sweep: Sweep, times: bool, size: bool
) -> None:
    sweep_records(store, sweep)
    path = files(store, sweep)[4]
    put_another_score(path, times=times, size=size)
    with pytest.raises(BadRecord, match=r"contradicts itself|was altered"):
        sweep_records(store, sweep)
    records, (message,) = readable_records(store, sweep)
    assert len(records) == COUNT - 1
    assert str(path) in message
    assert run_statuses(store, sweep)[sweep.runs[4].run_id].state == "failed"


def test_records_that_come_and_go_are_seen_at_once(store: Path, sweep: Sweep) -> None:
    sweep_records(store, sweep)
    gone, moved = files(store, sweep)[2], files(store, sweep)[5]
    text = gone.read_text()
    gone.unlink()
    moved.rename(moved.with_suffix(".away"))
    assert len(sweep_records(store, sweep)) == COUNT - 2
    assert sweep_status(store, sweep).counts == {"done": COUNT - 2, "missing": 2}
    gone.write_text(text)
    moved.with_suffix(".away").rename(moved)
    assert sweep_records(store, sweep) == from_files(store, sweep)


def test_another_record_of_the_same_run_takes_the_place_of_the_first(
    store: Path, sweep: Sweep
) -> None:
    sweep_records(store, sweep)
    other = varied_sweep(COUNT, seeds=3).runs[0]
    shipped = template()
    record = varied_record(other, shipped)
    write_record_fast(store, other, msgspec.structs.replace(record, method_facts={"new": 1.0}))
    assert sweep_records(store, sweep)[0].method_facts == {"new": 1.0}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    place = len(content) * 2 // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def of_another_version(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("damage", [cut, flip_a_bit, of_another_version, lambda _: b""])
def test_a_damaged_index_changes_no_number_and_is_written_anew(
    store: Path, sweep: Sweep, reads: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    sweep_records(store, sweep)
    path = index_of(store, sweep)
    path.write_bytes(damage(path.read_bytes()))
    assert sweep_records(store, sweep) == from_files(store, sweep)
    assert len(reads) == 2 * COUNT
    assert sweep_records(store, sweep) == from_files(store, sweep)
    assert len(reads) == 2 * COUNT


def test_every_bit_of_an_index_counts(store: Path, sweep: Sweep) -> None:
    """At random places: whichever is flipped, the table is that of the files."""
    sweep_records(store, sweep)
    path, wanted = index_of(store, sweep), from_files(store, sweep)
    content = path.read_bytes()
    for place in range(3, len(content), len(content) // 12):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert sweep_records(store, sweep) == wanted


def test_the_index_of_a_copied_store_does_not_count(
    store: Path, sweep: Sweep, reads: list[Path], tmp_path: Path
) -> None:
    sweep_records(store, sweep)
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)  # with its times
    del reads[:]
    put_another_score(files(copy, sweep)[0], times=True, size=True)
    _, damaged = readable_records(copy, sweep)
    assert len(reads) == COUNT
    assert len(damaged) == 1


def test_a_record_that_was_just_written_is_not_indexed_yet(
    store: Path, sweep: Sweep, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of a file system ticks: what is altered within a tick would keep its times."""
    monkeypatch.setattr(index_module, "SETTLED_NANOSECONDS", 10**12)
    sweep_records(store, sweep)
    sweep_records(store, sweep)
    assert len(reads) == 2 * COUNT


def test_a_store_that_can_only_be_read_is_read_all_the_same(
    store: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(index_module, "write_atomic", refused)
    assert sweep_records(store, sweep) == from_files(store, sweep)
    assert not index_of(store, sweep).exists()


def test_an_index_is_not_written_through_a_link_out_of_the_store(
    store: Path, sweep: Sweep, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (store / "sweeps").rename(outside)
    (store / "sweeps").symlink_to(outside)
    assert sweep_records(store, sweep) == from_files(store, sweep)
    assert not (outside / f"{sweep.name}.index").exists()


def test_a_small_sweep_has_no_index(
    store: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "FEWEST", COUNT + 1)
    sweep_records(store, sweep)
    assert not index_of(store, sweep).exists()


def test_readers_and_writers_at_once_see_what_the_files_say(store: Path, sweep: Sweep) -> None:
    """Four readers write the index and read each other's, while records change and it is cut."""
    wanted = {record.run_id: record.score for record in from_files(store, sweep)}
    problems: list[object] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                found = sweep_records(store, sweep)
            except (ObdBenchError, OSError) as error:
                problems.append(error)
                continue
            problems.extend(r for r in found if r.score != wanted[r.run_id])

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for run in sweep.runs[:6]:
        path = run_folder(store, run) / FILE
        new = path.with_suffix(".new")
        new.write_text(path.read_text() + " ")
        new.replace(path)
        index_of(store, sweep).write_bytes(b"half of an in")
    over.set()
    for reader in readers:
        reader.join()
    assert problems == []


def test_a_table_from_the_index_is_that_from_the_files(store: Path, sweep: Sweep) -> None:
    sweep_records(store, sweep)
    indexed = cell_table(runs_frame(sweep_records(store, sweep), sweep.runs))
    index_of(store, sweep).unlink()
    plain = cell_table(runs_frame(from_files(store, sweep), sweep.runs))
    assert indexed.equals(plain)
    assert (plain["high"] > plain["low"]).all(), "every interval is computed"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("obdbench.sweep_status", ["torch", "pandas", "scipy"]),
     ("paper_figures.sweep_table", ["torch", "scipy.stats", "seaborn"]),
     ("obdbench.html_report", ["torch", "scipy.stats"])],
)  # fmt: skip
def test_who_looks_at_records_imports_nothing_that_runs_need(module: str, heavy: list[str]) -> None:
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_an_index_of_the_shipped_records_does_not_change_the_checkout() -> None:
    """Whoever reads them would else have uncommitted changes, which new records would say."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("this is no checkout")
    for name, ignored in (("all_methods_seconds.index", 0), ("all_methods_seconds.json", 1)):
        path = f"results/shipped/sweeps/{name}"
        done = subprocess.run(["git", "-C", str(root), "check-ignore", "-q", path], check=False)
        assert done.returncode == ignored
