"""Measure the product packages: files, code lines, import circles, comments, string subscripts.

    python -m tests.house [root of a checkout]

A code line is a physical line that holds a token, is not only a comment, and belongs to no
docstring; a line of closing brackets counts, and is shown apart. A comment line is any line with a
comment. A string subscript is `x["..."]` with a constant. A circle is a strongly connected
component of the modules: every import counts, also inside a function, but not under `if
TYPE_CHECKING`; that a module's package is imported before it does not count.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def product_packages(root: Path = ROOT) -> list[str]:
    """Names of the packages that are installed, in the order of `pyproject.toml`."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    return [name.rstrip("*") for name in found]


def product_files(root: Path = ROOT) -> dict[str, list[Path]]:
    """The Python files of every product package."""
    return {name: sorted((root / name).rglob("*.py")) for name in product_packages(root)}


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Strings that stand as statements: of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


@dataclass
class Counts:
    """What is counted in a file, a package or the whole tree."""

    files: int = 0
    code: int = 0
    closing: int = 0
    comments: int = 0
    subscripts: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )


def count(source: str) -> Counts:
    """The counts of one file."""
    tree = ast.parse(source)
    prose = {
        line for text in docstrings(tree) for line in range(text.lineno, (text.end_lineno or 0) + 1)
    }
    code: set[int] = set()
    other_than_closing: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        lines = set(range(token.start[0], token.end[0] + 1)) - prose
        if token.type == tokenize.COMMENT:
            comments |= lines
        elif token.type not in LAYOUT:
            code |= lines
            if token.string not in (")", "]", "}", ",", ":"):
                other_than_closing |= lines
    subscripts = sum(
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        for node in ast.walk(tree)
    )
    return Counts(1, len(code), len(code - other_than_closing), len(comments), subscripts)


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Every module that is imported at run time, with the names taken from it."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for statement in node.orelse:
                    yield from imports(ast.Module([statement], []))
            case ast.Import(names=names):
                yield from ((name.name, []) for name in names)
            case ast.ImportFrom(module=str() as module, names=names, level=0):
                yield module, [name.name for name in names]
            case ast.ImportFrom():
                raise SystemExit(f"line {node.lineno}: a relative import; write the whole name")
            case _:
                yield from imports(node)


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Which product modules every product module imports."""
    modules = {}
    for path in [path for files in product_files(root).values() for path in files]:
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = set()
        for name, taken in imports(ast.parse(path.read_text())):
            submodules = {f"{name}.{one}" for one in taken if f"{name}.{one}" in modules}
            found |= submodules
            if len(submodules) < len(taken) or not taken:
                found.add(name)
        graph[module] = found & set(modules)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that reach each other, by group: Tarjan's components of two or more."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], index[other])
        if lowest[module] == index[module]:
            start = stack.index(module)
            group, stack[start:] = stack[start:], []
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(found)


def main(root: Path = ROOT) -> None:
    """Print a row per package, their sum, and the circles."""
    rows = {
        name: sum((count(path.read_text()) for path in files), Counts())
        for name, files in product_files(root).items()
    }
    rows["in sum"] = sum(rows.values(), Counts())
    heads = ("files", "code lines", "(closing)", "comment lines", "per 100", 'x["..."]')
    print(f"{'':14}" + "".join(f"{head:>15}" for head in heads))
    for name, row in rows.items():
        share = f"{100 * row.comments / max(row.code, 1):.1f}"
        figures = (row.files, row.code, row.closing, row.comments, share, row.subscripts)
        print(f"{name:14}" + "".join(f"{figure:>15}" for figure in figures))
    found = circles(import_graph(root))
    print(f"\nimport circles: {len(found)}")
    for group in found:
        print("  " + ", ".join(group))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
