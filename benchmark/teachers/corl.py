"""Import of the Cal-QL checkpoints of CORL.

Nothing of a checkpoint is run (`benchmark.torch_files`); the shapes and numbers of its networks are
checked. Numbers of another precision are converted to float32, and names lose what DataParallel and
torch.compile put into them; the teacher's facts say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.scaling import STD_FLOOR
from benchmark.teachers.teacher import Layers, NetworkTeacher, TeacherProblem
from benchmark.teachers.teacher_files import AUTHORS
from benchmark.torch_files import TorchFile, shown

_SAVE_AGAIN = (
    "Save only the state dictionaries: torch.save({'actor': actor.state_dict(), "
    "'critic1': critic_1.state_dict(), 'critic2': critic_2.state_dict()}, path)."
)
_FORMAT = TorchFile(TeacherProblem, "'actor', 'critic1' and 'critic2'", _SAVE_AGAIN)
_NETWORKS = ("actor", "critic1", "critic2")
_WRAPPERS = ("module", "_orig_mod")
"""Parts of names that DataParallel and torch.compile add, once per layer of wrapping."""
_SHELVES = ("state_dict", "model_state_dict", "model")
"""Keys under which others keep the state dictionaries."""
_DEEPEST = 4  # dictionaries within each other; a pickle may hold one that contains itself


def import_corl(
    path: Path,
    *,
    observation_mean: Sequence[float],
    observation_std: Sequence[float],
    facts: Mapping[str, Any],
) -> NetworkTeacher:
    """Import a Cal-QL checkpoint (`.pt`) of CORL; no code of the file is run.

    Args:
        path: The checkpoint: state dictionaries `actor` (tanh-Gaussian), `critic1` and `critic2`,
            or one dictionary of `actor.base_network.0.weight` and so on; perhaps in `state_dict`.
        observation_mean: Mean observation `[obs_dim]` of the dataset that the policy learned from.
        observation_std: Standard deviations `[obs_dim]` of the same dataset, as measured: 1e-3 is
            added here, as CORL does before it divides. See `benchmark.datasets.d4rl_facts`.
        facts: Further JSON values to keep with the teacher (dataset, environment, ...). `recipe`,
            `checkpoint`, `checkpoint_sha256`, `checkpoint_settings` and, where something was
            converted, `checkpoint_converted` are filled in here.

    Raises:
        TeacherProblem: The file cannot be read, holds more than tensors and plain containers, or
            its content does not fit together.
    """
    mean, std = _statistics(observation_mean, observation_std)
    content, sha256 = _FORMAT.read(path)
    checkpoint = _Checkpoint(path, content)
    actor = checkpoint.network("actor", "base_network", len(mean))
    outputs = len(actor[-1][1])
    if outputs % 2:
        raise TeacherProblem(
            f"The policy in {path} has {outputs} outputs, expected an even number: a mean and a "
            f"log standard deviation per action."
        )
    inputs = len(mean) + outputs // 2
    critics = [checkpoint.network(f"critic{i}", "network", inputs) for i in (1, 2)]
    shapes = [[tuple(weight.shape) for weight, _ in layers] for layers in critics]
    if shapes[0] != shapes[1] or shapes[0][-1][0] != 1:
        raise TeacherProblem(
            f"{path}: the weights of 'critic1' have shapes {shapes[0]}, those of 'critic2' "
            f"{shapes[1]}; expected the same, and 1 output."
        )
    constants = {
        name: float(checkpoint.tensor("actor", f"{name}.constant", 0))
        for name in ("log_std_multiplier", "log_std_offset")
    }
    said = [f"{change} ({count} times)" for change, count in checkpoint.converted.items()]
    converted = {"checkpoint_converted": ", ".join(said)} if said else {}
    return NetworkTeacher(
        actor=actor,
        critics=[
            (torch.stack(weights), torch.stack(biases))
            for weights, biases in (zip(*pair, strict=True) for pair in zip(*critics, strict=True))
        ],
        observation_mean=mean,
        observation_std=std + STD_FLOOR,
        action_noise="gaussian",
        facts={
            **facts,
            "recipe": AUTHORS,
            "checkpoint": path.name,
            "checkpoint_sha256": sha256,
            "checkpoint_settings": _settings(content),
            **converted,
        },
        **constants,
    )


class _Checkpoint:
    """The three networks of a loaded file, checked and converted as they are read.

    Attributes:
        path: The file, for messages.
        states: State dictionary of each network, by the names that CORL gives.
        converted: What was changed on the way, with the number of times.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.converted: Counter[str] = Counter()
        self.states: dict[str, dict[str, Any]] = {}
        for name, value in _leaves(content):
            parts = name.split(".")
            network, *rest = [p for p in parts if p not in (*_WRAPPERS, *_SHELVES)] or [""]
            if network not in _NETWORKS or not rest:
                continue
            state, key = self.states.setdefault(network, {}), ".".join(rest)
            if key in state:
                raise TeacherProblem(
                    f"{path} has {key!r} of {network!r} twice, the second time as {name[:80]!r}: "
                    f"which one is meant cannot be told. {_SAVE_AGAIN}"
                )
            state[key] = value
            self.converted.update(f"{p!r} removed from a name" for p in parts if p in _WRAPPERS)

    def network(self, name: str, module: str, inputs: int) -> Layers:
        """Weight `[out, in]` and bias `[out]` of every linear layer, with a ReLU between any two.

        Args:
            name: Key of the network's state dictionary, for example "actor".
            module: Prefix of its layers' keys; layer i has `module.{2 i}.weight` and `.bias`.
            inputs: Numbers that the first layer must take.
        """
        state = self.states.get(name)
        if state is None:
            value = self.content.get(name)
            found = f"a {type(value).__name__}" if name in self.content else "missing"
            raise TeacherProblem(
                f"{self.path}: {name!r} is {found}, expected a state dictionary of tensors by "
                f"name. The file has {shown(list(self.content))}. {_SAVE_AGAIN}"
            )
        layers: Layers = []
        unread = {key for key in state if key.startswith(f"{module}.")}
        while (layer := f"{module}.{2 * len(layers)}") + ".weight" in unread:
            weight = self.tensor(name, f"{layer}.weight", 2)
            bias = self.tensor(name, f"{layer}.bias", 1)
            if weight.shape != (len(bias), inputs):
                raise TeacherProblem(
                    f"{self.path}: {layer} of {name!r} has weight {tuple(weight.shape)} and bias "
                    f"{tuple(bias.shape)}, expected {inputs} inputs and a bias per output. An "
                    f"actor takes the observations, a critic the actions too: give the statistics "
                    f"of the dataset that the policy learned from."
                )
            layers.append((weight, bias))
            unread -= {f"{layer}.weight", f"{layer}.bias"}
            inputs = len(bias)
        if unread or not layers:
            raise TeacherProblem(
                f"{self.path}: {name!r} has no {layer + '.weight'!r}; expected linear layers "
                f"{module}.0, {module}.2, ... without a gap. Its keys: {shown(list(state))}."
            )
        return layers

    def tensor(self, network: str, key: str, dims: int) -> Tensor:
        """Check a finite tensor and copy it as float32, so that the file can be closed."""
        value = self.states[network].get(key)
        # A tensor that is not contiguous may repeat one number of the file 2^60 times.
        if not (
            isinstance(value, Tensor)
            and type(value) in (Tensor, torch.nn.Parameter)
            and value.layout == torch.strided
            and value.is_floating_point()
            and value.dim() == dims
            and value.numel() > 0
            and value.is_contiguous()
        ):
            found = f"a {type(value).__name__}" if key in self.states[network] else "missing"
            if isinstance(value, Tensor):
                dense = value.layout == torch.strided and value.is_contiguous()
                found = (
                    f"of shape {tuple(value.shape)}, type {value.dtype}"
                    f"{'' if dense else ', not contiguous'}"
                )
            raise TeacherProblem(
                f"{self.path}: {key!r} of {network!r} is {found}, expected a contiguous tensor of "
                f"floating-point numbers with {dims} dimensions, not empty."
            )
        if value.dtype != torch.float32:
            self.converted[f"{value.dtype} converted to torch.float32"] += 1
        single: Tensor = value.detach().to(torch.float32, copy=True)
        if bad := int((~single.isfinite()).sum()):
            cause = (
                "larger than float32 holds"
                if bool(value.isfinite().all())
                else "not finite: the training diverged"
            )
            raise TeacherProblem(
                f"{self.path}: {bad} of {value.numel()} numbers in {key!r} of {network!r} are "
                f"{cause}. Import an earlier checkpoint."
            )
        return single


