"""Command lines as a new user might type them, and files as others might have written them.

    python -m tests.fault_campaign [--show] [WORD ...]    only kinds that have one of the words

Every situation is tried in this process, in a folder of its own, and must end in a sentence that
says what to do next: exit status 1 or 2, something on the error stream, and no traceback. The
table says how many of each kind did; the exit status is 1 where one did not. `--show` prints what
each was told.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import torch

from tests.commands import Ended, command
from tests.d4rl_files import made_up, write_file

DATASET = "hopper/medium@300"
SWEEP = f"""
name = "tiny"
datasets = ["{DATASET}"]
seeds = 1
protocol = {{name = "tiny", students = 1, episodes = 1, checkpoint_every = 2, last = 1}}
student = {{width = 8, depth = 2, steps = 2}}
methods = [{{name = "random", synthetic_size = 4}}]
"""
HUGE = str(10**30)
IMPORT = "--as local/x --environment Hopper-v5"
RETURNS = f"{IMPORT} --reference-random"
BRIEF = f"teacher train {DATASET} --steps 1 --set width=2 --episodes"
CARTPOLE = "--as local/x --environment CartPole-v1 --reference-random 22 --reference-expert 500"
D4RL = "--dataset d4rl/hopper-medium-v2"


@dataclass(frozen=True)
class Situation:
    """What is typed, and what it must say.

    Args:
        kind: Group of situations that it is counted in.
        words: The command line without `obdbench`; `@@` stands for the campaign's folder, `_|_`
            for a space within a word, and two quotation marks for an empty one.
        says: A part of the message, where the campaign holds it to one.
        statuses: Exit statuses that are right.
    """

    kind: str
    words: str
    says: str = ""
    statuses: tuple[int, ...] = (1, 2)

    def arguments(self, folder: Path) -> list[str]:
        """The words as a shell would pass them."""
        spelled = (word.replace("''", "").replace("_|_", " ") for word in self.words.split())
        return [word.replace("@@", str(folder)) for word in spelled]


def fault(ended: Ended, situation: Situation) -> str:
    """What is wrong with the end of a situation; "" where it is as it must be."""
    said = ended.out + ended.err
    if ended.escaped:
        return f"traceback: {ended.escaped}"
    if ended.status not in situation.statuses:
        return f"status {ended.status}, expected one of {situation.statuses}"
    if ended.status and not said.strip():
        return "no message"
    if situation.says not in " ".join(said.split()):
        return f"does not say {situation.says!r}: {' '.join(ended.err.split())[-300:]}"
    return ""


def main(words: list[str]) -> int:
    """Try the situations that are asked for, and print the table."""
    show, words = "--show" in words, [word for word in words if word != "--show"]
    chosen = [s for s in SITUATIONS if not words or any(word in s.kind for word in words)]
    with tempfile.TemporaryDirectory() as name, prepared(Path(name)) as folder:
        results = []
        for situation in chosen:
            found = command(*situation.arguments(folder))
            results.append((situation, fault(found, situation)))
            if show:
                said = " ".join((found.err or found.out).split())[:400]
                print(f"obdbench {situation.words}\n    {found.status}: {said}", flush=True)
    for situation, wrong in results:
        if wrong:
            print(f"obdbench {situation.words}\n    {wrong}")
    print(f"{'kind':<40} {'tried':>5} {'tracebacks':>10} {'ok':>5}")
    for kind in dict.fromkeys(s.kind for s, _ in results):
        faults = [wrong for s, wrong in results if s.kind == kind]
        traces = sum(wrong.startswith("traceback") for wrong in faults)
        print(f"{kind:<40} {len(faults):>5} {traces:>10} {faults.count(''):>5}")
    return int(any(wrong for _, wrong in results))


@contextlib.contextmanager
def prepared(folder: Path) -> Iterator[Path]:
    """A folder with a small dataset, a sweep of one run that is done, and files that are wrong."""
    own = {
        "MINARI_DATASETS_PATH": str(folder / "datasets"),
        "OBDBENCH_CACHE": str(folder / "cache"),
        "OBDBENCH_STORE": str(folder / "runs"),
        "OBDBENCH_D4RL_MIRROR": "http://127.0.0.1:9",  # nothing answers there
        "COLUMNS": "160",
    }
    here = Path.cwd()
    with mock.patch.dict(os.environ, own):
        try:
            os.chdir(folder)
            _write_files(folder)
            command("data", "build", DATASET)
            command("sweep", folder / "tiny.toml", "--jobs", "1")
            yield folder
        finally:
            os.chdir(here)


def _write_files(folder: Path) -> None:
    (folder / "tiny.toml").write_text(SWEEP)
    (folder / "folder").mkdir()
    (folder / "folder.toml").mkdir()
    (folder / "folder.hdf5").mkdir()
    (folder / "empty").write_bytes(b"")
    (folder / "empty.toml").write_text("")
    (folder / "text").write_text("<html>Please log in</html>")
    (folder / "plugin.txt").write_text("x = 1")
    (folder / "broken.py").write_text("1 / 0")
    (folder / "syntax.py").write_text("def (")
    (folder / "bytes.toml").write_bytes(b"name = '\xff'")
    (folder / "sound.hdf5").touch()
    write_file(folder / "sound.hdf5", made_up([20, 30, 10], "ton"))
    np.save(folder / "values.npy", np.zeros(7))
    np.savez(folder / "values.npz", np.zeros(7))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    for name, change in FILES.items():
        arrays = made_up([20, 30, 10], "ton")
        change(arrays)
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
    state = {"base_network.0.weight": torch.zeros(6, 11), "base_network.0.bias": torch.zeros(6)}
    critic = {"network.0.weight": torch.zeros(1, 14), "network.0.bias": torch.zeros(1)}
    state |= {f"log_std_{name}.constant": torch.zeros(()) for name in ("multiplier", "offset")}
    sound = {"actor": state, "critic1": critic, "critic2": critic}
    for name, content in {
        "list": [1, 2],
        "no_actor": {"critic1": critic, "critic2": critic},
        "whole_numbers": {**sound, "actor": {k: v.int() for k, v in state.items()}},
        "numpy": {**sound, "actor": {k: v.numpy() for k, v in state.items()}},
        "nan": {**sound, "actor": {k: v + torch.nan for k, v in state.items()}},
        "twice": {**sound, "actor": {**state, "module.base_network.0.bias": torch.zeros(6)}},
        "module": torch.nn.Linear(2, 2),
    }.items():
        torch.save(content, folder / f"{name}.pt")


KEPT = (
    "data build hopper/medium --size 1000000000000000",
    "data build hopper/medium@301 --seed -1",
    f"data describe {DATASET} --folder @@/text",
    f"data import @@/action_half.hdf5 {CARTPOLE}",
    f"data import @@/half_flags.hdf5 {IMPORT}",
    f"data import @@/sound.hdf5 {RETURNS} -inf --reference-expert 1",
    f"density fit {DATASET} --epochs 0",
    f"density fit {DATASET} --seed -1",
    f"density import @@/empty --dataset {DATASET}",
    "new-method mine --folder @@/text",
    "report tiny --to @@/folder",
    "report tiny --to @@/text/x.html",
    "run dbc Hopper/Medium",
    f"run random {DATASET} --store @@/text",
    "sweep quickstart.toml",
    "sweep tiny --share ²/3",
    "sweep tiny --threads 1000000000",
    "collect tiny --wait --poll -1",
    f"teacher eval {DATASET} --episodes 0",
    f"teacher import @@/numpy.pt {D4RL}",
    f"teacher train {DATASET} --device tpu",
    f"teacher train {DATASET} --seed -1",
    f"teacher train {DATASET} --set learning_rate=-1",
    f"{BRIEF} 1 --target @@/folder",
)
"""Command lines that found a fault once; a test tries them every time."""


Change = Callable[[dict[str, np.ndarray]], object]


def _with(**changed: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda arrays: arrays.update({key: f(arrays[key]) for key, f in changed.items()})


FILES: dict[str, Change] = {
    "no_rewards": lambda arrays: arrays.pop("rewards"),
    "half_flags": _with(terminals=lambda x: x + 0.5),
    "nan": _with(observations=lambda x: x * np.nan),
    "words": _with(rewards=lambda x: x.astype("S3")),
    "short": _with(actions=lambda x: x[:-1]),
    "no_ends": _with(terminals=lambda x: x & False, timeouts=lambda x: x & False),
    "pixels": _with(observations=lambda x: x.reshape(60, 11, 1)),
    "other_actions": _with(actions=lambda x: x[:, :2]),
    "action_two": _with(observations=lambda x: x[:, :4], actions=lambda x: np.full(60, 2)),
    "action_half": _with(observations=lambda x: x[:, :4], actions=lambda x: np.full((60, 1), 0.5)),
    "no_rows": lambda arrays: arrays.update({key: x[:0] for key, x in arrays.items()}),
    "scalar": _with(rewards=lambda x: np.float32(1)),
}

SITUATIONS = [
    *(
        Situation("words: commands that are none", words)
        for words in (
            "swep", "rum dbc hopper/medium", "data", "data lst", "teacher", "teacher trian",
            "density", "help", "--halp", "-v", "run --help=1", "quickstart", "make", "data/list",
            "SWEEP quickstart", "sweep", "run", "run dbc", "submit", "plan", "status", "table",
            "report", "collect", "cancel", "verify", "export", "new-method", "check-method",
            "study", "data info", "data fetch", "data import", "data train-policies",
            "teacher import", "teacher train", "density fit", "density import",
            "artefacts import", "artefacts import hades",
        )
    ),
    *(
        Situation("words: options that are none", words)
        for words in (
            "run dbc hopper/medium --steps 3", "sweep quickstart --job 2", "list --jsn",
            "sweep quickstart --workers 2", "data build --al", "data build hopper/medium --n 5",
            "sweep quickstart --jobs", "run dbc hopper/medium --seed", "table tiny --format csv",
            "report tiny --out x.html", "export x --formt npz", "list av_pbc dbc",
            "run dbc hopper/medium extra", "sweep quickstart second", "status tiny tiny",
        )
    ),
    *(
        Situation("names: wrong, swapped, other spelling", words, says)
        for words, says in (
            ("run hopper/medium dbc", "No method is called 'hopper/medium'"),
            ("run DBC hopper/medium", "Did you mean 'dbc'"),
            ("run av-pbc hopper/medium", "Did you mean 'av_pbc'"),
            ("run av_|_pbc hopper/medium", "Did you mean 'av_pbc'"),
            ("run '' hopper/medium", "No method is called ''"),
            ("run dbc ''", "No dataset is called ''"),
            ("run dbc Hopper/Medium", "Did you mean 'hopper/medium'"),
            ("run dbc hopper/medium/", "Did you mean 'hopper/medium'"),
            ("run dbc hopper-medium", "Did you mean 'hopper/medium'"),
            ("run dbc hopper", "obdbench data list"),
            ("run dbc hopper/medium@", "size"),
            ("run dbc hopper/medium@-5", ""),
            ("run dbc hopper/medium@1e5", ""),
            ("run dbc hopper/medium@2@3", ""),
            ("run dbc d4rl/hopper-medium", "d4rl/hopper-medium-v2"),
            ("run dbc d4rl/", ""),
            ("run dbc local/", ""),
            ("run dbc minari/", "minari/ID"),
            ("run dbc minari/hopper", "minari/ID"),
            ("run dbc mujoco/hopper/medium-v0", "minari/..."),
            ("run dbc @@/sound.hdf5", ""),
            ("sweep Quickstart", "Did you mean 'quickstart'"),
            ("sweep quickstart/", "Did you mean 'quickstart'"),
            ("sweep quickstart.toml", "obdbench sweep quickstart"),
            ("sweep ''", ""),
            ("sweep @@/tiny", ""),
            ("sweep @@/folder", ""),
            ("sweep @@/nowhere.toml", "does not exist"),
            ("sweep @@/folder.toml", ""),
            ("sweep @@/empty.toml", ""),
            ("sweep @@/text", ""),
            ("sweep @@/bytes.toml", "is not TOML"),
            ("plan tinny", "Did you mean"),
            ("status tiny.toml", "Did you mean 'tiny'"),
            ("status Tiny", "Did you mean 'tiny'"),
            ("status tiny/", "names become names of files"),
            ("status ''", ""),
            ("status ../tiny", ""),
            ("table tinny", "Did you mean 'tiny'"),
            ("report tinny", "Did you mean 'tiny'"),
            ("collect tinny", "Did you mean 'tiny'"),
            ("cancel tinny", "Did you mean 'tiny'"),
            ("table quickstart", "No sweep 'quickstart' was started"),
            ("verify tiny", ""),
            ("verify ''", ""),
            ("verify @@/runs", ""),
            ("verify nowhere.random.0.seed0", "has a record in"),
            ("export tiny", ""),
            ("export @@/empty", ""),
            ("list Av_PBC", "Did you mean 'av_pbc'"),
            ("list ''", "obdbench list"),
            ("list nothing-like-that", "obdbench list"),
            ("study transfr", "Did you mean 'transfer'"),
            ("paper obd-figur-1", "Did you mean 'obd-figure-1'"),
            ("paper all", ""),
            ("check-method av_pbcc", "Did you mean 'av_pbc'"),
            ("check-method @@/nowhere.py", ""),
            ("check-method @@/folder", ""),
            ("check-method @@/broken.py", "ZeroDivisionError"),
            ("check-method @@/syntax.py", "SyntaxError"),
            ("new-method ''", ""),
            ("new-method My_|_Method", ""),
            ("new-method 1method", ""),
            ("new-method av_pbc", ""),
            ("new-method class", ""),
            ("--plugin @@/nowhere.py list", "is not a file"),
            ("--plugin @@/plugin.txt list", "expected a .py file"),
            ("--plugin @@/folder list", "is not a file"),
            ("--plugin @@/broken.py list", "ZeroDivisionError"),
            ("--plugin @@/syntax.py list", "SyntaxError"),
            ("data build hoper/medium", "Did you mean 'hopper/medium'"),
            ("data build", "--all"),
            ("data build hopper/medium --all", "--all"),
            ("data build hopper/medium@5 --size 6", "only one"),
            ("data build d4rl/hopper-medium-v2", ""),
            ("data build local/x", "obdbench data import"),
            ("data info hopper/medium", "obdbench data build hopper/medium"),
            ("data info local/x", "obdbench data import"),
            ("data describe", "--all"),
            (f"data describe {DATASET} --table @@/x.html", ".md"),
            (f"data describe {DATASET} --density knnn", "Did you mean 'knn'"),
            ("data describe nowhere", "obdbench data list"),
            ("data fetch hopper/medium", ""),
            ("data fetch d4rl/hopper-medium-v9", "Did you mean"),
            ("data fetch d4rl/hopper-medium-v2 --mirror nowhere", ""),
            ("data fetch d4rl/hopper-medium-v2 --mirror http://", ""),
            ("data fetch minari/x-v0 --mirror http://127.0.0.1:9", "--mirror is for D4RL"),
            ("data train-policies hoper --folder @@/policies", "Did you mean 'hopper'"),
            ("data train-policies Nowhere-v0 --folder @@/policies", "not registered"),
            (f"teacher train {DATASET} --recipe td3bc", "Did you mean 'td3_bc'"),
            (f"teacher train {DATASET} --set widht=4", "Did you mean 'width'"),
            (f"teacher train {DATASET} --set width", "key=value"),
            (f"teacher train {DATASET} --set width=x", "expected"),
            (f"teacher train {DATASET} --set =4", "Unknown key ''"),
            (f"teacher train {DATASET} --device tpu", ""),
            ("teacher train nowhere", "obdbench data list"),
            ("teacher eval", "--all"),
            (f"teacher eval {DATASET} --recipe iql", "iql"),
            (f"teacher eval {DATASET} --recipe td3_bc:x", "td3_bc:1"),
            (f"teacher eval {DATASET} --recipe ''", ""),
            (f"density fit {DATASET} --recipe mafs", "Did you mean 'maf'"),
            ("density fit nowhere", "obdbench data list"),
            (f"density fit {DATASET} --recipe imported", "density import"),
        )
    ),
    *(
        Situation("numbers: zero, negative, huge, none", words, says)
        for words, says in (
            ("run dbc hopper/medium --seed -1", ""),
            (f"run dbc hopper/medium --seed {HUGE}", ""),
            ("run dbc hopper/medium --seed 1.5", ""),
            ("run dbc hopper/medium --seed x", ""),
            ("run dbc hopper/medium --set outer_steps=0", "expected 1 or more"),
            ("run dbc hopper/medium --set outer_steps=-1", "expected 1 or more"),
            (f"run random {DATASET} --set synthetic_size=0", "expected 1 or more"),
            (f"run random {DATASET} --set synthetic_size=-4", "expected 1 or more"),
            (f"run random {DATASET} --set synthetic_size={10**12}", ""),
            ("run dbc hopper/medium --set outer_learning_rate=nan", ""),
            ("run dbc hopper/medium --set outer_learning_rate=inf", "finite"),
            ("run dbc hopper/medium --set student.width=0", "expected 1 or more"),
            ("run dbc hopper/medium --set student.depth=-1", "expected 1 or more"),
            ("run dbc hopper/medium --set student.steps=0", "expected 1 or more"),
            ("run dbc hopper/medium --set =", ""),
            ("sweep tiny --jobs 0", "expected 1 or more"),
            ("sweep tiny --jobs -3", "expected 1 or more"),
            ("sweep tiny --threads 0", ""),
            ("sweep tiny --threads -1", ""),
            (f"sweep tiny --threads {10**9}", ""),
            ("sweep tiny --pack 0", ""),
            ("sweep tiny --pack -1", ""),
            ("sweep tiny --share 1", "0/8"),
            ("sweep tiny --share 8/8", "0/8"),
            ("sweep tiny --share 1/0", "0/8"),
            ("sweep tiny --share -1/2", "0/8"),
            ("sweep tiny --share ''", "0/8"),
            ("sweep tiny --share a/b", "0/8"),
            ("sweep tiny --share ²/3", "0/8"),
            ("sweep tiny --share 1/2 --jobs 4", "expected 1"),
            ("sweep tiny --device gpu", "cpu"),
            ("sweep tiny --device ''", "cpu"),
            ("sweep tiny --retry yes", "--retry takes 'failed'"),
            ("submit tiny --threads 0", ""),
            ("submit tiny --profile nowhere", "No profile is called"),
            ("submit tiny --profile @@/nowhere.toml", "cannot be read"),
            ("submit tiny --profile @@/folder", "No profile is called"),
            ("submit tiny --profile @@/folder.toml", "cannot be read"),
            ("submit tiny --profile ''", "No profile is called"),
            ("plan tiny --profile nowhere", "No profile is called"),
            ("collect tiny --wait --poll 0", ""),
            ("collect tiny --wait --poll -1", ""),
            ("data build hopper/medium --size 0", "positive"),
            ("data build hopper/medium --size -1", "positive"),
            (f"data build hopper/medium --size {10**15}", ""),
            (f"data build hopper/medium --size {HUGE}", ""),
            ("data build hopper/medium --size 1.5", ""),
            (f"data build {DATASET} --seed -1", ""),
            ("data build hopper/medium@301 --seed -1", ""),
            (f"data build hopper/medium@301 --seed {HUGE}", ""),
            (f"data import @@/sound.hdf5 {RETURNS} nan --reference-expert 1", ""),
            (f"data import @@/sound.hdf5 {RETURNS} -inf --reference-expert 1", ""),
            (f"data import @@/sound.hdf5 {RETURNS} 0 --reference-expert inf", ""),
            (f"data import @@/sound.hdf5 {RETURNS} 2 --reference-expert 1", ""),
            (f"data import @@/sound.hdf5 {RETURNS} 2", "give both"),
            (f"data import @@/sound.hdf5 {RETURNS} x", ""),
            ("data train-policies hopper --folder @@/policies --steps 0", ""),
            ("data train-policies hopper --folder @@/policies --steps -1", ""),
            (f"teacher train {DATASET} --steps 0", "steps"),
            (f"teacher train {DATASET} --steps -1", "steps"),
            (f"teacher train {DATASET} --seed -1", ""),
            (f"teacher train {DATASET} --seed {HUGE}", ""),
            (f"{BRIEF} 0", ""),
            (f"{BRIEF} -1", ""),
            (f"teacher train {DATASET} --set width=0", ""),
            (f"teacher train {DATASET} --set batch_size=0", ""),
            (f"teacher train {DATASET} --set learning_rate=-1", ""),
            (f"teacher train {DATASET} --set discount=2", ""),
            (f"teacher import @@/list.pt {D4RL} --episodes 0", ""),
            (f"teacher eval {DATASET} --episodes 0", ""),
            ("teacher eval --all --episodes -1", ""),
            (f"density fit {DATASET} --epochs 0", ""),
            (f"density fit {DATASET} --epochs -1", ""),
            (f"density fit {DATASET} --seed -1", ""),
            (f"density fit {DATASET} --seed {HUGE}", ""),
            ("check-method random --set synthetic_size=0", ""),
        )
    ),
    *(
        Situation("files: data to import", words, says)
        for words, says in (
            (f"data import @@/nowhere.hdf5 {IMPORT}", "It is missing"),
            (f"data import @@/folder.hdf5 {IMPORT}", "Is a directory"),
            (f"data import @@/empty {IMPORT}", "none of .npz"),
            (f"data import @@/text {IMPORT}", "none of .npz"),
            (f"data import @@/values.npz {IMPORT}", "has no observations"),
            (f"data import @@/list.pt {IMPORT}", "has no observations"),
            (f"data import '' {IMPORT}", "Is a directory"),
            (f"data import @@/no_rewards.hdf5 {IMPORT}", "has no rewards"),
            (f"data import @@/half_flags.hdf5 {IMPORT}", "in row 0, expected true or false"),
            (f"data import @@/nan.hdf5 {IMPORT}", "NaN or infinite"),
            (f"data import @@/words.hdf5 {IMPORT}", "expected numbers"),
            (f"data import @@/short.hdf5 {IMPORT}", "of one N"),
            (f"data import @@/no_ends.hdf5 {IMPORT}", "without end"),
            (f"data import @@/pixels.hdf5 {IMPORT}", "[N, obs_dim]"),
            (f"data import @@/no_rows.hdf5 {IMPORT}", "of one N"),
            (f"data import @@/scalar.hdf5 {IMPORT}", "of one N"),
            (f"data import @@/other_actions.hdf5 {IMPORT}", "Name the environment"),
            (f"data import @@/action_two.hdf5 {CARTPOLE}", "the action of row 0 is 2"),
            (f"data import @@/action_half.hdf5 {CARTPOLE}", "the action of row 0 is 0.5"),
            ("data import @@/sound.hdf5", "--as"),
            ("data import --as local/x @@/sound.hdf5", "--environment"),
            ("data import @@/sound.hdf5 --as local/x --environment Hopper", "Nearest registered"),
            ("data import @@/sound.hdf5 --as local/x --environment hopper-v5", "Hopper-v5"),
            ("data import @@/sound.hdf5 --as local/x --environment ''", "not registered"),
            ("data import @@/sound.hdf5 --as local/x --environment CartPole-v1", "reference"),
            ("data import @@/sound.hdf5 --as hopper/medium --environment Hopper-v5", "local/"),
            ("data import @@/sound.hdf5 --as x --environment Hopper-v5", "local/"),
            ("data import @@/sound.hdf5 --as local/ --environment Hopper-v5", "local/NAME"),
            ("data import @@/sound.hdf5 --as local/../x --environment Hopper-v5", "local/NAME"),
            ("data import @@/sound.hdf5 --as local/a_|_b --environment Hopper-v5", "local/NAME"),
            (
                f"data import @@/sound.hdf5 --as local/{'x' * 250} --environment Hopper-v5",
                "256 characters",
            ),
            ("data import @@/sound.hdf5 --as d4rl/walker2d-medium-v2", "another dataset"),
            ("data import @@/sound.hdf5 --as minari/x-v0", ""),
        )
    ),
    *(
        Situation("files: checkpoints and densities", words, says)
        for words, says in (
            (f"teacher import @@/nowhere.pt {D4RL}", "cannot be read"),
            (f"teacher import @@/folder {D4RL}", "cannot be read"),
            (f"teacher import @@/empty {D4RL}", "cannot be read"),
            (f"teacher import @@/text {D4RL}", "cannot be read"),
            (f"teacher import @@/sound.hdf5 {D4RL}", "cannot be read"),
            (f"teacher import @@/values.npz {D4RL}", "not one that torch.save wrote"),
            (f"teacher import @@/list.pt {D4RL}", "holds a list"),
            (f"teacher import @@/no_actor.pt {D4RL}", "'actor' is missing"),
            (f"teacher import @@/whole_numbers.pt {D4RL}", "floating-point numbers"),
            (f"teacher import @@/numpy.pt {D4RL}", "torch.from_numpy"),
            (f"teacher import @@/nan.pt {D4RL}", "not finite"),
            (f"teacher import @@/twice.pt {D4RL}", "twice"),
            (f"teacher import @@/module.pt {D4RL}", "Save only the state dictionaries"),
            ("teacher import @@/list.pt", "--dataset"),
            ("teacher import @@/list.pt --dataset hopper/medium", ""),
            ("teacher import @@/list.pt --dataset d4rl/hoper-medium-v2", "Did you mean"),
            (f"density import @@/nowhere.npy --dataset {DATASET}", ""),
            (f"density import @@/folder --dataset {DATASET}", ""),
            (f"density import @@/empty --dataset {DATASET}", ""),
            (f"density import @@/text --dataset {DATASET}", ""),
            (f"density import @@/values.npy --dataset {DATASET}", "7"),
            (f"density import @@/values.npz --dataset {DATASET}", ""),
            (f"density import @@/words.npy --dataset {DATASET}", ""),
            (f"density import @@/list.pt --dataset {DATASET}", ""),
            ("density import @@/values.npy --dataset nowhere", "obdbench data list"),
            ("artefacts import hadess @@", "Did you mean 'hades'"),
            ("artefacts import hades @@/nowhere", "is not a folder"),
            ("artefacts import hades @@/text", "is not a folder"),
            ("artefacts import hades @@", "half of one"),
            ("artefacts import ppmo @@/folder", "half of one"),
            ("artefacts import sdr @@", "log_density_maf_DATASET.npy for any of"),
            ("artefacts import obd @@", "Cal-QL-DATASET/checkpoint.pt for any of"),
        )
    ),
    *(
        Situation("places: files for folders and the like", words, says)
        for words, says in (
            ("sweep tiny --store @@/text", ""),
            ("status tiny --store @@/text", ""),
            ("status tiny --store @@/nowhere", "No sweep 'tiny' was started"),
            ("status tiny --store ''", "No sweep 'tiny' was started"),
            ("table tiny --store @@/text", ""),
            (f"run random {DATASET} --store @@/text", ""),
            ("report tiny --to @@/folder", ""),
            ("report tiny --to @@/text/x.html", ""),
            ("paper obd-table-1 --to @@/text", ""),
            ("submit-check @@/nowhere", "is not a folder"),
            ("submit-check @@/text", "is not a folder"),
            ("submit-check @@", "is not a file of a submission"),
            ("submit-check @@/folder", "submission.toml does not exist"),
            ("submit-check @@/folder --rescore 0", ""),
            ("submit-make nowhere --to @@/new --who A --what B", "No run 'nowhere' has a record"),
            ("submit-make nowhere --to @@/new --who A", "--what"),
            ("leaderboard hoper/medium", "Did you mean 'hopper/medium'"),
            ("leaderboard --to @@/text", ""),
            ("paper obd-table-1 --store @@/text", ""),
            ("paper obd-table-1 --store @@/nowhere", ""),
            (f"data describe {DATASET} --folder @@/text", ""),
            ("new-method mine --folder @@/text", ""),
            (f"{BRIEF} 1 --target @@/folder", ""),
            (f"{BRIEF} 1 --target @@/text/x", ""),
        )
    ),
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
