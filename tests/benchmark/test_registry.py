"""A plug-in is found by its name, and one that is broken never takes the others with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import benchmark.method
from benchmark.errors import ObdBenchError
from benchmark.method import Method
from benchmark.registry import BrokenPlugin, DuplicateName, Registry, UnknownName, load_plugin

GROUP = "obdbench.methods"

Install = Callable[[str, Mapping[str, str], Mapping[str, str]], None]
"""Takes a distribution's name, its entry points of the methods' group, and its files."""


class Shape:
    pass


class Circle(Shape):
    pass


class Square(Shape):
    pass


@pytest.fixture
def shapes() -> Registry[type[Shape]]:
    return Registry("shape", "obdbench.tests.none", Shape)  # type: ignore[arg-type]


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Registry[Method]:
    """The method registry as a fresh process has it; plug-ins that import it find this one."""
    fresh: Registry[Method] = Registry(
        "method",
        GROUP,
        Method,  # type: ignore[type-abstract]
        entries="instances",
    )
    monkeypatch.setattr(benchmark.method, "METHODS", fresh)
    return fresh


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a third party's distribution on the path, as pip leaves it."""
    site = tmp_path / "site-packages"
    site.mkdir()

    def put(name: str, points: Mapping[str, str], files: Mapping[str, str]) -> None:
        information = site / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        lines = [f"{point} = {reference}" for point, reference in points.items()]
        (information / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]) + "\n")
        for file, text in files.items():
            (site / file).write_text(text)
        monkeypatch.syspath_prepend(site)

    yield put
    for module in [m for m, o in sys.modules.items() if _lies_in(o, tmp_path)]:
        del sys.modules[module]


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and folder in Path(file).parents


METHOD = """
from dataclasses import dataclass
from benchmark.method import Method

@dataclass(frozen=True)
class {name}(Method):
    def distill(self, problem, monitor):
        pass
"""

SINGLE_FILE = (
    METHOD
    + """
import benchmark.method

benchmark.method.METHODS.register("{key}", {name})
"""
)


def test_registered_entry_is_found_by_its_name(shapes: Registry[type[Shape]]) -> None:
    shapes.register("circle", Circle)

    assert shapes["circle"] is Circle
    assert "circle" in shapes and "square" not in shapes
    assert list(shapes) == ["circle"]


def test_names_come_sorted_whatever_order_they_were_registered_in(
    shapes: Registry[type[Shape]],
) -> None:
    shapes.register("square", Square)
    shapes.register("circle", Circle)

    assert list(shapes) == ["circle", "square"]


def test_taken_name_is_refused_and_keeps_its_first_entry(shapes: Registry[type[Shape]]) -> None:
    shapes.register("round", Circle, origin="package one")

    with pytest.raises(DuplicateName, match=r"'round' is taken by package one; package two must"):
        shapes.register("round", Square, origin="package two")
    assert shapes["round"] is Circle
    assert shapes.origin("round") == "package one"


def test_registering_the_same_entry_again_is_harmless(shapes: Registry[type[Shape]]) -> None:
    shapes.register("circle", Circle)
    shapes.register("circle", Circle)

    assert list(shapes) == ["circle"]


def test_unknown_name_is_answered_with_the_nearest_and_with_all(
    shapes: Registry[type[Shape]],
) -> None:
    shapes.register("circle", Circle)
    shapes.register("square", Square)

    with pytest.raises(UnknownName) as error:
        shapes["cirlce"]

    assert "No shape is called 'cirlce'" in str(error.value)
    assert "Did you mean 'circle'?" in str(error.value)
    assert "Available: circle, square." in str(error.value)


@pytest.mark.parametrize("entry", [Circle(), int, 42, len])
def test_registry_of_classes_takes_nothing_else(
    shapes: Registry[type[Shape]], entry: type[Shape]
) -> None:
    with pytest.raises(BrokenPlugin, match="expected a subclass of Shape"):
        shapes.register("mine", entry)
    assert "mine" not in shapes


def test_registry_of_instances_makes_one_of_a_class() -> None:
    shapes: Registry[Shape] = Registry("shape", "obdbench.tests.none", Shape, entries="instances")
    circle = Circle()
    shapes.register("circle", circle)
    shapes.register("square", Square)  # type: ignore[arg-type]
    assert shapes["circle"] is circle
    assert isinstance(shapes["square"], Square)


class Sided(Shape):
    def __init__(self, sides: int) -> None:
        self.sides = sides


