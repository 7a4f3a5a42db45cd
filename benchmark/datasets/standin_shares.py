"""Fit the shares that make stand-ins for D4RL's datasets, as `python -m` of this module does.

Every player plays the same number of transitions, whose moments are measured; shares of the players
follow by linear programming, so that the largest difference from the published moments is as small
as it can be. The result is shipped as `standin_shares.json`; only a new pool of players, or another
simulator, asks for it again. It takes minutes of one core per task.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from benchmark.datasets.collect import Part, collect
from benchmark.datasets.d4rl_facts import d4rl_statistics
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.snapshots import load_snapshots
from benchmark.datasets.standin import LARGEST_DIFFERENCE, OWN_NOISE, SHARES, SLOTS, Player, Players

NOISE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
"""Standard deviations on a teacher's action; the largest is nearly play of uniform actions."""
QUALITIES = ("medium-replay", "medium", "medium-expert")
LEAST = 1e-3
"""Smaller shares are left out."""


def pool(task: str) -> list[Player]:
    """Every player that may have a share, e.g. of "hopper"."""
    teachers = [f"{task}-{quality}-v2" for quality in QUALITIES]
    snapshots = range(load_snapshots(task).tensors["log_std"].shape[0])
    return [
        *(Player("teacher", which, noise) for which in teachers for noise in NOISE),
        *(Player("teacher", which, OWN_NOISE) for which in teachers),
        *(Player("snapshot", which, 0.0) for which in snapshots),
        *(Player("snapshot", which, OWN_NOISE) for which in snapshots),
    ]


def play(task: str, players: list[Player], transitions: int) -> list[NDArray[np.float32]]:
    """Observations `[transitions, obs_dim]` of every player."""
    played: Dataset = collect(
        f"{task} players",
        Players(f"{task}-medium-v2", players),
        [Part(place, transitions) for place in range(len(players))],
        seed=0,
        slots=SLOTS,
    )
    return list(played.observations.reshape(len(players), transitions, -1))


def fit_shares(
    observations: list[NDArray[np.float32]], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Find the shares whose mixture is nearest to the moments `mean` and `std` `[obs_dim]`.

    A mixture's mean, and its mean square about the published mean, are linear in the shares, so
    the smallest largest difference is a linear program. Where the mean is met within a tenth, that
    square is the variance but for a hundredth.

    Args:
        observations: Observations of each player `[n, obs_dim]`.

    Returns:
        Shares `[players]` that sum to 1, and the largest difference as a multiple of what is
        accepted: below 1 they are.
    """
    of_players = [(played.astype(np.float64) - mean) / std for played in observations]
    means = np.stack([z.mean(0) for z in of_players], axis=1) / LARGEST_DIFFERENCE
    # A standard deviation off by a tenth is a variance off by two.
    squares = np.stack([(z**2).mean(0) - 1 for z in of_players], axis=1) / (2 * LARGEST_DIFFERENCE)
    off = np.concatenate((means, squares))  # [2 obs_dim, players]
    largest = -np.ones((len(off), 1))
    count = len(observations)
    solved = linprog(
        [0.0] * count + [1.0],  # the largest difference, which both signs are below
        A_ub=np.block([[off, largest], [-off, largest]]), b_ub=np.zeros(2 * len(off)),
        A_eq=[[1.0] * count + [0.0]], b_eq=[1.0],
    )  # fmt: skip
    shares = np.where(solved.x[:count] < LEAST, 0, solved.x[:count])
    return shares / shares.sum(), float(np.abs(off @ (shares / shares.sum())).max())


def main(tasks: list[str], transitions: int = 10_000) -> None:
    """Fit the three stand-ins of every task, and write them next to this file."""
    path = Path(__file__).with_name(SHARES)
    shipped = json.loads(path.read_text("utf-8"))
    for task in tasks:
        players = pool(task)
        played = play(task, players, transitions)
        for quality in QUALITIES:
            name = f"{task}-{quality}-v2"
            shares, off = fit_shares(played, *map(np.array, d4rl_statistics(name)))
            print(f"{name}: the largest difference is {off:.2f} of what is accepted", flush=True)
            shipped[name] = [
                [player.kind, player.which, player.noise, round(float(share), 4)]
                for player, share in zip(players, shares, strict=True)
                if share
            ]
        rows = (f"  {json.dumps(n)}: [\n" + ",\n".join(f"    {json.dumps(r)}" for r in found)
                + "\n  ]" for n, found in shipped.items())  # fmt: skip
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or ["hopper"])
