"""OBD's Figure 2: distilled states as MuJoCo draws them, and the states that follow.

Offline Behavior Distillation (arXiv 2410.22728), Figure 2. The environment is put into a distilled
state (its position along the track, which no observation has, is 0) and the distilled action is
taken; the pictures are taken off-screen, by EGL unless MUJOCO_GL names another renderer.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray
from PIL import Image

from benchmark.environments.lookup import find_specification
from benchmark.errors import ObdBenchError
from paper_figures.studies.study import Row, Study, finished_runs, finished_set, one_per_dataset


class CannotRender(ObdBenchError):
    """MuJoCo cannot draw without a screen here."""


@dataclass(frozen=True)
class RenderedStates(Study):
    """Pictures of some distilled states and of the states after some steps of their actions.

    Args:
        sweep, method, seed: Runs whose sets are drawn: one seed, not the best one.
        count: Number of pairs per set, spread evenly over it.
        steps: Steps after which pictures are taken, while the distilled action is held.
        width, height: Size of a picture in pixels.
    """

    shows: ClassVar[str] = "Distilled states and those that follow, drawn (arXiv 2410.22728)."
    sweep: str = "all_methods"
    method: str = "av_pbc"
    seed: int = 0
    count: int = 4
    steps: tuple[int, ...] = (0, 1, 3)
    width: int = 200
    height: int = 150

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per dataset of a MuJoCo environment."""
        return one_per_dataset(
            record
            for record in finished_runs(store, self.sweep)
            if record.spec.method == self.method
            and record.spec.seed == self.seed
            and not record.spec.dataset.startswith("cartpole")
        )

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Draw one row per picture: the pair, the steps taken, the picture as PNG in base64."""
        found = finished_set(store, source)
        chosen = np.linspace(0, len(found.pairs) - 1, self.count).round().astype(int)
        environment = drawn_environment(found.environment, self.width, self.height)
        rows: list[Row] = []
        try:
            for pair in chosen.tolist():
                observation = found.pairs.observations[pair].double().numpy()
                action = found.pairs.actions[pair].numpy()
                space = cast(gymnasium.spaces.Box, environment.action_space)
                put_into(environment, observation)
                for step in range(max(self.steps) + 1):
                    if step in self.steps:
                        rows.append({"pair": pair, "step": step, "picture": _png(environment)})
                    environment.step(np.clip(action, space.low, space.high))
        finally:
            environment.close()
        return rows


def drawn_environment(env_id: str, width: int, height: int) -> gymnasium.Env[Any, Any]:
    """Make and reset an environment that can be drawn without a screen.

    Raises:
        CannotRender: No renderer works here.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        environment = gymnasium.make(
            find_specification(env_id), render_mode="rgb_array", width=width, height=height
        ).unwrapped
        environment.reset(seed=0)
        environment.render()
    except Exception as error:  # OpenGL's bindings raise whatever they like
        raise CannotRender(
            f"MuJoCo cannot draw {env_id} with MUJOCO_GL={os.environ['MUJOCO_GL']} "
            f"({type(error).__name__}: {error}). Install Mesa (Debian: libegl1 libgl1-mesa-dri), "
            f"or set MUJOCO_GL to egl, osmesa or glfw."
        ) from error
    return environment


def put_into(environment: gymnasium.Env[Any, Any], observation: NDArray[np.float64]) -> None:
    """Put a MuJoCo environment into the state that an observation `[obs_dim]` shows.

    Raises:
        ObdBenchError: Observations do not determine the state, as they are not all positions but
            the first and all velocities.
    """
    mujoco = cast(MujocoEnv, environment)
    nq, nv = mujoco.model.nq, mujoco.model.nv
    if observation.shape != (nq - 1 + nv,):
        raise ObdBenchError(
            f"An observation of {len(observation)} numbers does not determine the state of "
            f"{mujoco.spec.id if mujoco.spec else 'the environment'}, which has {nq} positions and "
            f"{nv} velocities; expected all but the first position, {nq - 1 + nv} numbers."
        )
    positions = np.concatenate([[0.0], observation[: nq - 1]])
    mujoco.set_state(positions, observation[nq - 1 :])  # type: ignore[no-untyped-call]


def _png(environment: gymnasium.Env[Any, Any]) -> str:
    """Encode the camera's picture as PNG in base64."""
    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(environment.render()))
    picture.quantize(64).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
