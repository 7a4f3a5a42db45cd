"""A table that can be printed, pasted, typeset or shown in a notebook: one content, five forms."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
from rich import table as rich_table
from rich.text import Text

from benchmark.files import write_atomic
from benchmark.names import aligned, visible

DAGGER = "\u2020"
NOTHING = "\u2013"
_FORMULA = ("=", "+", "-", "@", "\t")
"""How a text begins that a spreadsheet may take for a formula."""

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
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

    ``alignment`` has one letter per column, "l" or "r". ``data`` is what `csv` writes: unrounded,
    one row per cell.
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
        """Unrounded numbers as comma-separated values; empty where there is none."""
        return csv_text(self.data)

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``<name>.md``, ``.csv`` and ``.tex`` into a folder, and return their paths."""
        forms = {"md": self.markdown(), "csv": self.csv(), "tex": self.latex()}
        for ending, content in forms.items():
            write_atomic(folder / f"{name}.{ending}", content)
        return [folder / f"{name}.{ending}" for ending in forms]

    def latex(self) -> str:
        """LaTeX: a ``table*`` float that needs the packages booktabs and graphicx."""
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

    def rich(self) -> rich_table.Table:
        """Table for the terminal."""
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

    def text(self) -> str:
        """Plain lines, for a table that is longer than a terminal shows at once."""
        rows = [[_rich_cell(cell).plain for cell in row] for group in self.groups for row in group]
        return f"{aligned([self.columns, *rows], self.alignment)}\n{self.caption}"

    def headed_text(self) -> str:
        """Plain lines; the first cell of a group is a line above its rows instead of a column."""
        rows = [[_rich_cell(cell).plain for cell in row[1:]] for g in self.groups for row in g]
        lines = iter(aligned([self.columns[1:], *rows], self.alignment[1:]).split("\n"))
        text = [next(lines)]
        for group in filter(None, self.groups):
            heading = visible(_rich_cell(group[0][0]).plain, one_line=True)
            text += ["", heading, *islice(lines, len(group))]
        return "\n".join([*text, "", self.caption]).lstrip()

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        """HTML for notebooks: a body per group, and the caption below the table."""
        bodies = ["".join(map(self._html_row, group)) for group in self.groups]
        return (
            '<table>\n<caption style="caption-side: bottom; text-align: left">'
            f"{html.escape(self.caption)}</caption>\n"
            f"<thead>\n{self._html_row(map(Cell, self.columns), 'th')}</thead>\n"
            + "".join(f"<tbody>\n{body}</tbody>\n" for body in bodies)
            + "</table>\n"
        )

    def _html_row(self, row: Iterable[Cell], tag: str = "td") -> str:
        sides = {"l": "left", "r": "right"}
        elements = (
            f'<{tag} style="text-align: {sides[side]}">{_html_cell(cell)}</{tag}>'
            for cell, side in zip(row, self.alignment, strict=True)
        )
        return f"<tr>{''.join(elements)}</tr>\n"


def estimate_cell(
    value: float, low: float, high: float, *, decimals: int = 1, sign: str = ""
) -> Cell:
    """Cell of an estimate, with its interval as detail unless that is NaN.

    Args:
        value: Estimate.
        low: Lower end of its interval.
        high: Upper end.
        decimals: Digits after the point.
        sign: "+" shows the sign of positive values.
    """

    def rounded(number: float, sign: str = "") -> str:
        return f"{round(number, decimals) + 0.0:{sign}.{decimals}f}"  # + 0.0 turns -0.0 into 0.0

    detail = "" if math.isnan(low) else f"[{rounded(low)}, {rounded(high)}]"
    return Cell(rounded(value, sign), detail)


def csv_text(frame: pd.DataFrame) -> str:
    """Comma-separated values with a head; numbers are not rounded.

    A text that a spreadsheet would compute (`=cmd...`) gets an apostrophe in front; a number never.
    """
    texts = frame.select_dtypes(["object", "string"]).map(_not_a_formula, na_action="ignore")
    return str(frame.assign(**texts).to_csv(index=False, lineterminator="\n"))


def _not_a_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    value = visible(value, one_line=True)
    if not value.lstrip(" ").startswith(_FORMULA):
        return value
    try:
        _ = [float(part) for part in value.split()]  # the scores of seeds, in one cell
    except ValueError:
        return f"'{value}"
    return value


def escape_latex(text: str) -> str:
    """Escape text for LaTeX; a hyphen before a number becomes a minus sign."""
    text = visible(text, one_line=True)
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)


def _latex_row(row: Sequence[Cell]) -> str:
    text = " & ".join(_latex_cell(cell) for cell in row)
    # After the end of a row LaTeX takes "[" and "*" for options of the end.
    return f"{'{}' if text.startswith(('[', '*')) else ''}{text} \\\\"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.best else text
    text += f" {{\\scriptsize {escape_latex(cell.detail)}}}" if cell.detail else ""
    return text + (_LATEX[DAGGER] if cell.tied else "")


def _markdown_text(text: str) -> str:
    # Brackets are those of intervals nearly everywhere; only "](" makes a link or a picture.
    text = re.sub(r"([\\|*<`$])", r"\\\1", visible(text, one_line=True))
    return text.replace("](", "]\\(")


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    text = f"**{text}**" if cell.best else text
    text += f" {_markdown_text(cell.detail)}" if cell.detail else ""
    return text + (DAGGER if cell.tied else "")


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.best else text
    text += f" <small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    return text + (DAGGER if cell.tied else "")


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.text, style="bold" if cell.best else "")
    if cell.detail:
        text.append(f" {cell.detail}", style="not bold dim")
    return text.append(DAGGER) if cell.tied else text
