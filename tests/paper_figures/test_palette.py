"""Looks of methods: one each, told apart on every page and by every eye."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from benchmark.method import METHODS
from paper_figures.palette import (
    BLUE,
    COMMON,
    DATASETS,
    FAMILIES,
    HUES,
    INK,
    ON_DARK,
    OTHER,
    Look,
    by_family,
    family,
    look,
    looks,
    on_color,
)

SUITE = [name for name in METHODS if METHODS.origin(name) == "obdbench"]
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#14181d"
# Machado et al. 2009, severity 1, on linear red, green, blue.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.0890]])


def linear(color: str) -> np.ndarray:
    parts = np.array(to_rgb(color))
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of contrast."""
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB of linear light under D65."""
    xyz = TO_XYZ @ light.clip(0, 1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distinct(one: Look) -> tuple[object, ...]:
    return one.color, one.marker, one.fillstyle, one.linestyle


def test_every_method_of_the_suite_has_a_family_and_a_look_of_its_own() -> None:
    assert OTHER not in {family(name) for name in SUITE}
    assert set(itertools.chain(*FAMILIES.values())) <= set(SUITE)
    for one, other in itertools.combinations(SUITE, 2):
        assert distinct(look(one)) != distinct(look(other)), (one, other)


def test_methods_are_told_apart_without_dashes_and_in_a_family_without_colour() -> None:
    every = list(itertools.chain(*FAMILIES.values()))
    assert len({(look(name).color, look(name).marker) for name in every}) == len(every)
    for members in FAMILIES.values():
        drawn = {*members, *COMMON}
        assert len({look(name).marker for name in members}) == len(members)
        common = {look(name).color for name in COMMON}
        assert not common & {look(name).color for name in drawn - {*COMMON, "bc_whole"}}


def test_a_preset_has_its_methods_colour_and_marker_not_filled() -> None:
    for preset in ("av_pbc_published", "herding_relabelled", "hades_fixed_init"):
        method = look(preset.rpartition("_")[0] if "fixed" not in preset else "hades")
        found = look(preset)
        assert (found.color, found.marker) == (method.color, method.marker)
        assert found.fillstyle != "full" and found.linestyle != method.linestyle


def test_a_plug_ins_look_follows_from_its_name_only() -> None:
    assert look("somebodys_method") == look("somebodys_method")
    looks_of_many = {distinct(look(f"plugin_{i}")) for i in range(30)}
    assert len(looks_of_many) > 25
    assert family("somebodys_method") == OTHER
    assert look("pbcx") != look("pbc"), "a name that begins alike is not a preset"
    assert look("pbcx").fillstyle == "full"


def test_labels_of_one_method_share_colour_family_and_marker_and_differ() -> None:
    names = [f"hades (synthetic_size={size})" for size in (4, 16, 64, 256)]
    found = looks(dict.fromkeys(names, "hades") | {"pbc": "pbc"})
    assert found[names[0]] == look("hades"), "the first in natural order"
    assert found["pbc"] == look("pbc")
    assert {found[name].marker for name in names} == {look("hades").marker}
    assert len({distinct(found[name]) for name in names}) == 4


@pytest.mark.parametrize("color", [BLUE, *HUES])
def test_colours_can_be_seen_on_a_light_and_on_a_dark_page(color: str) -> None:
    assert contrast(color, LIGHT_PAGE) >= 3
    assert contrast(color, DARK_PAGE) >= 3


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_differ_for_colour_blind_readers(deficiency: str) -> None:
    seen = np.array(DEFICIENCIES[deficiency])
    for one, other in itertools.combinations([BLUE, *HUES], 2):
        away = np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(other)))
        assert away > 10, (one, other)


@pytest.mark.parametrize("cell", ["#ffffff", "#440154", "#fde725", "#808080", "#d55e00", "#000000"])
def test_text_on_a_coloured_cell_can_be_read_and_does_not_follow_the_page(cell: str) -> None:
    text = on_color(to_rgb(cell))
    assert text != INK
    assert contrast(text, cell) >= 4.5
    assert (text == ON_DARK) == (contrast("#ffffff", cell) > contrast("#101010", cell))


def test_families_have_their_order_and_only_those_with_labels() -> None:
    found = by_family({"x": "somebodys", "random": "random", "b": "dbc", "a": "pbc"})
    assert found == {"unrolled": ["a", "b"], "selection": ["random"], OTHER: ["x"]}


def test_kinds_of_datasets_have_looks_of_their_own() -> None:
    assert len({(one.color, one.marker) for one in DATASETS.values()}) == 3
