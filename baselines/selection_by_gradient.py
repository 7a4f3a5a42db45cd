"""Selection of weighted pairs whose gradient is the data's, by orthogonal matching pursuit.

Source: the abstract of ReDOR (arXiv 2502.18955), whose weighted subset approximates the gradient on
the whole data. With g_i the gradient of pair i's BC loss and G the mean of g_i over the data:

    repeat:
        r = G - sum over chosen j of w_j g_j
        choose the pair with the largest <g_i, r>
        w = argmin over w >= 0 of |G - sum over chosen j of w_j g_j|^2

The abstract says neither which parameters the gradients are taken in, nor where. Ours are those of
the last layer, of several students that were cloned from minibatches of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from baselines.matching import BCLoss, Clones, RealPairs, require_plain
from baselines.selection import BLOCK, Selection, draw_rows, require_available
from benchmark.method import BadParameter, Monitor, Problem, require_positive
from benchmark.students.heads import bc_loss_gradient
from benchmark.students.spec import StudentSpec


@dataclass(frozen=True)
class GradientOMP(Selection):
    """Chooses pairs by orthogonal matching pursuit on gradients, and weights them.

    Args:
        probes: Students whose gradients are matched, all at once.
        probe_steps: Steps that they are trained on the data for, by their own optimiser.
        probe_batch: Transitions per minibatch of that training.
        candidates: Transitions to choose among, drawn uniformly; the gradient that is approximated
            is that of all data.
        labels: Whose actions a pair carries; "teacher" is the teacher's deterministic action, which
            the gradients are taken with too, and not a mean of `teacher_samples`.
    """

    tiny: ClassVar[dict[str, Any]] = {"probe_steps": 3, "probe_batch": 8}
    probes: int = 4
    probe_steps: int = 100
    probe_batch: int = 256
    candidates: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "probes", "probe_steps", "probe_batch")
        if self.candidates < self.synthetic_size:
            raise BadParameter(
                f"candidates is {self.candidates}; expected at least {self.synthetic_size}, the "
                f"pairs to choose (synthetic_size)."
            )

    @property
    def version(self) -> int:  # type: ignore[override]
        """2 with the teacher's labels, which were means of its draws before."""
        return 2 if self.labels == "teacher" else 1

    def require_student(self, student: StudentSpec) -> None:
        """Probes are trained as the students of matching methods."""
        require_plain(self, student)

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`, in the order of the pursuit."""
        return self.pursue(problem)[0]

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Choose, weight and label the pairs; the run has this one checkpoint."""
        require_available(problem, self.synthetic_size)
        rows, weights, error = self.pursue(problem)
        monitor.note(gradient_error=error, pairs_without_weight=float((weights == 0).sum()))
        monitor.checkpoint(0, replace(self.labelled(problem, rows), weights=weights))

    def pursue(self, problem: Problem) -> tuple[Tensor, Tensor, float]:
        """Rows `[N]` and weights `[N]` of the chosen pairs, and |G - sum w g| / |G|."""
        real = RealPairs(self, problem)
        probes = self.trained_probes(problem, real)
        candidates = draw_rows(problem, self.candidates)
        atoms = last_layer(probes, real.observations[candidates], real.actions[candidates])
        target = torch.zeros(())
        for rows in torch.split(torch.arange(len(real.actions)), BLOCK):
            block = last_layer(probes, real.observations[rows], real.actions[rows])
            target = target + block.combined(torch.full((len(rows),), 1 / len(real.actions)))
        chosen, weights = matching_pursuit(atoms, target, self.synthetic_size)
        error = (target - atoms.only(chosen).combined(weights)).norm() / target.norm()
        return candidates[chosen], weights, float(error)

    def _teacher_labels(self, problem: Problem, observations: Tensor) -> Tensor:
        """The teacher's deterministic actions, whose gradients were pursued."""
        return problem.teacher.act(observations)

    def trained_probes(self, problem: Problem, real: RealPairs) -> Clones:
        """Fresh students after a short cloning of the data, in minibatches."""
        generator = problem.generator("probes")
        probes = Clones(problem, BCLoss(problem, generator), self.probes)
        for _ in range(self.probe_steps):
            probes.learn(*real.batch(self.probe_batch, generator, self.probes))
        return probes


class LastLayer(NamedTuple):
    """Gradients of M pairs in the last layers of P students, as outer products of two factors.

    deltas `[P, M, outputs]` are the derivatives of each pair's loss in the outputs, inputs
    `[P, M, width + 1]` the last hidden layer and a 1, whose product is the bias's.
    """

    deltas: Tensor
    inputs: Tensor

    def only(self, rows: Sequence[int]) -> LastLayer:
        """The gradients of these pairs."""
        return LastLayer(self.deltas[:, rows], self.inputs[:, rows])

    def combined(self, weights: Tensor) -> Tensor:
        """Weighted sum of the gradients `[P, outputs, width + 1]`."""
        return (self.deltas * weights[:, None]).mT @ self.inputs

    def along(self, direction: Tensor) -> Tensor:
        """Product `[M]` of each pair's gradient with a direction `[P, outputs, width + 1]`."""
        return ((self.deltas @ direction) * self.inputs).sum((0, 2))

    def products(self, other: LastLayer) -> Tensor:
        """Products of each pair's gradient with each of another's `[M, M']`."""
        return ((self.deltas @ other.deltas.mT) * (self.inputs @ other.inputs.mT)).sum(0)


@torch.no_grad()
def last_layer(probes: Clones, observations: Tensor, actions: Tensor) -> LastLayer:
    """Gradients of the pairs' BC losses, without action noise, in the probes' last layers."""
    network, head, device = probes.loss.network, probes.loss.head, probes.loss.device
    count = len(probes.parameters[0][0])
    targets = actions.to(device).expand(count, -1, -1)
    levels = network.forward(probes.parameters, observations.to(device).expand(count, -1, -1))
    noise = torch.zeros_like(targets) if head.noisy else None
    loss = bc_loss_gradient(head, levels.outputs, targets, noise)
    inputs = levels.inputs[network.depth - 1]
    one = torch.ones_like(inputs[..., :1])
    # The loss is a mean over pairs: times their number, the derivatives are those of each pair's.
    deltas = loss.outputs * len(actions)
    return LastLayer(deltas.cpu(), torch.cat((inputs, one), dim=-1).cpu())


def matching_pursuit(atoms: LastLayer, target: Tensor, size: int) -> tuple[list[int], Tensor]:
    """Choose `size` atoms; give their indices and weights `[size]`, 0 or more."""
    rows: list[int] = []
    weights, residual = torch.zeros(0), target
    products = torch.zeros(size, size, dtype=torch.float64)
    onto = atoms.along(target).double()
    while len(rows) < size:
        fit = atoms.along(residual)
        fit[rows] = -torch.inf
        rows.append(int(fit.argmax()))
        count = len(rows)
        products[count - 1, :count] = atoms.only(rows[-1:]).products(atoms.only(rows))[0]
        weights = _weights(products[:count, :count], onto[rows])
        residual = target - atoms.only(rows).combined(weights)
    return rows, weights


def _weights(products: Tensor, onto: Tensor) -> Tensor:
    """argmin over w >= 0 of w'Pw - 2 w'p, from the lower half of P `[n, n]`, and p `[n]`."""
    # With P = L L', that is |L'w - L^-1 p|^2. A millionth of the mean of P's diagonal keeps L
    # regular where pairs are copies of one another.
    ridge = 1e-6 * products.diagonal().mean() * torch.eye(len(onto), dtype=torch.float64)
    lower = torch.linalg.cholesky(products + ridge)
    found, _ = nnls(lower.mT.numpy(), solve_triangular(lower.numpy(), onto.numpy(), lower=True))
    return torch.from_numpy(found).float()
