"""The counts of `tests.house`, on sources whose counts are known by hand."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house import Counts, circles, count, import_graph, imports

SOURCE = '''"""A docstring
of two lines."""

import os  # a remark


def f(x: dict[str, int]) -> int:
    """Take."""
    # why
    text = """a string
    is code"""
    return g(
        x["one"],
    )
'''


def test_lines_are_counted_by_what_stands_on_them() -> None:
    assert count(SOURCE) == Counts(files=1, code=7, closing=1, comments=2, subscripts=1)


def test_imports_for_types_only_are_no_imports() -> None:
    source = "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    from c import d"
    assert list(imports(ast.parse(source))) == [("b", []), ("c", ["d"])]


def test_circles_are_found_whatever_hangs_on_them() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}}
    assert circles(graph) == [["a", "b", "c"], ["f"]]


def test_an_import_of_a_submodule_is_none_of_its_package(tmp_path: Path) -> None:
    project = '[tool.setuptools.packages.find]\ninclude = ["p*"]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "__init__.py").write_text("from p.a import x")
    (tmp_path / "p" / "a.py").write_text("from p import b\nimport p.b")
    (tmp_path / "p" / "b.py").write_text("import os")
    assert import_graph(tmp_path) == {"p": {"p.a"}, "p.a": {"p.b"}, "p.b": set()}
