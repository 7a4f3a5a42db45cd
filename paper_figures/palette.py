"""Colour, marker and dashes of every method and dataset: the same in all figures.

They follow from the name only. The colours keep a contrast of 3 on white and on the report's dark
page, and differ for the three kinds of colour blindness; methods that share a colour differ by
marker. Av-PBC, random pairs and the teacher are in every panel, so no other method looks like them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from results.labels import natural_order

INK = "#000000"
"""Colour of text and axes: in an SVG that of the page."""
ON_LIGHT, ON_DARK = "#101010", "#ffffff"
"""Colours of text on a coloured cell: the same on every page, as the cell is."""
NEUTRAL = "#808080"
BLUE = "#0072b2"
HUES = ("#d55e00", "#009e73", "#7d5bd0", "#d16ba5", "#7f6023")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (2.5, 1.2)))
DOTTED = (0, (1, 1.3))
FILLS = ("none", "left", "top")

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "unrolled": (
        "av_pbc", "pbc", "dbc", "sdw_obd", "truncated_av_pbc", "progressive_av_pbc",
    ),
    "kernel and implicit": ("frepo", "implicit_gradient", "rcig", "kernel_then_unrolled"),
    "parameter matching": ("gradient_matching", "trajectory_matching", "iadd"),
    "distribution matching": ("distribution_matching", "loss_matching"),
    "parameterised": ("generative_teaching",),
    "evolution": ("hades", "evolution_strategies", "ppmo", "synthetic_environment"),
    "selection": (
        "random", "kmeans_pp", "k_centre", "herding", "sdr", "top_q", "top_return", "gradient_omp",
        "pruned",
    ),
    "reference": ("teacher", "bc_whole"),
}  # fmt: skip
"""Family -> its methods. A new one comes last in its family, so that no other changes its look."""
VARIANTS = (
    "published", "relabelled", "scaled", "mean_one", "fixed_init", "fixed_init_published",
    "descent", "warm",
)  # fmt: skip
"""What presets of a method are called after its name. A new one comes last, as above."""
OTHER = "other methods"
COMMON = ("av_pbc", "random", "teacher")
"""Methods that are drawn in the panel of every family."""


@dataclass(frozen=True)
class Look:
    """Look of a method: colour, dashes, marker and how the marker is filled."""

    color: str
    linestyle: Any
    marker: str
    fillstyle: str = "full"

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a matplotlib line, with small markers."""
        return {
            "color": self.color, "linestyle": self.linestyle, "marker": self.marker,
            "fillstyle": self.fillstyle, "markersize": 3.5, "markeredgewidth": 0.8,
            "linewidth": 1.2,
        }  # fmt: skip

    @property
    def dots(self) -> dict[str, Any]:
        """Arguments of a matplotlib line for its markers only."""
        return self.line | {"linestyle": "none", "markersize": 4.5}


FIXED = {
    "av_pbc": Look(BLUE, "-", "o"),
    "random": Look(NEUTRAL, DOTTED, "p"),
    "teacher": Look(INK, "-", "*"),
    "bc_whole": Look(INK, DASHES[1], "D"),
}


def known(method: str) -> str:
    """Find the suite's method that this one is or, as a preset, begins with; "" if there is none.

    For example `av_pbc` of `av_pbc_published`.
    """
    names = [name for members in FAMILIES.values() for name in members]
    found = [name for name in names if method == name or method.startswith(f"{name}_")]
    return max(found, key=len, default="")


def family(method: str) -> str:
    """Name the family of a method; a plug-in's is `OTHER`."""
    name = known(method)
    return next((family for family, members in FAMILIES.items() if name in members), OTHER)


def family_order(method: str) -> int:
    """Place of a method's family among all, for rows in the order of families."""
    return (*FAMILIES, OTHER).index(family(method))


def look(method: str) -> Look:
    """Look of a method. A preset has its method's colour and marker, which is then not filled."""
    name = known(method)
    if not name:
        return _hashed(method)
    found = FIXED.get(name) or _placed(name)
    if name == method:
        return found
    suffix = method.removeprefix(f"{name}_")
    variant = VARIANTS.index(suffix) if suffix in VARIANTS else zlib.crc32(method.encode())
    dashes = [dash for dash in DASHES if dash != found.linestyle]
    return replace(
        found,
        linestyle=dashes[variant % len(dashes)],
        fillstyle=FILLS[variant // len(dashes) % len(FILLS)],
    )


def looks(methods: Mapping[str, str]) -> dict[str, Look]:
    """Look of every label of a figure.

    Args:
        methods: Label -> its method. Labels of one method share its colour and marker; the second
            and later ones, in natural order, are lighter, with other dashes and filling.
    """
    found: dict[str, Look] = {}
    for method in sorted(set(methods.values())):
        labels = sorted((x for x in methods if methods[x] == method), key=natural_order)
        found |= {label: _shade(look(method), i, len(labels)) for i, label in enumerate(labels)}
    return found


def _shade(first: Look, place: int, count: int) -> Look:
    if place == 0:
        return first
    fills, share = ("full", *FILLS), 0.5 * place / (count - 1)
    red, green, blue = ((1 - share) * part + share * 0.75 for part in to_rgb(first.color))
    dashes = (first.linestyle, *(dash for dash in DASHES if dash != first.linestyle))
    return Look(
        to_hex((red, green, blue)),
        dashes[place % len(dashes)],
        first.marker,
        fills[place % len(fills)],
    )


def _placed(name: str) -> Look:
    """Look by the place in the family.

    5 hues and 11 markers have no common factor: 55 numbers in a row look different, 7 per family.
    """
    for start, members in enumerate(FAMILIES.values()):
        if name in members:
            place = members.index(name)
            number = 7 * start + place
            hue, marker = HUES[number % len(HUES)], MARKERS[number % len(MARKERS)]
            return Look(hue, DASHES[place % len(DASHES)], marker)
    raise KeyError(name)


def _hashed(name: str) -> Look:
    """Look of a plug-in's method by a hash of its name."""
    number = zlib.crc32(name.encode())
    number, hue = divmod(number, len(HUES))
    number, marker = divmod(number, len(MARKERS))
    return Look(HUES[hue], DASHES[number % len(DASHES)], MARKERS[marker])


def by_family(methods: Mapping[str, str]) -> dict[str, list[str]]:
    """Group labels by the family of their method, families in the order of `FAMILIES`."""
    groups: dict[str, list[str]] = {name: [] for name in (*FAMILIES, OTHER)}
    for label in sorted(methods, key=natural_order):
        groups[family(methods[label])].append(label)
    return {name: labels for name, labels in groups.items() if labels}


DATASETS = {
    "medium-replay": Look(HUES[0], "-", "s"),
    "medium": Look(HUES[1], DASHES[1], "^"),
    "medium-expert": Look(BLUE, "-", "o"),
}


def dataset_look(name: str) -> Look:
    """Look of a kind of dataset, such as "medium-expert" or "hopper/medium-expert"."""
    kind = name.rpartition("/")[2]
    return DATASETS.get(kind) or _hashed(kind)


def on_color(color: Iterable[float]) -> str:
    """Colour of text that is read on a cell of this colour (red, green, blue from 0 to 1)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in list(color)[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return ON_DARK if luminance < 0.18 else ON_LIGHT
