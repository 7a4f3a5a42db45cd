"""Figures as SVG: for a page, light or dark, and as files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from paper_figures.figure import (
    SETTINGS,
    canvas,
    fill_bands,
    finish,
    page_svg,
    plain_numbers,
    write_figure,
)
from paper_figures.palette import INK
from results.statistics import Estimate, mean
from tests.paper_figures.test_palette import contrast

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def drawn(title: str = "A < B", caption: str = "5 & 6 seeds", y: float = 3.0) -> Figure:
    with mpl.rc_context(SETTINGS):
        figure = canvas(3.0, 2.0)
        axes = figure.add_subplot()
        axes.plot([1, 2], [1, y], color=INK, marker="o")
        axes.plot([1, 2], [2, y], color="#d55e00", label="<b>&$x$")
        axes.set_ylabel("score", weight="bold")
        axes.legend()
        return finish(figure, title, caption)


def parsed(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(page_svg(figure))


def test_an_svg_has_a_shape_and_no_size_of_its_own() -> None:
    svg = parsed(drawn())
    assert svg.get("width") == "100%" and svg.get("height") is None
    left, top, width, height = map(float, svg.get("viewBox", "").split())
    assert (left, width, height) == (0, 216, 144)
    assert top > 0, "the title's strip is cut away"


def test_title_and_caption_are_its_name_and_description_and_are_not_drawn() -> None:
    svg = parsed(drawn())
    assert svg.get("role") == "img"
    name, text = svg.get("aria-labelledby", "").split()
    found = {element.get("id"): element.text for element in svg.iter()}
    assert (found[name], found[text]) == ("A < B", "5 & 6 seeds")
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    assert "A < B" not in texts
    assert {"score", "<b>&$x$"} <= set(texts), "text is text, and a name is never code"


def test_black_is_the_pages_colour_and_nothing_hides_the_page() -> None:
    svg = parsed(drawn())
    assert svg.get("fill") == "currentColor"
    styles = [element.get("style", "") for element in svg.iter()]
    assert not [style for style in styles if "#000000" in style or "#ffffff" in style]
    assert any("stroke: currentColor" in style for style in styles)
    assert any("stroke: #d55e00" in style for style in styles)
    assert not [style for style in styles if "family" in style or "DejaVu" in style]
    assert any("font-weight: 700" in style for style in styles)
    assert not list(svg.iter(f"{SVG}style")), "a style element would hold for the whole page"


def test_two_figures_on_a_page_share_no_id_and_each_finds_its_own() -> None:
    ids = []
    for y in (3.0, 4.0):
        svg = parsed(drawn(y=y))
        own = {element.get("id") for element in svg.iter() if element.get("id")}
        used = {element.get(HREF, "")[1:] for element in svg.iter() if element.get(HREF)}
        clips = {e.get("clip-path", "")[5:-1] for e in svg.iter() if e.get("clip-path")}
        assert used and clips
        assert used | clips <= own
        ids.append(own)
    assert not ids[0] & ids[1]


def test_the_same_figure_gives_the_same_svg_and_is_left_as_it_was(tmp_path: Path) -> None:
    figure = drawn()
    assert page_svg(figure) == page_svg(figure) == page_svg(drawn())
    write_figure(figure, tmp_path / "after.png")
    write_figure(drawn(), tmp_path / "fresh.png")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "fresh.png").read_bytes()


def test_an_svg_file_has_title_and_caption_and_is_dark_where_its_reader_is(tmp_path: Path) -> None:
    write_figure(drawn(), tmp_path / "one.svg")
    svg = ElementTree.parse(tmp_path / "one.svg").getroot()
    assert {"A < B", "5 & 6 seeds"} <= {element.text for element in svg.iter(f"{SVG}text")}
    (style,) = svg.iter(f"{SVG}style")
    light, dark = str(style.text).split("@media (prefers-color-scheme:dark)")
    for rules in (light, dark):  # a browser's own ground is white in the dark too
        found = dict(re.findall(r"[{;](color|background):(#\w+)", rules))
        assert contrast(found["color"], found["background"]) > 12


def test_logarithmic_ticks_are_plain_numbers(tmp_path: Path) -> None:
    with mpl.rc_context(SETTINGS):
        figure = canvas(3.0, 2.0)
        axes = figure.add_subplot()
        axes.plot([0.01, 100], [0.2, 0.5])
        axes.set(xscale="log", yscale="log")
        plain_numbers(axes)
        finish(figure, "logarithms", "")
    texts = [element.text for element in parsed(figure).iter(f"{SVG}text")]
    assert {"0.01", "100"} <= set(texts)
    assert not [text for text in texts if "$" in str(text)]


@pytest.mark.parametrize("ending", [".pdf", ".png", ".svg"])
def test_a_figure_that_cannot_be_written_leaves_no_part_of_a_file(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_figure(drawn(), tmp_path / f"one{ending}")
    assert not list(tmp_path.iterdir())


def test_bands_lie_between_the_ends_of_intervals_and_end_where_there_is_none() -> None:
    one, two, alone = mean([1.0, 2.0]), mean([4.0, 8.0]), mean([3.0])
    axes = canvas(3.0, 2.0).add_subplot()
    fill_bands(
        axes, [([0, 1, 2, 3, 4], [one, two, alone, two, one], "#ff0000"), ([0], [alone], "#000000")]
    )
    (bands,) = axes.collections
    corners = [{(x, y) for x, y in path.vertices.tolist()} for path in bands.get_paths()]

    def ends(at: float, found: Estimate) -> set[tuple[float, float]]:
        return {(at, found.low), (at, found.high)}

    assert corners == [ends(0, one) | ends(1, two), ends(3, two) | ends(4, one)]
    assert bands.get_facecolor().tolist() == [[1.0, 0.0, 0.0, 0.12]] * 2
