"""Break the product in one place at a time, and see that the named tests fail.

    python -m tests.mutations [WORD ...]      only the mutations whose name has one of the words

Every mutation is tried in a copy of the tree. The tests must pass there unbroken first, so that a
test that fails anyway catches nothing. The exit status is 1 where a mutation survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PASSED, FAILED = 0, 1  # pytest's exit status


class Rotten(Exception):
    """A mutation whose old text is not in its file exactly once."""


@dataclass(frozen=True)
class Mutation:
    """One change for the worse.

    Args:
        name: What is broken, in a few words.
        file: The file, from the root of the tree.
        old: Text that stands in the file exactly once.
        new: Text in its place.
        tests: Files of which at least one test must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, root: Path = ROOT) -> str:
        """The whole broken file.

        Raises:
            Rotten: The old text is not there exactly once.
        """
        text = (root / self.file).read_text()
        if (found := text.count(self.old)) != 1:
            raise Rotten(
                f"{self.name}: {self.old!r} is {found} times in {self.file}, expected once. Change "
                f"the mutation with the code."
            )
        return text.replace(self.old, self.new)


MUTATIONS = (
    Mutation(
        "meta-gradient: sign of the action part",
        "baselines/meta_gradient.py",
        "total.actions.add_(action_tangent, alpha=scale)",
        "total.actions.add_(action_tangent, alpha=-scale)",
        ("tests/baselines/test_meta_gradient.py",),
    ),
    Mutation(
        "meta-gradient: momentum in the adjoint",
        "baselines/meta_gradient.py",
        "v.mul_(self.momentum).add_(p, alpha=-self.learning_rate)",
        "v.mul_(1.0).add_(p, alpha=-self.learning_rate)",
        ("tests/baselines/test_meta_gradient.py",),
    ),
    Mutation(
        "meta-gradient: the skip connection's adjoint",
        "baselines/meta_gradient.py",
        "below += kept",
        "below -= kept",
        ("tests/baselines/test_meta_gradient.py",),
    ),
    Mutation(
        "SDW-OBD: sign of the exponent",
        "baselines/sdw_obd.py",
        "logs = -tau * floored(",
        "logs = tau * floored(",
        ("tests/baselines/test_obd_variants.py",),
    ),
    Mutation(
        "PBC: the data's actions in place of the teacher's",
        "baselines/obd.py",
        "return Targets(self._teacher_actions(problem), None)",
        "return Targets(problem.actions, None)",
        ("tests/baselines/test_methods.py", "tests/baselines/test_obd_variants.py"),
    ),
    Mutation(
        "resume: the saved momentum is lost",
        "baselines/outer_loop.py",
        '"observations_velocity": self.velocity[0],',
        '"observations_velocity": torch.zeros_like(self.velocity[0]),',
        ("tests/benchmark/test_run.py",),
    ),
    Mutation(
        "normalized return: zero at the expert",
        "benchmark/datasets/dataset.py",
        "return 100.0 * (returns - self.random)",
        "return 100.0 * (returns - self.expert)",
        ("tests/benchmark/datasets/test_dataset.py", "tests/benchmark/test_run.py"),
    ),
    Mutation(
        "IQM: a fifth trimmed in place of a quarter",
        "results/bootstrap.py",
        "cut = count // 4",
        "cut = count // 5",
        ("tests/results/test_statistics.py",),
    ),
    Mutation(
        "interval: percentile in place of BCa",
        "results/statistics.py",
        "if _smallest(samples) > 2 and (ends := bca",
        "if _smallest(samples) < 0 and (ends := bca",
        ("tests/results/test_statistics.py",),
    ),
    Mutation(
        "interval: a bootstrap of a few seeds in place of Student's t",
        "results/statistics.py",
        "FEW_SEEDS = 30",
        "FEW_SEEDS = 2",
        ("tests/results/test_statistics.py",),
    ),
    Mutation(
        "difference: never paired",
        "results/differences.py",
        "        same = scores.keys() == other[task].keys()",
        "        same = False",
        ("tests/results/test_differences.py",),
    ),
    Mutation(
        "probability of improvement: ties count for nothing",
        "results/bootstrap.py",
        "np.asarray(0.5 * (np.sign(x[..., :, None] - y[..., None, :]) + 1.0))",
        "np.asarray(1.0 * (x[..., :, None] > y[..., None, :]))",
        ("tests/results/test_statistics.py",),
    ),
    Mutation(
        "seeds: the order of the axes matters",
        "benchmark/seeds.py",
        "json.dumps(axes, sort_keys=True",
        "json.dumps(axes, sort_keys=False",
        ("tests/benchmark/test_seeds.py",),
    ),
    Mutation(
        "records: infinity is written",
        "benchmark/record.py",
        "isinstance(value, float) and not math.isfinite(value)",
        "isinstance(value, float) and math.isnan(value)",
        ("tests/benchmark/test_record.py",),
    ),
    Mutation(
        "packing: runs of different students together",
        "benchmark/packing.py",
        "key, run.student, run.dataset)",
        "key, run.dataset)",
        ("tests/benchmark/test_packing.py",),
    ),
    Mutation(
        "datasets: the content's sha256 is not checked",
        "benchmark/datasets/catalog.py",
        'if dataset.sha256 != card["sha256"]:',
        "if not dataset.sha256:",
        ("tests/benchmark/datasets/test_catalog.py",),
    ),
    Mutation(
        "sweep: the grid's axes side by side, not crossed",
        "benchmark/sweep.py",
        "in itertools.product(*row.grid.values()):",
        "in zip(*row.grid.values(), strict=False):",
        ("tests/benchmark/test_sweep.py",),
    ),
    Mutation(
        "SLURM: queued again once too often",
        "slurm/job.py",
        '"0")) >= requeues',
        '"0")) > requeues',
        ("tests/slurm/test_job.py",),
    ),
    Mutation(
        "SLURM: a lagging accounting is believed",
        "slurm/cluster.py",
        "return accounted if accounted and accounted.ended else queued or accounted",
        "return accounted or queued",
        ("tests/slurm/test_cluster.py",),
    ),
    Mutation(
        "D4RL: the row of a timeout is a transition",
        "benchmark/datasets/hdf5.py",
        "makes_transition = ~timeouts",
        "makes_transition = timeouts | True",
        ("tests/benchmark/datasets/test_hdf5.py",),
    ),
    Mutation(
        "MAF: batch normalisation without its determinant",
        "benchmark/density/flow.py",
        "self.bias, log_scale.sum()",
        "self.bias, -log_scale.sum()",
        ("tests/benchmark/density/test_flow.py",),
    ),
    Mutation(
        "TD3+BC: the actor goes downhill",
        "benchmark/teachers/td3_bc.py",
        "- scale * value.mean())",
        "+ scale * value.mean())",
        ("tests/benchmark/teachers/test_against_plain.py",),
    ),
    Mutation(
        "evaluation: every policy begins elsewhere",
        "benchmark/environments/rollout.py",
        "list(seeds) * policies)",
        "[seed + i for i in range(policies) for seed in seeds])",
        ("tests/benchmark/environments/test_rollout.py",),
    ),
    Mutation(
        "evaluation: terminated episodes go on",
        "benchmark/environments/rollout.py",
        "ended = result.terminated | result.truncated",
        "ended = result.truncated",
        ("tests/benchmark/environments/test_rollout.py",),
    ),
    Mutation(
        "evaluation: students see raw observations",
        "benchmark/students/student.py",
        "observations = scaling.observations_in(pairs.observations)",
        "observations = pairs.observations",
        ("tests/benchmark/test_evaluation.py",),
    ),
    Mutation(
        "synthetic set: actions leave the unit box wrongly",
        "benchmark/scaling.py",
        "return actions * self.half_range + self.center",
        "return actions * self.half_range - self.center",
        ("tests/benchmark/test_scaling.py",),
    ),
    Mutation(
        "students: slope of the squashing",
        "benchmark/students/heads.py",
        "slope = 1 - squashed.action.square()",
        "slope = 1 + squashed.action.square()",
        ("tests/benchmark/students/test_heads.py",),
    ),
    Mutation(
        "command line: failed runs, status 0",
        "obdbench/cli/started_sweeps.py",
        "raise typer.Exit(RUNS_FAILED)",
        "raise typer.Exit(0)",
        ("tests/obdbench/test_cli.py",),
    ),
    Mutation(
        "table: the interval's ends swapped",
        "paper_figures/table.py",
        'f"[{rounded(low)}, {rounded(high)}]"',
        'f"[{rounded(high)}, {rounded(low)}]"',
        ("tests/paper_figures/test_main_table.py",),
    ),
    Mutation(
        "errors: no name is near enough to be meant",
        "benchmark/errors.py",
        "n=3, cutoff=0.5)",
        "n=3, cutoff=0.99)",
        ("tests/benchmark/test_registry.py",),
    ),
    Mutation(
        "workers: deaf to the end of the process that started them",
        "benchmark/local_worker.py",
        "    os.kill(os.getpid(), END)",
        "    pass",
        ("tests/obdbench/test_signals.py",),
    ),
    Mutation(
        "artefacts: a pickle may name anything",
        "benchmark/artefacts/pickles.py",
        'if not _NAMES.fullmatch(found := f"{module}.{name}"):',
        'if not (found := f"{module}.{name}"):',
        ("tests/benchmark/artefacts/test_pickles.py",),
    ),
    Mutation(
        "artefacts: an array of the size that its shape claims",
        "benchmark/artefacts/pickles.py",
        "if not sound or math.prod(shape) * np.dtype(code).itemsize != len(content):",
        "if not sound:",
        ("tests/benchmark/artefacts/test_pickles.py",),
    ),
    Mutation(
        "artefacts: labels in turn",
        "benchmark/artefacts/hades.py",
        "torch.eye(space.actions).repeat_interleave(each, 0)",
        "torch.eye(space.actions).repeat(each, 1)",
        ("tests/benchmark/artefacts/test_importers.py",),
    ),
    Mutation(
        "artefacts: a set in folders of another environment",
        "benchmark/artefacts/hades.py",
        r'if not re.fullmatch(rf"{RESULTS}/.*\b{expected}/{FILE}", name):',
        "if not re.search(FILE, name):",
        ("tests/benchmark/artefacts/test_importers.py",),
    ),
    Mutation(
        "artefacts: an altered file of tensors",
        "benchmark/artefacts/artefact.py",
        'if found != card["sha256"]:',
        'if not found and card["sha256"]:',
        ("tests/benchmark/artefacts/test_importers.py",),
    ),
)


