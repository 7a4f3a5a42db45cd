"""What every command shares: quick answers, exit statuses, JSON, completion, one list of names."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import math
import os
import re
import resource
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import obdbench
from benchmark.protocol import PROTOCOLS
from benchmark.registry import load_plugin
from benchmark.stopping import END, HANGUP
from obdbench import catalogue
from obdbench.cli import lazy
from obdbench.cli.app import COMMANDS, app
from obdbench.cli.console import INTERRUPTED, RUNS_FAILED
from obdbench.cli.runs import QUEUE_AGAIN
from obdbench.descriptions import argument_meanings, settings_of
from paper_figures.exhibits import EXHIBITS
from slurm.profile import find_profile
from tests.obdbench.test_cli import RAISES
from tests.tiny_runs import PLUGIN

HEAVY = ("torch", "numpy", "pandas", "gymnasium", "matplotlib", "minari", "scipy")
CPU_SECONDS = 0.5
MARGIN = 2.0
"""A slow machine takes longer than the half second that is promised."""
COMMAND_LINE = "import typer.main, rich.console, rich.progress, rich.table, msgspec"
SHARE = 8.0
"""A command may cost so many times what the libraries of any command line cost to import, bytecode
at hand: measured 2 to 3, `list` 4 to 5.5 (3 to 4 where both compile at each start)."""
ATTEMPTS = 4
"""Neighbours on a core's other thread and cold caches double a process's time now and then."""


def cpu_seconds(*words: str, enough: float) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Least processor time of a command in a process of its own, and what the process left.

    Args:
        words: The command.
        enough: CPU seconds that end the attempts.
    """
    least, done = _once(words)
    for _ in range(ATTEMPTS - 1):
        if least < enough:
            break
        seconds, done = _once(words)
        least = min(least, seconds)
    return least, done


def _once(words: tuple[str, ...]) -> tuple[float, subprocess.CompletedProcess[str]]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


QUICK = [
    (("--help",), 0, "Reproducibility benchmark suite"),
    (("--version",), 0, importlib.metadata.version("obdbench")),
    (("data", "--help"), 0, "train-policies"),
    (("list",), 0, "av_pbc"),
    (("list", "--json"), 0, '"methods"'),
    (("list", "av_pbcc"), 1, "Did you mean 'av_pbc'"),
    (("swep",), 2, "Did you mean 'sweep'"),
    (("teacher", "trian"), 2, "Did you mean 'train'"),
    (("run", "dcb", "hopper/medium"), 1, "Did you mean 'dbc'"),
    (("run", "dbc", "hopper/medum"), 1, "Did you mean 'hopper/medium'"),
    (("study", "transfr"), 1, "Did you mean 'transfer'"),
]


@pytest.mark.parametrize(("words", "code", "says"), QUICK, ids=lambda value: str(value))
def test_help_lists_and_wrong_words_cost_half_a_second_and_import_nothing_heavy(
    words: tuple[str, ...], code: int, says: str
) -> None:
    program = f"""
import sys
from obdbench.cli import main
try:
    main()
except SystemExit as end:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
    sys.exit(end.code)
"""
    seconds, done = cpu_seconds(sys.executable, "-c", program, *words, enough=MARGIN * CPU_SECONDS)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    if seconds >= MARGIN * CPU_SECONDS:  # a machine of less than half the speed
        beside, _ = cpu_seconds(sys.executable, "-c", COMMAND_LINE, enough=0.0)
        assert seconds < SHARE * beside


def test_the_package_is_imported_at_once_and_its_names_when_they_are_used() -> None:
    program = f"import sys, obdbench; print([n for n in {HEAVY} if n in sys.modules])"
    seconds, done = cpu_seconds(sys.executable, "-c", program, enough=MARGIN * 0.2)
    assert done.stdout == "[]\n", done.stderr
    assert seconds < MARGIN * 0.2


