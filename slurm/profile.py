"""Profiles: what a cluster is asked for, from a TOML file that a site writes once.

```toml
partition = "gpu"
account = "my_group"
gpus = 1
cpus = 4
memory = "16G"
time = "4:00:00"
pack = 16                      # most runs that are advanced together
group_minutes = 10             # short packs share a job until it is expected to take this long
device = "cuda"
parallelism = 50               # most jobs at a time, at least one per array
setup = ["module load cuda"]   # shell lines before the work
environment = { OBDBENCH_CACHE = "/scratch/me/obdbench" }
sbatch = { reservation = "course" }    # any other option of sbatch

[methods.random]               # these jobs ask for something else
gpus = 0
device = "cpu"
time = "0:30:00"
```
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.config import BadConfiguration, build
from benchmark.errors import did_you_mean
from benchmark.files import UnfitFile, read_small
from benchmark.method import METHODS
from benchmark.packing import Pack, default_pack, make_packs
from benchmark.spec import RunSpec
from slurm.profiles import profile_files, profile_folders

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d\d)(?::(?P<seconds>\d\d))?")
MEMORY = re.compile(r"\d+[KMGT]?B?")
VARIABLE = re.compile(r"[A-Za-z_]\w*")
LEAST = {"gpus": 0, "cpus": 1, "pack": 1, "group_minutes": 0, "grace": 1}
"""Smallest values of a shape's whole numbers."""
SECONDS_TO_SPARE = 60
"""SLURM may send its warning this much too early."""


@dataclass(frozen=True)
class JobShape:
    """What one job asks for. Options left out are the cluster's defaults.

    Args:
        partition, account, qos, constraint: Options of sbatch of these names.
        gpus: GPUs on the job's one node.
        cpus: Cores; torch uses `--threads` of them.
        memory: Memory on the node, "16G".
        time: Time limit, "H:MM", "H:MM:SS" or "D-HH:MM:SS". Not the length of a run: a run saves
            its state at the limit and is queued again.
        grace: Seconds before the limit at which it begins to save.
        pack: Largest number of runs that one job advances together; by default the device's.
        group_minutes: Expected minutes up to which a job is given further packs; 0 for one pack
            per job. Starting a job takes longer than a short run.
        device: Torch device of the heavy products.
        setup: Shell lines before the work.
        environment: Variables for the work.
        sbatch: Any other option of sbatch, by its long name.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    cpus: int = 1
    memory: str = "4G"
    time: str = "4:00:00"
    grace: int = 120
    pack: int | None = None
    group_minutes: int = 10
    device: str = "cpu"
    setup: list[str] = field(default_factory=list)
    environment: Mapping[str, Any] = field(default_factory=dict)
    sbatch: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise BadConfiguration(f"{name} is {value}; expected {least} or more")
        if not MEMORY.fullmatch(self.memory):
            raise BadConfiguration(f'memory is {self.memory!r}; expected a size such as "16G"')
        if self.minutes * 60 < self.grace + SECONDS_TO_SPARE:
            raise BadConfiguration(
                f"time is {self.time!r}, too short for a grace of {self.grace} s: expected "
                f"{self.grace + SECONDS_TO_SPARE} s or more"
            )
        if not isinstance(self.setup, list) or not all(isinstance(x, str) for x in self.setup):
            raise BadConfiguration(f"setup is {self.setup!r}; expected a list of shell lines")
        for name in ("environment", "sbatch"):
            if not isinstance(table := getattr(self, name), Mapping):
                raise BadConfiguration(f"{name} is {table!r}; expected a table")
        for name in self.environment:
            if not VARIABLE.fullmatch(name):
                raise BadConfiguration(f"environment holds {name!r}; expected names of variables")
        if self.device != "cpu" and not self.gpus:
            raise BadConfiguration(f"device is {self.device!r}, but gpus is 0; expected 1")

    @property
    def largest_pack(self) -> int:
        """Largest number of runs that one job advances together."""
        return self.pack or default_pack(self.device)

    @property
    def minutes(self) -> int:
        """The time limit, rounded up."""
        if (match := TIME.fullmatch(self.time)) is None:
            raise BadConfiguration(
                f'time is {self.time!r}; expected "H:MM", "H:MM:SS" or "D-HH:MM:SS"'
            )
        parts = {name: int(value or 0) for name, value in match.groupdict().items()}
        whole = (parts["days"] * 24 + parts["hours"]) * 60 + parts["minutes"]
        return whole + (parts["seconds"] > 0)

    def __str__(self) -> str:
        asked = {
            "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "gpus": self.gpus or None, "cpus": self.cpus,
            "memory": self.memory, "time": self.time, **self.sbatch,
        }  # fmt: skip
        return ", ".join(f"{key} {value}" for key, value in asked.items() if value is not None)


@dataclass(frozen=True)
class Profile:
    """How jobs are asked for on one cluster.

    Args:
        name: Name of the profile, for messages.
        shape: Shape of the jobs of all other methods.
        methods: Shapes of the jobs of some methods, by method.
        parallelism: Largest number of jobs of one submission at a time; where it has more arrays
            than that, one of each.
        requeues: Number of times that a job is queued again before its runs fail.
    """

    name: str
    shape: JobShape = field(default_factory=JobShape)
    methods: Mapping[str, JobShape] = field(default_factory=dict)
    parallelism: int = 256
    requeues: int = 50

    def of(self, method: str) -> JobShape:
        """The shape of jobs of that method."""
        return self.methods.get(method, self.shape)


def find_profile(name: str) -> Profile:
    """A profile from a TOML file, or by name.

    Names are looked for in `./profiles`, in `$OBDBENCH_PROFILES` (`~/.config/obdbench/profiles`
    where it is not set), and among the shipped ones.

    Raises:
        BadConfiguration: There is none, or it cannot be used.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    found = profile_files()
    if name not in found:
        looked = ", ".join(map(str, profile_folders()))
        raise BadConfiguration(
            f"No profile is called {name!r} (looked in {looked} and among the shipped ones; a file "
            f"ends in .toml). {did_you_mean(name, found, 'obdbench list')}"
        )
    return read_profile(found[name])


