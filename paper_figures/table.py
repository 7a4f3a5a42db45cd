"""A table that can be printed, pasted or typeset: one content, four forms."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import table as rich_table
from rich.text import Text

from benchmark.files import write_atomic

DAGGER = "\u2020"
NOTHING = "\u2013"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    DAGGER: r"$^{\dagger}$",
    NOTHING: "--",
}


@dataclass(frozen=True)
class Cell:
    """One entry: ``text``, then ``detail`` in small print; ``tied`` adds a dagger."""

    text: str
    detail: str = ""
    best: bool = False
    tied: bool = False


@dataclass(frozen=True)
class Table:
    """Columns, groups of rows with a rule between groups, a caption, and the numbers behind them.

    ``alignment`` has one letter a column, "l" or "r". ``data`` is what `csv` writes: unrounded, one
    row a cell.
    """

    columns: tuple[str, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    caption: str
    alignment: str
    data: pd.DataFrame

    def markdown(self) -> str:
        """GitHub-flavoured Markdown, caption below the table."""
        rows = [row for group in self.groups for row in group]
        body = [[_markdown_cell(cell) for cell in row] for row in rows]
        marks = [":--" if side == "l" else "--:" for side in self.alignment]
        lines = [[_markdown_text(name) for name in self.columns], marks, *body]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{_markdown_text(self.caption)}\n"

    def csv(self) -> str:
        """The unrounded numbers as comma-separated values; empty where there is none."""
        return str(self.data.to_csv(index=False, lineterminator="\n"))

    def write(self, folder: Path, name: str) -> list[Path]:
        """Writes ``<name>.md``, ``.csv`` and ``.tex`` into a folder, and returns their paths."""
        forms = {"md": self.markdown(), "csv": self.csv(), "tex": self.latex()}
        for ending, content in forms.items():
            write_atomic(folder / f"{name}.{ending}", content)
        return [folder / f"{name}.{ending}" for ending in forms]

    def latex(self) -> str:
        """A ``table*`` float that needs the packages booktabs and graphicx."""
        rows = ["\n".join(_latex_row(row) for row in group) for group in self.groups if group]
        return "\n".join(
            [
                "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
                "\\begin{table*}",
                "\\centering",
                f"\\caption{{{escape_latex(self.caption)}}}",
                "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%",
                f"\\begin{{tabular}}{{{self.alignment}}}",
                "\\toprule",
                f"{' & '.join(escape_latex(name) for name in self.columns)} \\\\",
                "\\midrule",
                "\n\\midrule\n".join(rows),
                "\\bottomrule",
                "\\end{tabular}}",
                "\\end{table*}",
                "",
            ]
        )

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        """For notebooks."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        rows = [row for group in self.groups for row in group]
        body = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def rich(self) -> rich_table.Table:
        """For the terminal."""
        table = rich_table.Table(caption=Text(self.caption), caption_justify="left")
        for name, side in zip(self.columns, self.alignment, strict=True):
            # Text, not str: rich would read square brackets as markup.
            table.add_column(
                Text(name), justify="left" if side == "l" else "right", overflow="fold"
            )
        for group in self.groups:
            for row in group:
                table.add_row(*(_rich_cell(cell) for cell in row))
            table.add_section()
        return table


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands; a minus before a number becomes a minus sign."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def _latex_row(row: Sequence[Cell]) -> str:
    return f"{' & '.join(_latex_cell(cell) for cell in row)} \\\\"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.best else text
    text += f" {{\\scriptsize {escape_latex(cell.detail)}}}" if cell.detail else ""
    return text + (_LATEX[DAGGER] if cell.tied else "")


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*<`])", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    text = f"**{text}**" if cell.best else text
    text += f" {_markdown_text(cell.detail)}" if cell.detail else ""
    return text + (DAGGER if cell.tied else "")


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.best else text
    text += f" <small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td>{text}{DAGGER if cell.tied else ''}</td>"


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.detail:
        text.append(f" {cell.detail}", style="not bold dim")
    return text.append(DAGGER) if cell.tied else text