def test_every_public_name_is_there_and_has_one_home() -> None:
    assert sorted(obdbench.__all__) == sorted({*obdbench._HOME, "__version__"})
    for name in obdbench.__all__:
        assert getattr(obdbench, name) is not None
        assert name in dir(obdbench)
    with pytest.raises(AttributeError, match="has no attribute 'swep'"):
        obdbench.swep  # noqa: B018
    assert obdbench.__version__ == importlib.metadata.version("obdbench")
    # A type checker sees what a program gets.
    tree = ast.parse(inspect.getsource(obdbench))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(module, name) for name, module in obdbench._HOME.items()}


def real_commands() -> Iterator[tuple[str, str, Any]]:
    """Name, help in the table, and function of every command and sub-command."""
    for name, command in COMMANDS.items():
        module, _, attribute = command.target.partition(":")
        found = getattr(importlib.import_module(f"obdbench.cli.{module}"), attribute)
        if not command.group:
            yield name, command.help, found
            continue
        group: typer.Typer = found
        assert group.info.help == command.help
        members = {
            c.name or c.callback.__name__: c.callback  # type: ignore[union-attr]
            for c in group.registered_commands
        }
        assert members.keys() == command.group.keys()
        yield from ((f"{name} {n}", h, members[n]) for n, h in command.group.items())


def test_the_table_of_commands_says_what_their_docstrings_say() -> None:
    for name, help_, function in real_commands():
        assert inspect.getdoc(function).partition("\n")[0] == help_, name  # type: ignore[union-attr]


def test_make_quickstart_says_how_the_shell_finds_obdbench() -> None:
    root = Path(__file__).parents[2]
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "quickstart", "STAMP=README.md", "PYTHON=python",
         "VENV=.venv"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = "source .venv/bin/activate"
    assert planned.stdout.splitlines()[-1] == f'echo "To type obdbench yourself: {line}"'
    assert f"`{line}`" in (root / "README.md").read_text()


def test_every_command_shows_its_own_options() -> None:
    for words, option in (("run", "--protocol"), ("data build", "--force"), ("list", "--check")):
        result = CliRunner().invoke(app, [*words.split(), "--help"])
        assert result.exit_code == 0
        assert option in result.output


def test_an_option_that_takes_a_number_refuses_nan() -> None:
    """Bounds do not in every typer. `ReferenceReturns` refuses those of data."""
    found = set()
    for name, _, function in real_commands():
        for option, hint in typing.get_type_hints(function, include_extras=True).items():
            kind, *about = typing.get_args(hint)[:2] or (hint,)
            if kind in (float, float | None) and not option.startswith("reference_"):
                found.add((name, option))
                with pytest.raises(typer.BadParameter, match="nan is not a number"):
                    about[0].callback(math.nan)
                assert about[0].callback(0.5) == 0.5
    assert found == {("collect", "poll"), ("submit", "poll")}
    for words in ("collect x", "submit x"):
        ended = CliRunner().invoke(app, [*words.split(), "--wait", "--poll", "nan"])
        assert ended.exit_code == 2 and "--poll" in ended.output


def _squeezed(text: str) -> str:
    """A text without spaces and the frames of tables."""
    return re.sub(r"[\s│]+", "", text)


def test_help_shows_every_word_that_was_written() -> None:
    """Brackets too, which rich takes for markup: `obdbench[policies]` was shown as `obdbench`."""
    for name, _, function in real_commands():
        words = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "400"})
        shown = _squeezed(words.output)
        for paragraph in inspect.getdoc(function).split("\n\n"):  # type: ignore[union-attr]
            assert _squeezed(paragraph) in shown, name
        for hint in typing.get_type_hints(function, include_extras=True).values():
            for about in getattr(hint, "__metadata__", ()):
                assert _squeezed(getattr(about, "help", None) or "") in shown, (name, about.help)


