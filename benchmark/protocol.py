"""Protocols: how a synthetic set is scored, and which checkpoints count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmark.config import BadConfiguration, convert_fields
from benchmark.errors import did_you_mean

Actions = Literal["mode", "sampled"]


@dataclass(frozen=True)
class Protocol:
    """How a synthetic set is scored, and which checkpoints count.

    Args:
        name: Name under which records and tables show the protocol.
        students: Policies trained on the set, each from its own initialisation.
        episodes: Episodes that each policy plays.
        checkpoint_every: Outer steps between scored checkpoints.
        last: Number of last checkpoints whose mean is the run's score; the set that a method starts
            from (outer step 0) counts only where there is no other.
        leave_out: Number of checkpoints after those, at the end of the run, that do not count.
        ensemble: Students that act together, by the mean of their actions (OBD, Table 3, takes 10).
            `students` then counts ensembles.
        actions: "mode" for each policy's deterministic action, or "sampled" for draws from its
            distribution, as HaDES evaluates.
    """

    name: str
    students: int
    episodes: int
    checkpoint_every: int
    last: int
    ensemble: int = 1
    leave_out: int = 0
    actions: Actions = "mode"

    def __post_init__(self) -> None:
        convert_fields(self, f"the protocol {self.name!r}")
        for field in ("students", "episodes", "checkpoint_every", "last", "ensemble"):
            if getattr(self, field) < 1:
                raise BadConfiguration(
                    f"{field} of the protocol {self.name!r} is {getattr(self, field)}; expected 1 "
                    f"or more."
                )
        if self.leave_out < 0:
            raise BadConfiguration(
                f"leave_out of the protocol {self.name!r} is {self.leave_out}; expected 0 or more."
            )
        if self.actions == "sampled" and self.ensemble > 1:
            raise BadConfiguration(
                f"The protocol {self.name!r} samples the actions of ensembles, whose mean action "
                f'has no distribution; expected ensemble = 1, or actions = "mode".'
            )

    def due(self, step: int, total: int) -> bool:
        """Whether a method of `total` outer steps is scored at `step`."""
        return step % self.checkpoint_every == 0 or step == total


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # OBD, Section 5: every 1,000 outer steps, 10 policies x 10 episodes, last five.
        Protocol("obd", students=10, episodes=10, checkpoint_every=1000, last=5),
        # The published code: the last two evaluations are left out; of those before them the last
        # five of Av-PBC count, and the last ten of DBC and PBC.
        Protocol(
            "obd_official", students=10, episodes=10, checkpoint_every=1000, last=5, leave_out=2
        ),
        Protocol(
            "obd_official_10", students=10, episodes=10, checkpoint_every=1000, last=10, leave_out=2
        ),
        # HaDES's code: sampled actions in 4 environments at a time on Brax, in 8 on MinAtar. It
        # reports the population's mean; here ten fresh students of the set itself play.
        Protocol("hades", students=10, episodes=4, checkpoint_every=500, last=1, actions="sampled"),
        Protocol(
            "hades_minatar",
            students=10,
            episodes=8,
            checkpoint_every=500,
            last=1,
            actions="sampled",
        ),
        Protocol("quick", students=4, episodes=10, checkpoint_every=200, last=3),
        Protocol("smoke", students=2, episodes=2, checkpoint_every=5, last=1),
    )
}


def protocol_named(name: str) -> Protocol:
    """A built-in protocol.

    Raises:
        BadConfiguration: No protocol has that name.
    """
    if name not in PROTOCOLS:
        raise BadConfiguration(f"No protocol is called {name!r}. {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]