@pytest.mark.parametrize(
    ("entry", "message"),
    [(42, "expected an instance of Shape"), (int, "expected an instance"), (Sided, "'sides'")],
)
def test_registry_of_instances_takes_nothing_else(entry: Any, message: str) -> None:
    shapes: Registry[Shape] = Registry("shape", "obdbench.tests.none", Shape, entries="instances")
    with pytest.raises(BrokenPlugin, match=message):
        shapes.register("mine", entry)
    assert "mine" not in shapes


def test_third_party_method_is_found_beside_the_built_in_ones(
    install: Install, methods: Registry[Method]
) -> None:
    install("others", {"theirs": "others_method:Theirs"}, _file("others_method", "Theirs"))

    assert "theirs" in methods and "random" in methods
    assert "others_method" not in sys.modules  # nothing is imported before it is asked for
    assert type(methods["theirs"]).__name__ == "Theirs"
    assert methods.origin("theirs") == "others"
    assert methods.origin("random") == "obdbench"
    assert methods.broken() == {}


def test_third_party_cannot_take_the_name_of_a_built_in(
    install: Install, methods: Registry[Method]
) -> None:
    points = {"random": "aaa_method:Impostor", "honest": "aaa_method:Impostor"}
    install("aaa", points, _file("aaa_method", "Impostor"))

    assert methods["random"].__module__ == "baselines.selection"
    assert type(methods["honest"]).__name__ == "Impostor"  # its other entry is not punished
    reasons = methods.broken()
    assert list(reasons) == ["random of aaa"]
    assert "'random' is taken by obdbench; aaa must register" in reasons["random of aaa"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no_such_module_anywhere:Method", "ModuleNotFoundError"),
        ("broken_method:Missing", "has no attribute 'Missing'"),
        ("broken_method:Present", "expected an instance of Method"),
        ("raising_method:Method", "RuntimeError: no licence found"),
        ("typo_method:Method", "BadParameter: Typo needs 'teachers'"),
    ],
)
def test_broken_plugin_is_reported_and_hides_no_other(
    install: Install, methods: Registry[Method], reference: str, reason: str
) -> None:
    files = {
        "broken_method.py": "class Present: pass",
        "raising_method.py": "raise RuntimeError('no licence found')",
        "typo_method.py": METHOD.format(name="Typo").replace(
            "    def distill", "    needs = frozenset({'teachers'})\n    def distill"
        ),
        **_file("sound_method", "Sound"),
    }
    install("pair", {"broken": reference, "sound": "sound_method:Sound"}, files)

    assert type(methods["sound"]).__name__ == "Sound"
    assert list(methods.broken()) == ["broken"]
    with pytest.raises(BrokenPlugin) as error:
        methods["broken"]
    for part in ("'broken' of pair", reference, reason):
        assert part in str(error.value)


def test_single_file_plugin_registers_its_method_once(
    tmp_path: Path, methods: Registry[Method]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SINGLE_FILE.format(name="Mine", key="mine"))

    load_plugin(path)
    first = methods["mine"]
    load_plugin(path)
    load_plugin(str(path))

    assert methods["mine"] is first


def test_two_plugins_of_the_same_file_name_both_load(
    tmp_path: Path, methods: Registry[Method]
) -> None:
    for folder, name in (("one", "First"), ("two", "Second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(SINGLE_FILE.format(name=name, key=folder))
        load_plugin(tmp_path / folder / "mine.py")

    assert type(methods["one"]).__name__ == "First"
    assert type(methods["two"]).__name__ == "Second"


def test_plugin_with_a_syntax_error_is_named_and_loads_once_mended(
    tmp_path: Path, methods: Registry[Method]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def broken(:\n")
    with pytest.raises(BrokenPlugin) as error:
        load_plugin(path)
    assert str(path) in str(error.value) and "SyntaxError" in str(error.value)
    assert "random" in methods

    path.write_text(SINGLE_FILE.format(name="Mine", key="mine"))
    load_plugin(path)
    assert "mine" in methods


@pytest.mark.parametrize("name", ["absent.py", "folder", "notes.txt"])
def test_plugin_that_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")

    with pytest.raises(BrokenPlugin, match=r"Give the path of a \.py file|expected a \.py file"):
        load_plugin(tmp_path / name)


def test_plugin_that_wants_a_built_in_name_is_told_so(
    tmp_path: Path, methods: Registry[Method]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SINGLE_FILE.format(name="Mine", key="random"))

    with pytest.raises(ObdBenchError, match="'random' is taken by obdbench"):
        load_plugin(path)
    assert methods["random"].__module__ == "baselines.selection"


def _file(module: str, name: str) -> dict[str, str]:
    return {f"{module}.py": METHOD.format(name=name)}