def copied_tree(target: Path) -> None:
    """Everything that git knows or would take up, as it stands now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def status_of(tests: tuple[str, ...], tree: Path) -> int:
    """pytest's exit status for these files in that tree, whose packages come first."""
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(words, cwd=tree, env={**os.environ, **variables}, capture_output=True)
    return done.returncode


def attempt(mutation: Mutation, tree: Path) -> str:
    """What becomes of a mutation: "caught", or what went wrong."""
    path = tree / mutation.file
    whole = path.read_text()
    path.write_text(mutation.applied(tree))
    try:
        status = status_of(mutation.tests, tree)
    finally:
        path.write_text(whole)
    verdicts = {PASSED: "survived", FAILED: "caught"}
    return verdicts.get(status, f"not tried: pytest ended with {status}")


def main(words: list[str]) -> int:
    """Try the mutations that are asked for, and say what became of each."""
    wanted = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    if not wanted:
        sys.exit(f"No mutation's name has any of {words}; there are {len(MUTATIONS)} of them.")
    for mutation in wanted:
        mutation.applied()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copied_tree(tree)
        needed = tuple(sorted({test for mutation in wanted for test in mutation.tests}))
        if (status := status_of(needed, tree)) != PASSED:
            sys.exit(f"Without any mutation pytest ends with {status} on {' '.join(needed)}.")
        verdicts = []
        for mutation in wanted:
            verdicts.append(attempt(mutation, tree))
            print(f"{verdicts[-1]:9} {mutation.name} ({mutation.file})", flush=True)
    caught = verdicts.count("caught")
    print(f"{caught} of {len(wanted)} caught, in {time.monotonic() - began:.0f} s")
    return int(caught < len(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
