"""A pool of students that learn the set while it is distilled (FRePo, arXiv 2206.00719, 4.2).

A student of the pool is never trained to the end: at a turn it takes a few steps of Adam on the
pairs as they are, and after its last turn a fresh one takes its place. So the pairs are held to
students of all ages, and no training is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.adaptive_pairs import AdaptiveRun, direction
from benchmark.students.heads import bc_loss_gradient, squared_error_head
from benchmark.students.network import Parameters


class StudentPool:
    """P students of one run, saved and resumed with it.

    Args:
        run: The run, whose problem gives the network and every draw.
        size: P.
        turns: Turns of a student before a fresh one takes its place. The first ones are staggered
            by P: student i begins with i * turns // P of them behind it.
        steps: Steps of Adam per turn.
        learning_rate: Learning rate of these.
    """

    def __init__(
        self, run: AdaptiveRun, *, size: int, turns: int, steps: int, learning_rate: float
    ) -> None:
        self.problem, self.turns, self.steps = run.problem, turns, steps
        self.learning_rate = learning_rate
        self.network = run.problem.student.network(
            run.problem.observation_dim, run.problem.action_dim
        )
        self.head = squared_error_head(run.problem.student.policy_head)
        self.size = size
        names = ("pool_parameters", "pool_first_moment", "pool_second_moment", "pool_turns")
        if run.resumed is None:
            drawn = torch.stack([self._fresh("first student", i) for i in range(size)])
            values = [drawn, torch.zeros_like(drawn), torch.zeros_like(drawn)]
            # Turns taken, and those that it was given at its start, which Adam does not count.
            behind = torch.arange(size) * turns // size
            values.append(torch.stack((behind, behind), dim=1))
        else:
            values = [run.resumed.tensors[name].clone() for name in names]
        self.parameters, self.first, self.second, self.taken = values
        run.also_saved |= dict(zip(names, values, strict=True))

    def draw(self, step: int) -> int:
        """Draw the student of an outer step."""
        generator = self.problem.generator("student of the pool", step)
        return int(torch.randint(self.size, (), generator=generator))

    def student(self, index: int) -> Parameters:
        """Parameters of one student, with a runs axis of 1: views of the pool's memory."""
        return unflattened(self.parameters[index], self.network.layer_sizes)

    @torch.no_grad()
    def take_turn(self, index: int, observations: Tensor, actions: Tensor, step: int) -> None:
        """Train a student on pairs `[1, N, ...]`; give its place to a fresh one when it is old."""
        generator = self.problem.generator("turn in the pool", step)
        done = self.steps * int(self.taken[index, 0] - self.taken[index, 1])
        parameters = self.student(index)
        for count in range(done, done + self.steps):
            noise = torch.randn(actions.shape, generator=generator) if self.head.noisy else None
            levels = self.network.forward(parameters, observations)
            loss = bc_loss_gradient(self.head, levels.outputs, actions, noise)
            deltas = self.network.backward(parameters, levels, loss.outputs)
            gradient = flattened(self.network.gradients(levels, deltas))
            along = direction("adam", gradient, self.first[index], self.second[index], count + 1)
            self.parameters[index].sub_(along, alpha=self.learning_rate)
        self.taken[index, 0] += 1
        if self.taken[index, 0] >= self.turns:
            self.parameters[index] = self._fresh("next student", step)
            for values in (self.first, self.second, self.taken):
                values[index] = 0

    def _fresh(self, purpose: str, step: int) -> Tensor:
        return flattened(self.network.initialise(self.problem.generator(purpose, step)))


def flattened(parameters: Parameters) -> Tensor:
    """All parameters of one student in one row: weight, bias, weight, bias, ..."""
    return torch.cat([tensor.flatten() for layer in parameters for tensor in layer])


def unflattened(row: Tensor, sizes: Sequence[tuple[int, int]]) -> Parameters:
    """Undo `flattened` for layers of these (in, out): views of the row, with a runs axis of 1."""
    layers = []
    for fan_in, fan_out in sizes:
        weight, bias, row = row.tensor_split((fan_in * fan_out, (fan_in + 1) * fan_out))
        layers.append((weight.view(1, fan_out, fan_in), bias.view(1, 1, fan_out)))
    return layers