def _settings(content: dict[str, Any]) -> dict[str, float]:
    """Steps and learning rates of the training, where the checkpoint says them."""
    found: dict[str, float] = {}
    for key, value in content.items():
        match key, value:
            case "total_it", int():
                found["steps"] = value
            case str(), {"param_groups": [{"lr": float(rate)}, *_]}:
                found[f"{key[:80]}.lr"] = rate
    return found


def _leaves(content: dict[Any, Any], depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Dotted name and value of what is in the dictionaries of networks, wherever they stand."""
    known = {*_NETWORKS, *_WRAPPERS, *_SHELVES}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, dict) and depth <= _DEEPEST and known.issuperset(key.split(".")):
            yield from ((f"{key}.{name}", leaf) for name, leaf in _leaves(value, depth + 1))
        else:
            yield key, value


def _statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    means, stds = (torch.tensor(values, dtype=torch.float32) for values in (mean, std))
    valid = means.dim() == 1 and means.shape == stds.shape and bool(means.isfinite().all())
    if not valid or not bool((stds.isfinite() & (stds >= 0)).all()):
        raise TeacherProblem(
            f"The observation mean {tuple(means.shape)} and std {tuple(stds.shape)} must be finite "
            f"and of one length, the std not negative. Take them from the dataset that the policy "
            f"learned from."
        )
    return means, stds
