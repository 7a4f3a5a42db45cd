"""Long work goes on from exactly what it saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark.errors import ObdBenchError
from benchmark.state import load_state, save_state


def test_tensors_and_facts_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "pairs": torch.randn(3, 4, dtype=torch.float64),
        "momentum": torch.randn(2, 5).requires_grad_(),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "mask": torch.tensor([True, False]),
        "step": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
    }
    facts = {"step": 12, "losses": [0.1, None], "nested": {"name": "größer", "flag": True}}
    path = tmp_path / "run" / "state.safetensors"

    save_state(path, tensors, facts)
    loaded, loaded_facts = load_state(path)

    assert loaded_facts == facts
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize("case", ["same tensor", "overlapping views"])
def test_tensors_that_share_memory_are_each_saved(tmp_path: Path, case: str) -> None:
    base = torch.arange(12.0).reshape(4, 3)
    tensors: dict[str, Tensor] = (
        {"best": base, "current": base} if case == "same tensor" else {"a": base[:3], "b": base[1:]}
    )

    save_state(tmp_path / "state.safetensors", tensors, {})

    loaded, _ = load_state(tmp_path / "state.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_saving_that_fails_leaves_the_previous_state(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"step": torch.tensor(1)}, {"step": 1})

    with pytest.raises(TypeError):
        save_state(path, {"step": torch.tensor(2)}, {"step": object()})

    tensors, facts = load_state(path)
    assert facts == {"step": 1} and int(tensors["step"]) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", ["missing", "text", "truncated", "no facts", "empty", "a bit"])
def test_unreadable_state_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"pairs": torch.randn(100)}, {"step": 1})
    match case:
        case "missing":
            path.unlink()
        case "text":
            path.write_text("not a state at all, but long enough to hold a header")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-50])
        case "no facts":
            save_file({"pairs": torch.zeros(1)}, path)
        case "empty":
            path.write_bytes(b"")
        case "a bit":  # going on from it would give other numbers without a word
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(ObdBenchError) as error:
        load_state(path)
    assert str(path) in str(error.value)
    assert "Remove it to start that work anew." in str(error.value)
