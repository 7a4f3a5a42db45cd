"""The list of mutations fits the tree as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation, Rotten, attempt


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_can_be_applied_and_names_tests_that_exist(mutation: Mutation) -> None:
    assert compile(mutation.applied(), mutation.file, "exec")
    assert all((ROOT / test).is_file() for test in mutation.tests)


@pytest.mark.parametrize("text", ["", "x = 1\ny = 1\n"])
def test_a_text_that_is_not_there_once_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    mutation = Mutation("a one", "a.py", "= 1", "= 2", ())
    with pytest.raises(Rotten, match="Change the mutation with the code"):
        mutation.applied(tmp_path)


def test_what_is_caught_fails_a_test_and_the_file_is_whole_again(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test_a.py").write_text("from a import x\ndef test_x():\n    assert x < 3\n")
    verdicts = {
        new: attempt(Mutation("x", "a.py", "x = 1", new, ("test_a.py",)), tmp_path)
        for new in ("x = 5", "x = 2", "x =")
    }
    assert verdicts["x = 5"] == "caught"
    assert verdicts["x = 2"] == "survived"
    assert "not tried" in verdicts["x ="]
    assert (tmp_path / "a.py").read_text() == "x = 1\n"
