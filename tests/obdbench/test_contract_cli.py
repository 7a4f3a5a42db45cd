"""`obdbench check-method` and `new-method`, as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins import fresh_methods, outcomes, run, succeed

BAD = """
from dataclasses import dataclass
import torch
from obdbench import METHODS, Method, SyntheticSet

@dataclass(frozen=True)
class {name}(Method):
    \"\"\"Breaks rules.\"\"\"

    synthetic_size: int = 256

    def distill(self, problem, monitor):
        rows = torch.arange(self.synthetic_size)
        observations = torch.from_numpy(problem.dataset.observations)[rows]
        actions = torch.from_numpy(problem.dataset.actions)[rows]
        monitor.checkpoint(0, SyntheticSet(observations, actions))

METHODS.register("{name}", {name})
"""


def test_a_registered_method_is_checked_by_its_name() -> None:
    code, output = run("check-method", "random")
    assert code == 0
    assert "same_seed_same_bits" in output
    assert "random: 14 passed, 3 not applicable" in output
    assert "It never calls monitor.save" in output, "why a check does not apply"


def test_a_broken_file_exits_with_1_and_says_where_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD.format(name="above_the_data"))
    code, output = run("check-method", str(path))
    assert code == 1
    first, second, *others = output.splitlines()
    assert first.startswith(f"{path}:14: size_above_the_data FAILED. A set larger than the dataset")
    assert "it raises IndexError: index 240 is out of bounds" in first
    assert first.endswith("Raise an ObdBenchError that names what was found and what was expected.")
    assert second.startswith(f"{path}:14: empty_dataset FAILED. ")
    assert others[-1].startswith("above_the_data: 2 FAILED, ")


def test_what_fails_stands_first_and_what_is_not_reached_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "raises.py"
    path.write_text(BAD.format(name="raising").replace("rows = torch", "rows = [][0]  # torch"))
    code, output = run("check-method", str(path))
    assert code == 1
    lines = output.splitlines()
    assert lines[0].startswith(f"{path}:13: distils FAILED. ")
    assert lines[0].endswith("IndexError: list index out of range")
    assert output.count("not reached") == 2, "the list of them, and their number"
    assert lines[-2].startswith("not reached: shapes_types_and_values, environment_units, ")
    assert lines[-1].startswith("raising: 1 FAILED, 1 passed, 1 not applicable, 14 not reached, in")


def test_a_file_that_was_loaded_already_is_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "again.py"
    path.write_text(BAD.format(name="loaded_twice"))
    for arguments in (
        ("check-method", str(path)),
        ("--plugin", str(path), "check-method", str(path)),
    ):
        code, output = run(*arguments)
        assert (code, "loaded_twice: " in output) == (1, True)


def test_settings_of_the_check(tmp_path: Path) -> None:
    code, output = run("check-method", "random", "--set", "synthetic_size=300")
    assert code == 1, "more than the toy data have"
    assert "synthetic_size is 300; expected 1 to 240" in output.splitlines()[0]
    code, output = run("check-method", "random", "--set", "syntetic_size=3")
    assert code == 1
    assert "Did you mean 'synthetic_size'?" in output


def test_what_cannot_be_checked_is_said(tmp_path: Path) -> None:
    assert run("check-method", "rendom")[1].startswith("No method is called 'rendom'. Did you mean")
    assert "is not a file" in run("check-method", str(tmp_path / "nothing.py"))[1]
    empty = tmp_path / "empty.py"
    empty.write_text("")
    assert "registers no method" in run("check-method", str(empty))[1]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a new method in it."""
    folder = tmp_path / "methods"
    assert run("new-method", "my_first_pick", "--folder", str(folder))[0] == 0
    return folder


def test_a_new_method_is_three_files_that_pass_the_check_and_their_own_test(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"my_first_pick.py", "test_my_first_pick.py", "my_first_pick.toml"}
    assert "class MyFirstPick(Method):" in (written / "my_first_pick.py").read_text()
    with fresh_methods(written):
        output = succeed("check-method", str(written / "my_first_pick.py"))
        assert "my_first_pick: 14 passed, 3 not applicable" in output
    with fresh_methods(written):
        found = outcomes("test_my_first_pick", "test_my_first_pick_keeps_the_contract")
    assert found == {"passed": 14, "skipped": 3}


def test_a_new_methods_sweep_runs_with_random_and_av_pbc(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written)
    sweep = written / "my_first_pick.toml"
    sweep.write_text(sweep.read_text().replace("seeds = 3", "seeds = 1"))
    arguments = ("--plugin", "my_first_pick.py", "sweep", sweep.name, "--jobs", "1")
    with fresh_methods(written):
        output = succeed(*arguments)
    for name in ("random", "av_pbc", "my_first_pick (greed=0.0)", "my_first_pick (greed=1.0)"):
        assert f"│ {name} " in output


def test_nothing_is_written_over(written: Path) -> None:
    (written / "my_first_pick.py").write_text("mine")
    (written / "my_first_pick.toml").unlink()
    code, output = run("new-method", "my_first_pick", "--folder", str(written))
    assert code == 1
    assert "exists already, and nothing was written" in output
    assert (written / "my_first_pick.py").read_text() == "mine"
    assert not (written / "my_first_pick.toml").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Method", "lower-case letters"),
        ("2fast", "lower-case letters"),
        ("lambda", "no keyword"),
        ("random", "taken by a method of obdbench"),
        ("json", "would hide something"),
        ("problem", "its class Problem, would hide something"),
    ],
)
def test_a_name_that_would_not_do_is_refused(name: str, message: str, tmp_path: Path) -> None:
    code, output = run("new-method", name, "--folder", str(tmp_path))
    assert code == 1
    assert message in output
    assert not list(tmp_path.iterdir())