def test_markup_in_help_is_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def function(
        given: Annotated[str, typer.Option(help="A [bold]name[/], or [N, 2] of x[y].")] = "",
    ) -> None:
        """Do it (needs it[all]) [/]."""

    monkeypatch.setenv("COLUMNS", "200")
    lazy._single("it", function).main(["--help"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "Do it (needs it[all]) [/]." in shown
    assert "A [bold]name[/], or [N, 2] of x[y]." in shown


def test_the_page_of_the_command_line_names_every_command_and_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", rows), name
    statuses = [int(status) for status in re.findall(r"^\| (\d+) \|", page, re.M)]
    assert statuses == [0, 1, 2, RUNS_FAILED, QUEUE_AGAIN, 128 + HANGUP, INTERRUPTED, 128 + END]
    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for status in statuses:
        assert re.search(rf"\b{status},", said), status


# --- names ------------------------------------------------------------------------------------


def test_what_is_read_from_source_is_what_is_imported() -> None:
    for kind, (_, module, attribute) in catalogue.REGISTRIES.items():
        registry = getattr(importlib.import_module(module), attribute)
        assert catalogue.registry(kind) is registry
        assert registry.kind == kind
        fresh = catalogue._unloaded(kind, registry.group)
        for name in fresh:
            listed = catalogue._registered(kind, fresh, name)
            assert listed.problem is None, listed.problem
            if kind != "dataset":  # their descriptions are computed, and in `obdbench data list`
                assert listed.summary == catalogue._loaded_summary(registry[name]), name
    listed = {entry.name: entry.summary for entry in catalogue.entries("exhibit")}
    assert listed == {exhibit.name: exhibit.shows for exhibit in EXHIBITS}
    assert catalogue.names("protocol") == list(PROTOCOLS)
    for name in catalogue.names("profile"):
        assert find_profile(name).name == name


def test_list_shows_every_kind(cli: Any) -> None:
    listed = json.loads(cli("list", "--json").out)
    names = {kind: [entry["name"] for entry in entries] for kind, entries in listed.items()}
    assert list(names) == [
        "methods", "datasets", "dataset families", "students", "teacher recipes",
        "density recipes", "studies", "student recipes", "sweeps", "protocols", "profiles",
        "exhibits",
    ]  # fmt: skip
    assert "quickstart" in names["sweeps"]
    assert "gpu" in names["profiles"]
    quick = next(entry for entry in listed["protocols"] if entry["name"] == "quick")
    assert quick["what"].startswith("4 students x 10 episodes every 200 outer steps")
    described = [e for kind in names for e in listed[kind] if kind != "datasets"]
    assert [entry["name"] for entry in described if not entry["what"]] == []


def test_list_describes_the_method_the_students_recipe_and_the_protocol_of_a_name(
    cli: Any,
) -> None:
    described = json.loads(cli("list", "hades", "--json").out)
    assert [d["kind"] for d in described] == ["method", "student recipe", "protocol"]
    assert described[1]["what"] == "mlp 3x512 tanh, gaussian head, adam clipped at 0.5, 400 steps"
    settings = [{s["name"]: s for s in d["settings"]} for d in described[1:]]
    assert settings[0]["gradient_clip"]["default"] == 0.5
    assert settings[1]["actions"]["default"] == "sampled"
    assert all(s["meaning"] for table in settings for s in table.values())


def test_list_describes_a_method_with_the_meaning_of_every_setting(cli: Any) -> None:
    (described,) = json.loads(cli("list", "av_pbc", "--json").out)
    settings = {setting["name"]: setting for setting in described["settings"]}
    assert settings["beta"]["default"] == 0.02
    assert settings["beta"]["type"] == "float"
    assert "action value" in settings["beta"]["meaning"]
    assert settings["outer_steps"]["default"] == 20_000, "its own, not the base class's"
    assert settings["outer_steps"]["meaning"].startswith("Updates of the set")
    assert described["facts"]["uses"] == "dataset, teacher"
    shown = cli("list", "av_pbc")
    assert shown.code == 0
    assert re.search(r"│ beta +│ float +│ 0.02 +│ \w+", shown.out)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("td3_bc", "alpha"),
        ("obd", "checkpoint_every"),
        ("hopper/medium", "default_size"),
        ("quickstart", "methods: "),
        ("cpu", "memory: 4G"),
        ("obd-table-1", "made from: `main_table`"),
        ("mlp", "student"),
    ],
)
def test_list_describes_one_thing_of_every_kind(name: str, says: str, cli: Any) -> None:
    shown = cli("list", name)
    assert shown.code == 0
    assert says in shown.out