def read_profile(path: Path) -> Profile:
    """The profile of a TOML file.

    Raises:
        BadConfiguration: It is missing, not TOML, holds an unknown key (with the nearest valid
            ones) or a value that does not fit.
    """
    try:
        values = tomllib.loads(read_small(path).decode("utf-8-sig"))
    except (OSError, UnfitFile) as error:
        raise BadConfiguration(f"The profile {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # of TOML, UTF-8, or integers of 4,300 digits
        raise BadConfiguration(f"{path} is not TOML: {error}.") from error
    return build_profile(values, path.stem, str(path))


def build_profile(values: Mapping[str, Any], name: str, where: str) -> Profile:
    """A profile from its parsed TOML; `where` names it in messages."""
    own = {"parallelism": Profile.parallelism, "requeues": Profile.requeues}
    shared = {key: value for key, value in values.items() if key not in own and key != "methods"}
    keys = {f.name for f in dataclasses.fields(JobShape)}
    if unknown := shared.keys() - keys:
        key = min(unknown)
        valid = keys | own.keys() | {"methods"}
        raise BadConfiguration(f"Unknown key {key!r} in {where}. {did_you_mean(key, valid)}")
    for key in own:
        own[key] = values.get(key, own[key])
        if type(own[key]) is not int or own[key] < 1:
            raise BadConfiguration(f"{key} in {where} is {own[key]!r}; expected 1 or more.")
    methods = values.get("methods", {})
    if not isinstance(methods, Mapping) or not all(
        isinstance(m, Mapping) for m in methods.values()
    ):
        raise BadConfiguration(f"[methods] of {where} must hold tables, one a method.")
    for method in methods:
        METHODS[method]
    return Profile(
        name,
        _shape(shared, where),
        {m: _shape({**shared, **over}, f"[methods.{m}] of {where}") for m, over in methods.items()},
        **own,
    )


def _shape(values: Mapping[str, Any], where: str) -> JobShape:
    try:
        return build(JobShape, values, where)
    except BadConfiguration as error:
        if where in str(error):
            raise
        raise BadConfiguration(f"{error}; in {where}.") from error


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted in one piece.

    Args:
        shape: What each asks for.
        jobs: The runs of each: one pack, or several short ones.
        parallelism: Most of them at a time.
    """

    shape: JobShape
    jobs: tuple[Pack, ...]
    parallelism: int

    @property
    def runs(self) -> list[RunSpec]:
        """The runs of all jobs."""
        return [run for job in self.jobs for run in job]


Expected = Callable[[RunSpec], float | None]
"""Expected seconds of a run; None where nothing like it was measured."""


def make_arrays(
    runs: Sequence[RunSpec],
    profile: Profile,
    max_array_size: int,
    expected: Expected = lambda _: None,
) -> list[Array]:
    """The arrays of a list of runs.

    Every run is in one job; jobs of the same shape share arrays; arrays that work side by side
    share the profile's parallelism by their sizes, each at least one job: together they have as
    many at a time as it says, or one per array where there are more arrays.

    Args:
        runs: In the order in which they are to begin.
        profile: Says what jobs ask for.
        max_array_size: Most jobs of an array.
        expected: Estimate by which short packs share a job; without one, each has its own.
    """
    shapes: dict[str, tuple[JobShape, list[RunSpec]]] = {}
    for run in runs:
        shape = profile.of(run.method)
        shapes.setdefault(json.dumps(asdict(shape), sort_keys=True), (shape, []))[1].append(run)
    pieces: list[tuple[JobShape, list[Pack]]] = []
    for shape, group in shapes.values():
        jobs = _grouped(make_packs(group, shape.largest_pack), shape.group_minutes * 60, expected)
        starts = range(0, len(jobs), max_array_size)
        pieces += [(shape, jobs[start : start + max_array_size]) for start in starts]
    shares = _shares([len(jobs) for _, jobs in pieces], profile.parallelism)
    return [
        Array(shape, tuple(jobs), share)
        for (shape, jobs), share in zip(pieces, shares, strict=True)
    ]


def _shares(sizes: Sequence[int], parallelism: int) -> list[int]:
    """Jobs at a time of arrays of these sizes: in proportion to them, and at least one each."""
    shares = [max(1, parallelism * size // sum(sizes)) for size in sizes]
    for _ in range(sum(shares) - max(parallelism, len(shares))):  # what the small were given more
        shares[shares.index(max(shares))] -= 1
    return shares


def seconds_of(job: Pack, expected: Expected) -> float | None:
    """Expected seconds of runs one after the other; None where one is unknown."""
    each = [expected(run) for run in job]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) if len(known) == len(each) else None


def _grouped(packs: Sequence[Pack], limit: float, expected: Expected) -> list[Pack]:
    """Jobs of one pack or more; each pack goes to the job that was left with most room, if any."""
    jobs: list[Pack] = []
    roomy, room = 0, 0.0
    for pack in packs:
        seconds = seconds_of(pack, expected)
        needed = math.inf if seconds is None else seconds
        if jobs and needed <= room:
            jobs[roomy] = jobs[roomy] + pack
            room -= needed
        else:
            jobs.append(pack)
            if limit - needed > room:
                roomy, room = len(jobs) - 1, limit - needed
    return jobs
