"""Masked autoregressive flow (Papamakarios et al. 2017, arXiv 1705.07057), built from zuko.

The densities that SDW-OBD's authors published come from such a flow (`github.com/LeavesLei/
stepwise_dual_ranking`, which uses `github.com/kamenbliznashki/normalizing_flows`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmark.density.density import (
    Density,
    DensityProblem,
    DensityRecipe,
    FitProgress,
    check_states,
)
from benchmark.density.flow import MaskedAutoregressiveFlow
from benchmark.density.flow_gradient import FlowGradient
from benchmark.seeds import derive_seed, torch_generator
from benchmark.state import load_state, save_state
from benchmark.threads import torch_threads

CHUNK = 4_096
"""States scored at once, so that a block's hidden layer fits in a core's cache."""


@dataclass(frozen=True)
class MAF(DensityRecipe):
    """Masked autoregressive flow on zuko; all defaults but `hidden_layers` are the papers' flow's.

    Args:
        blocks: Number of MADE blocks, each followed by batch normalisation; the order of the
            features is reversed from block to block.
        hidden_layers: ReLU layers per block. The code that the papers' flow comes from counts
            products between hidden layers: its "1" is 2 here, as in `maf_published`.
        width: Units per hidden layer.
        learning_rate: Adam's learning rate.
        weight_decay: Factor of the parameters that is added to their gradient (L2).
        batch_size: States per step.
        epochs: Passes over the states, each in a new order; the incomplete batch at the end of a
            pass is left out.
    """

    blocks: int = 5
    hidden_layers: int = 1
    width: int = 100
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    batch_size: int = 100
    epochs: int = 50

    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Maximise the likelihood by Adam for `epochs`; held-out states do not stop it earlier."""
        check_states(observations)
        self._check(observations)
        trainer = _Trainer(self, observations.float(), seed)
        epoch = trainer.restore(state) if state is not None and state.exists() else 0
        while epoch < self.epochs:
            trainer.epoch(epoch)
            epoch += 1
            if state is not None:
                trainer.save(state, epoch)
            if progress:
                density = FlowDensity(trainer.flow)
                score = None if held_out is None else float(density.log_prob(held_out).mean())
                progress(epoch, self.epochs, score)
        return FlowDensity(trainer.flow)

    def _check(self, observations: Tensor) -> None:
        for name, value in asdict(self).items():
            if value < 0 or (value == 0 and name not in ("weight_decay", "epochs")):
                raise DensityProblem(f"{name} of MAF is {value}; expected a positive number.")
        count, width = observations.shape
        if width < 2 or count < 2:
            raise DensityProblem(
                f"A masked autoregressive flow needs 2 or more states of 2 or more dimensions; got "
                f"{count} of {width}. Use the recipe 'kde'."
            )


@dataclass(frozen=True)
class PublishedMAF(MAF):
    """Masked autoregressive flow with the two hidden layers per block of the papers' flow.

    Two things still differ from that code: its blocks compute (x - m) exp(-a), these x exp(a) + m
    with |a| < 6.9; and its batch normalisation divides squares by B - 1, this one by B.
    """

    hidden_layers: int = 2


@dataclass(frozen=True)
class FlowDensity:
    """A trained flow, with the running statistics of its batch normalisation."""

    flow: MaskedAutoregressiveFlow

    @torch_threads(1)
    @torch.no_grad()
    def log_prob(self, observations: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Compute log p `[B]` in float64; a flow stores no states, so `rows` has no effect."""
        check_states(observations, self.flow.features)
        self.flow.eval()
        dtype = next(self.flow.parameters()).dtype
        return torch.cat(
            [self.flow.log_prob(x.to(dtype)) for x in torch.split(observations, CHUNK)]
        )


class _Trainer:
    """One fit: the flow, its gradient, its optimiser and the states."""

    def __init__(self, recipe: MAF, observations: Tensor, seed: int) -> None:
        self.recipe, self.observations, self.seed = recipe, observations, seed
        count, features = observations.shape
        self.batch_size = min(recipe.batch_size, count)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(density="maf", seed=seed, purpose="initialisation"))
            self.flow = MaskedAutoregressiveFlow(
                features, recipe.blocks, (recipe.width,) * recipe.hidden_layers
            )
        self.flow.to(observations.dtype)
        self.gradient = FlowGradient(self.flow, self.batch_size)
        vector, decay = self.gradient.vector, recipe.weight_decay
        self.optimizer = torch.optim.Adam(
            [vector], recipe.learning_rate, weight_decay=decay, fused=True
        )

    @torch_threads(1)
    def epoch(self, epoch: int) -> None:
        """Do one pass over the states in a new order.

        Raises:
            DensityProblem: The parameters are no longer finite.
        """
        generator = torch_generator(density="maf", seed=self.seed, epoch=epoch, purpose="order")
        order = torch.randperm(len(self.observations), generator=generator)
        steps = len(order) // self.batch_size
        states = self.observations[order[: steps * self.batch_size]]
        # [steps, obs_dim, B], as `FlowGradient` reads a batch
        batches = states.view(steps, self.batch_size, -1).transpose(1, 2).contiguous()
        for batch in batches:
            self.gradient.compute(batch)
            self.optimizer.step()
        if not self.gradient.vector.isfinite().all():
            raise DensityProblem(
                f"The flow diverged in epoch {epoch + 1}: its parameters are not finite. Fit it "
                f"with a learning rate below {self.recipe.learning_rate:g}."
            )

    def save(self, path: Path, epoch: int) -> None:
        """Write the flow and Adam's slots; the next epoch's order derives from its number."""
        slots = self.optimizer.state_dict()["state"].get(0, {})
        tensors = {f"adam/{name}": slot for name, slot in slots.items()}
        tensors |= {f"flow/{name}": value for name, value in self.flow.state_dict().items()}
        save_state(path, tensors, {"epoch": epoch})

    def restore(self, path: Path) -> int:
        """Load a saved state; return the number of epochs done."""
        tensors, facts = load_state(path)
        kinds: dict[str, dict[str, Tensor]] = {"adam": {}, "flow": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = value
        self.flow.load_state_dict(kinds["flow"])  # copies into the views of the gradient's vector
        groups = self.optimizer.state_dict()["param_groups"]
        state = {0: kinds["adam"]} if kinds["adam"] else {}
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        return int(facts["epoch"])
