"""Names become names of files: what cannot be one, or leads elsewhere, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.datasets.source import DatasetName
from benchmark.names import BadName, aligned, check_inside, check_name
from benchmark.registry import Registry

GOOD = ["tiny", "av_pbc", "2024-11-29", "a.b", "x+y", "größer", "_x", "comet", "a" * 100]
BAD = [
    "", ".", "..", "../x", "a/../x", "/x", "a/b", "a\\b", "-x", ".x", "x.", "a b", "a\nb", "a\0b",
    "a\x1b[31m", "a:b", "a*", "a?", 'a"', "<a>", "a|b", "$a", "a%b", "con", "NUL.json", "lpt1",
    "a" * 101, "字" * 90, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_name_of_one_part_is_given_back(name: str) -> None:
    assert check_name("The name", name) == name


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_name_a_file_everywhere_is_refused(name: str) -> None:
    with pytest.raises(BadName, match=r"The name is .* become names of files"):
        check_name("The name", name)


@pytest.mark.parametrize("name", ["a//b", "/a", "a/", "a/..", "../a", "a/./b", "a/-b", "a/con"])
def test_every_part_of_a_name_must_be_one(name: str) -> None:
    assert check_name("The name", "minari/mujoco/hopper/medium-v0", parts=True)
    with pytest.raises(BadName):
        check_name("The name", name, parts=True)


def test_a_registry_takes_no_name_that_leads_elsewhere() -> None:
    registry: Registry[object] = Registry("thing", "obdbench.no_such_group")
    with pytest.raises(BadName, match=r"The name of a thing of tests is '\.\./x'"):
        registry.register("../x", object(), origin="tests")
    assert list(registry) == []


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path) -> None:
    store, outside = tmp_path / "store", tmp_path / "outside"
    for folder in (store / "inner", outside):
        folder.mkdir(parents=True)
    (store / "link").symlink_to(outside)
    (store / "own").symlink_to(store / "inner")
    assert check_inside(store, store / "own" / "new") == store / "own" / "new"
    with pytest.raises(BadName, match=f"leads out of {store} to {outside}"):
        check_inside(store, store / "link" / "new")


@pytest.mark.parametrize("name", ["local/" + "a" * 250, "local/-x", "minari/-x-v0", "local/nul"])
def test_a_family_takes_no_name_that_cannot_name_a_folder(name: str) -> None:
    assert str(DatasetName.parse("local/x")) == "local/x"
    with pytest.raises(BadName, match="The name of a dataset is"):
        DatasetName.parse(name)


def test_columns_stand_below_each_other_and_no_text_steers_the_terminal() -> None:
    rows = [["cell", "n"], ["a\x1b[2J", "5"], ["two\nlines", "12"]]
    assert aligned(rows, "lr").split("\n") == [
        "cell        n",
        r"a\x1b[2J    5",
        "two lines  12",
    ]
