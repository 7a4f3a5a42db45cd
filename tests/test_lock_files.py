"""What `make setup` installs: pinned, with a hash of every file, and nothing is built for it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = [f"requirements{kind}.lock" for kind in ("", ".cpu", ".cuda", ".images", ".jax")]


def entries(name: str) -> dict[str, list[str]]:
    """Pinned packages of a lock file, with the hashes of each."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        pinned = re.match(r"([\w.-]+)==[\w.+]+( |$)", line)
        assert pinned, line
        found[canonical(pinned[1])] = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_and_has_hashes(name: str) -> None:
    found = entries(name)
    assert {"torch", "mlxtend"} & found.keys() or len(found) > 20
    assert [package for package, hashes in found.items() if not hashes] == []


def test_it_holds_everything_that_the_suite_and_its_build_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asked = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    assert {canonical(requirement) for requirement in asked} - entries(
        "requirements.lock"
    ).keys() == set()


@pytest.mark.parametrize("extra", ["images", "jax"])
def test_an_extra_has_a_file_of_its_own_beside_the_suites_packages(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    asked = {canonical(name) for name in project["project"]["optional-dependencies"][extra]}
    own = entries(f"requirements.{extra}.lock").keys()
    assert asked <= own
    assert not own & entries("requirements.lock").keys()


def test_setup_installs_nothing_without_a_hash() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    setup = makefile[makefile.index("$(STAMP): requirements.lock") :].partition("\n\n")[0]
    installs = [line for line in setup.splitlines() if re.search(r"install|HASHED", line)]
    assert "--require-hashes --no-deps --only-binary :all:" in makefile
    assert [("$(HASHED) -r" in line) or ("--no-deps --no-build-isolation -e ." in line)
            for line in installs if "pip" in line.lower()] == [True] * 4  # fmt: skip