def test_every_hyper_parameter_of_a_method_is_explained() -> None:
    own = (e.name for e in catalogue.entries("method") if e.origin == "obdbench")
    for name in own:  # not those that other tests registered
        unexplained = [s.name for s in settings_of(obdbench.METHODS[name]) if not s.meaning]
        assert unexplained == [], name


def test_settings_of_an_instance_have_its_values_as_defaults() -> None:
    preset = dataclasses.replace(obdbench.METHODS["av_pbc"], beta=0.5)
    assert {s.name: s.default for s in settings_of(preset)}["beta"] == 0.5
    assert argument_meanings(type(preset))["beta"]


@dataclasses.dataclass
class Base:
    """A base.

    Args:
        first: Size of the base,
            in pairs.
        second: Kept.
    """

    first: int = 1
    second: int = 2


@dataclasses.dataclass
class Special(Base):
    """A special case.

    Args:
        first: Size of the special case.
    """

    first: int = 3


def test_a_class_explains_its_settings_before_its_base_does() -> None:
    assert argument_meanings(Base) == {"first": "Size of the base, in pairs.", "second": "Kept."}
    assert argument_meanings(Special) == {"first": "Size of the special case.", "second": "Kept."}


def test_an_entry_that_cannot_be_found_is_broken_and_one_that_does_not_import_with_check(
    cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "half_a_method.py").write_text(
        'class Half:\n    """Half."""\nimport no_such_module'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "av_pbc" in obdbench.METHODS  # discovered before it is replaced
    monkeypatch.setattr(obdbench.METHODS, "_entries", {
        "gone": "no_such_package.module:Gone", "half": "half_a_method:Half",
        "named": "half_a_method:Whole",
    })  # fmt: skip
    monkeypatch.setattr(obdbench.METHODS, "_origins", dict.fromkeys(("gone", "half", "named"), "x"))
    listed = cli("list")
    assert listed.code == 1
    assert "broken gone: no_such_package.module:Gone: there is no module" in listed.out
    assert "broken named: half_a_method:Whole: the module has no attribute 'Whole'" in listed.out
    assert "broken half" not in listed.out
    assert "No module named 'no_such_module'" in cli("list", "--check").out


# --- completion, JSON, exit statuses ----------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("obdbench swe", ["sweep"]),
        ("obdbench run av_p", ["av_pbc", "av_pbc_mean_one", "av_pbc_published"]),
        ("obdbench run av_pbc cart", ["cartpole/mixed"]),
        ("obdbench sweep quick", ["quickstart"]),
        ("obdbench data bu", ["build"]),
        ("obdbench paper obd-figure", ["obd-figure-1", "obd-figure-2"]),
    ],
)
def test_the_shell_completes_commands_and_names(typed: str, completed: list[str]) -> None:
    environment = {
        **os.environ,
        "_OBDBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    program = Path(sys.executable).with_name("obdbench")
    done = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == completed, done.stderr


def test_json_says_what_the_tables_say_and_the_status_that_runs_failed(
    cli: Any, sweep_file: Path, record_store: Path
) -> None:
    load_plugin(PLUGIN)
    sweep_file.write_text(sweep_file.read_text() + RAISES)
    cli("sweep", sweep_file, "--jobs", "1")
    status = cli("status", "tiny", "--json")
    values = json.loads(status.out)
    assert status.code == 3
    assert values["counts"] == {"done": 2, "failed": 2}
    assert [run["error"] for run in values["runs"]] == [None, "ValueError"] * 2
    for command in ("table", "collect"):
        done = cli(command, "tiny", "--json")
        assert done.code == 3
        table = json.loads(done.out)
        assert [row["method"] for row in table["rows"]] == ["random", "raises"]
        assert all(Path(file).is_file() for file in table["files"])
    plan = cli("plan", sweep_file, "--json")
    assert plan.code == 0
    assert sum(row["runs"] for row in json.loads(plan.out)["rows"]) == 4
    assert json.loads(plan.out)["to_do"] == 2
