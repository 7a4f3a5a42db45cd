"""docs/methods.md: a row for every method that the suite registers, and none for another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_method_has_a_row_by_its_name_or_by_the_ending_of_its_presets() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    methods = set(project["entry-points"]["obdbench.methods"])
    page = (ROOT / "docs" / "methods.md").read_text()
    first = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(\*?\w+)`", first))
    endings = tuple(name.removeprefix("*") for name in named if name.startswith("*"))
    assert {name for name in methods if not name.endswith(endings)} == {
        name for name in named if not name.startswith("*")
    }
