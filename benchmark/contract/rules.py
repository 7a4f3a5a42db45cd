"""The rules of the contract: one function each, whose docstring is the rule and its reason."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.config import build
from benchmark.contract.check import Broken, Check, NotApplicable, described
from benchmark.contract.tiny import (
    DISCRETE,
    STUDENT,
    TRANSITIONS,
    random_teacher,
    toy,
    toy_in_other_units,
)
from benchmark.contract.trial import Observed, Trial, actions_of, values_of
from benchmark.datasets.dataset import Dataset
from benchmark.errors import ObdBenchError
from benchmark.method import NEEDS, Policy, taken_name
from benchmark.scaling import Scaling
from benchmark.students.student import train_on_set
from benchmark.synthetic_set import SyntheticSet
from benchmark.teachers.teacher import NetworkTeacher

Results = Mapping[int, SyntheticSet | Policy]

# Sets of the suite's own methods are 0 to 2 standard deviations from the mean of the data, and
# normalised ones 20 in the toy problem in other units.
_FAR = 10.0


def plain_parameters(trial: Trial) -> None:
    """Hyper-parameters are plain values of a frozen dataclass, with names that a sweep leaves free.

    Records and sweep files hold them as JSON and TOML, and they name a run: a value outside of them
    would change results without a trace.
    """
    kind = trial.kind
    fields = {field.name for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    stray = sorted(
        name
        for name, hint in hints.items()
        if name not in fields and hint is not ClassVar and typing.get_origin(hint) is not ClassVar
    )
    if stray:
        raise Broken(
            f"{', '.join(stray)} of {kind.__name__} cannot be set: put @dataclass(frozen=True) "
            f"above the class."
        )
    if fault := taken_name(trial.method):
        raise Broken(f"{kind.__name__} {fault}")
    values = dataclasses.asdict(trial.method)
    try:
        read = json.loads(json.dumps(values))
        again = build(trial.prototype, read, "its own parameters")
    except TypeError as error:
        raise Broken(f"{error}. Take numbers, strings, booleans and None as parameters.") from error
    if read != values or again != trial.method:
        raise Broken(
            f"Written as JSON and read again, {trial.method} is {again}. Take numbers, strings, "
            f"booleans and None as parameters."
        )


def distils(trial: Trial) -> None:
    """A run ends without an error and submits at least one result, the final one last.

    The score of a run is taken over its last checkpoints; each outer step is scored once. What a
    run asks of the method beforehand (its student, machine and engine) has an answer.
    """
    steps = list(trial.whole.results)
    method, student = trial.method, trial.whole.problem.student
    with suppress(ObdBenchError):  # it may refuse this student, or this machine, with a message
        method.require_student(student)
    with suppress(ObdBenchError):
        method.require_machine("cpu")
    if not isinstance(engine := method.engine("cpu"), str):
        raise Broken(f'Its engine("cpu") is {engine!r}; records name it: expected a string.')
    if steps != sorted(steps):
        raise Broken(
            f"It submitted results for the outer steps {steps}; they must rise, and the last one "
            f"must be the final result."
        )


def shapes_types_and_values(trial: Trial) -> None:
    """Sets are finite float32 `[N, obs_dim]` and `[N, act_dim]`, and so are policies' actions.

    Anything else would be cast or broadcast on the way to a score.
    """
    require_well_formed(trial.whole)


def environment_units(trial: Trial) -> str | None:
    """Sets and policies' actions are in the environment's own units, inside its action space.

    Students normalise the set that they are trained on: one that is normalised already trains them
    on states that do not exist, and its score says nothing. The toy data are shifted and scaled
    here, so that no unit is mistaken for another.
    """
    _ = trial.whole
    found = trial.run(given=toy_in_other_units())
    outside = 0.0
    for step, result in found.results.items():
        scaling = found.toy.scaling
        if isinstance(result, SyntheticSet):
            # Units that a set carries are of what the method saw, which is not the toy data.
            scaling = result.training.scaling if result.training else scaling
            distance = float(scaling.observations_in(result.observations).abs().mean())
            if distance > _FAR:
                raise Broken(
                    f"The observations of the set of outer step {step} are on average "
                    f"{distance:.3g} standard deviations from the mean of the data. Sets are in "
                    f"the environment's units: convert normalised observations by "
                    f"problem.scaling.observations_out."
                )
            actions = result.actions
        else:
            actions = values_of(result, found.toy.dataset.observations)[0]
        # In the unit box, the distance from its middle; learned actions may leave the box a little.
        reach = float(scaling.actions_in(actions).abs().max())
        if reach > (2.0 if isinstance(result, SyntheticSet) else 1.0 + 1e-3):
            raise Broken(
                f"Actions of outer step {step} are outside the action space, up to {reach:.3g} "
                f"times as far from its middle as its bounds. They are in the environment's units "
                f"(convert them from the unit box by problem.scaling.actions_out), and what "
                f"leaves its bounds should be clipped."
            )
        outside = max(outside, reach)
    return f"Actions leave the action space by {outside - 1:.0%}." if outside > 1.005 else None


def students_act(trial: Trial) -> None:
    """Students that are trained on the final set give finite actions.

    Values may be finite and still so large that the students diverge, which fails the run when it
    is scored, hours later.
    """
    given, result = trial.whole.toy, trial.whole.final
    if not isinstance(result, SyntheticSet):
        raise NotApplicable("It submits policies: there is no student to train.")
    if not np.isfinite(
        actions_of(_student(result, given.scaling), given.dataset.observations)
    ).all():
        raise Broken(
            f"A student of {STUDENT.steps} steps diverges on the set: its observations reach "
            f"{float(result.observations.abs().max()):.3g}, its actions "
            f"{float(result.actions.abs().max()):.3g}. Sets are in the environment's own units; "
            f"lower the learning rate that they are optimised with."
        )


def synthetic_size(trial: Trial) -> None:
    """A set has `synthetic_size` pairs, at every checkpoint.

    Methods are compared at equal size; the table and the grids of a sweep read that parameter.
    """
    size = _size(trial)
    for wanted, found in ((size, trial.whole), (size + 2, trial.run(synthetic_size=size + 2))):
        for step, result in found.results.items():
            assert isinstance(result, SyntheticSet)
            _require_size(wanted, len(result), f" at outer step {step}")


def same_seed_same_bits(trial: Trial) -> None:
    """Two runs of one spec give the same results, bit for bit.

    The second begins with other global random states, as another process would: everything random
    must come from problem.generator(purpose, step).
    """
    if (step := _difference(trial.whole, trial.run().results)) is not None:
        raise Broken(
            f"Two runs of the same seed differ from outer step {step} on. Draw every random number "
            f"with generator=problem.generator(purpose, step), and keep nothing between runs."
        )


def different_seeds_differ(trial: Trial) -> str | None:
    """Runs of other seeds give other results, unless nothing in the method is random.

    Intervals are taken over seeds; seeds that all give the same set make them too narrow.
    """
    if _difference(trial.whole, trial.other_seed.results) is not None:
        return None
    if trial.whole.problem.drawn_from or _draws(trial):
        raise Broken(
            "It draws random numbers, but two seeds give the same results. Seed nothing yourself: "
            "take generators from problem.generator(purpose, step), and use what they draw."
        )
    raise NotApplicable("Nothing in it is random: every seed gives the same result.")


def resumes(trial: Trial) -> None:
    """A run that is killed resumes from its saved state to the same results and cost.

    A state is saved, the run goes on, the process is killed, and another one resumes: once each
    from the first state, from one half-way and from the last.
    """
    offers = trial.whole.recorder.offers
    if not offers:
        raise NotApplicable(
            "It never calls monitor.save: a run that is killed starts anew. That suits a method "
            "that takes seconds; an iterative one should save, and begin with monitor.resume()."
        )
    for keep in sorted({0, (offers - 1) // 2, offers - 1}):
        _require_resumed(trial, keep, f" (from state {keep + 1} of the {offers} that it saves)")


def _require_resumed(trial: Trial, keep: int, where: str) -> None:
    """Raise Broken where a run that resumes from its state `keep` differs from an unbroken one."""
    first = trial.recorder(trial.method, keep=keep)
    trial.run(recorder=first)
    second = trial.recorder(trial.method, saved=first.kept)
    second.environment_steps = first.steps_at_kept
    resumed = trial.run(recorder=second)
    if not second.asked_to_resume:
        raise Broken(
            "It saves states but never asks for them, so that a killed run starts anew. Begin with "
            "`state = monitor.resume()`, which is None in a fresh run."
        )
    # What was scored after the state was saved is lost with the process.
    step = _difference(trial.whole, {**first.results_at_kept, **resumed.results})
    if step is not None:
        raise Broken(
            f"A run that was killed and resumed differs from an unbroken one at outer step "
            f"{step}{where}. Save all that the next outer step depends on (momentum and counters "
            f"too), restore it from monitor.resume(), and submit what is still to be submitted."
        )
    if second.environment_steps != trial.whole.recorder.environment_steps:
        raise Broken(
            f"A run that was killed and resumed{where} counts {second.environment_steps:,} "
            f"environment steps, an unbroken one {trial.whole.recorder.environment_steps:,}. Call "
            f"monitor.count_environment_steps with only the new steps, before monitor.save."
        )


def declares_what_it_touches(trial: Trial) -> str | None:
    """Everything that a method uses is declared in `needs`.

    The table shows `needs` next to the score. An undeclared need raises when it is used; this check
    also finds it where the method catches that error, or opens the environment by its own means.
    """
    needs, found = trial.method.needs, trial.whole
    if unknown := sorted(needs - set(NEEDS)):
        raise Broken(f"Its `needs` hold {', '.join(unknown)}; expected some of {', '.join(NEEDS)}.")
    touched = found.problem.touched | ({"environment"} if found.stepped else set())
    if undeclared := sorted(touched - needs):
        raise Broken(
            f"It used {', '.join(undeclared)} without declaring it. Add it to `needs`, which now "
            f"are {', '.join(sorted(needs)) or 'empty'}."
        )
    unused = [need for need in NEEDS if need in needs - touched]
    return f"Declared, but not touched at these settings: {', '.join(unused)}." if unused else None


def uses_what_it_declares(trial: Trial) -> None:
    """Another teacher and other log densities, where a method declares them, give other results.

    The table shows `needs` next to the score, and a reader compares what methods were given. What
    makes no difference is not used, whether the method looks at it or not.
    """
    _ = trial.whole
    plain = toy()
    widths = plain.dataset.observation_dim, plain.dataset.action_dim
    others = {
        "teacher": dataclasses.replace(plain, teacher=random_teacher(*widths, seed=1)),
        "log_density": dataclasses.replace(plain, log_density=plain.log_density.flip(0)),
    }
    declared = [need for need in others if need in trial.method.needs]
    if not declared:
        raise NotApplicable("It declares neither a teacher nor log densities.")
    for need in declared:
        if _difference(trial.whole, trial.run(given=others[need]).results) is None:
            raise Broken(
                f"It declares {need}, but another one gives the same results at these settings. "
                f"Use problem.{need}, or leave it out of `needs`; where only other settings use "
                f"it, let `needs` be a property, or name them in `tiny` or by --set."
            )


def counts_its_cost(trial: Trial) -> str | None:
    """Environment steps and outer steps that a run takes are counted in its record.

    The suite measures seconds and bytes; only the method knows its steps in an environment, and
    what `work` says of its cost in plans.
    """
    found, counted = trial.whole, trial.whole.recorder.environment_steps
    sizes = found.problem.observation_dim, found.problem.action_dim
    work = trial.method.work(*sizes, found.problem.student)
    if work is not None and not callable(getattr(work, "seconds", None)):
        raise Broken(
            f"Its work is {work!r}; expected benchmark.work.Work, "
            f"benchmark.outer_steps.OuterSteps, or None where it does not say what a run costs."
        )
    last = max(found.results, default=0)
    if found.recorder.furthest > last:
        raise Broken(
            f"It reports progress up to outer step {found.recorder.furthest}, but its last result "
            f"is of step {last}, which the record counts. Submit the final result under the "
            f"number of outer steps that it took."
        )
    if found.stepped and counted != found.stepped:
        raise Broken(
            f"It took {found.stepped:,} environment steps and counted {counted:,}. Call "
            f"monitor.count_environment_steps(steps) after every rollout "
            f"(`Episodes.environment_steps`)."
        )
    if "environment" in trial.method.needs and not counted:
        raise Broken(
            "It declares the environment, but took and counted no step in it. Count the steps "
            "with monitor.count_environment_steps, or leave the environment out of `needs`."
        )
    if counted and not found.stepped:
        return f"{counted:,} environment steps counted; none were taken in this process."
    return f"{counted:,} environment steps." if counted else None


def size_above_the_data(trial: Trial) -> str | None:
    """A set larger than the dataset is made as asked, or refused with the number that is wrong.

    A sweep over sizes may meet a small dataset.
    """
    _size(trial)
    wanted = TRANSITIONS + 1
    try:
        found = trial.run(synthetic_size=wanted)
    except ObdBenchError as error:
        _require_says(error, str(wanted))
        return f"Refused: {error}"
    except Exception as error:  # a method that does not check may fail in any way
        raise Broken(_unclear(error, f"{wanted} pairs of {TRANSITIONS} transitions")) from error
    for result in found.results.values():
        assert isinstance(result, SyntheticSet)
        _require_size(wanted, len(result), f" of {TRANSITIONS} transitions")
    return "Made as asked."


def empty_dataset(trial: Trial) -> str | None:
    """A dataset without transitions is refused with an error that names it.

    Filtering a dataset may leave nothing of it.
    """
    _ = trial.whole
    try:
        found = trial.run(transitions=0)
    except ObdBenchError as error:
        _require_says(error, toy(transitions=0).dataset.name)
        return f"Refused: {error}"
    except Exception as error:  # a method that does not check may fail in any way
        raise Broken(_unclear(error, "a dataset without transitions")) from error
    if "dataset" not in found.problem.touched:
        raise NotApplicable("It does not use the dataset.")
    raise Broken(
        "It made a result from a dataset without transitions. Raise an ObdBenchError where "
        "len(problem.dataset) is 0."
    )


def discrete_actions(trial: Trial) -> None:
    """Discrete actions, which are one-hot rows, give a well-formed result or are refused.

    A run on such an environment must not give the score of something else.
    """
    _ = trial.whole
    try:
        found = trial.run(env_id=DISCRETE)
    except ObdBenchError as error:
        raise NotApplicable(f"Refused: {described(error)}") from error
    require_well_formed(found)


def leaves_its_inputs_alone(trial: Trial) -> None:
    """A run does not change the dataset, the teacher or the log density.

    They are shared: `torch.from_numpy` gives the dataset's own memory, and a write into it changes
    later runs, and the student's scaling.
    """
    given, fresh = trial.whole.toy, toy()
    for name, before, after in (
        ("dataset", _arrays(fresh.dataset), _arrays(given.dataset)),
        ("teacher", _tensors(fresh.teacher), _tensors(given.teacher)),
        ("log_density", {"": fresh.log_density}, {"": given.log_density}),
        ("scaling", fresh.scaling.tensors(), given.scaling.tensors()),
    ):
        changed = [key for key in before if not np.array_equal(before[key], after[key])]
        if changed:
            raise Broken(
                f"It wrote into {', '.join(f'{name} {key}'.strip() for key in changed)} of its "
                f"problem. Clone what you change in place."
            )


def packs(trial: Trial) -> None:
    """Runs that are packed give the results of single runs, up to rounding.

    The numbers of a run must not depend on the runs that share its pack.
    """
    if trial.method.pack_key() is None:
        raise NotApplicable("It has no pack_key: its runs are done one by one.")
    singles = (trial.whole, trial.other_seed)
    for seed, (single, packed) in enumerate(zip(singles, trial.run_packed((0, 1)), strict=True)):
        step = _difference(single, packed.results, exact=False)
        if step is not None:
            raise Broken(
                f"Of two packed runs, the one of seed {seed} differs at outer step {step} from "
                f"the same run by distill. Fix distill_packed, or let pack_key be None."
            )


CHECKS = tuple(
    Check(function.__name__, inspect.getdoc(function).partition("\n")[0], function)  # type: ignore[union-attr]
    for function in (
        plain_parameters,
        distils,
        shapes_types_and_values,
        environment_units,
        students_act,
        synthetic_size,
        same_seed_same_bits,
        different_seeds_differ,
        resumes,
        declares_what_it_touches,
        uses_what_it_declares,
        counts_its_cost,
        size_above_the_data,
        empty_dataset,
        discrete_actions,
        leaves_its_inputs_alone,
        packs,
    )
)
"""Every check, in the order of a report."""


def require_well_formed(found: Observed) -> None:
    """Raise Broken where a result does not have the problem's dimensions, or is not finite float32.

    A `SyntheticSet` itself refuses other types and values that are not finite.
    """
    given, problem = found.toy, found.problem
    for step, result in found.results.items():
        if isinstance(result, SyntheticSet):
            widths = (result.observations.shape[1], result.actions.shape[1])
            expected = (problem.observation_dim, problem.action_dim)
            if widths != expected:
                raise Broken(
                    f"The set of outer step {step} has {widths[0]} numbers per observation and "
                    f"{widths[1]} per action; {given.dataset.env_id} has {expected[0]} and "
                    f"{expected[1]}."
                )
        else:
            _require_actions(result, found, step)


def _require_actions(policy: Policy, found: Observed, step: int) -> None:
    observations = found.toy.dataset.observations
    actions = actions_of(policy, observations)
    if not isinstance(actions, np.ndarray):
        raise Broken(
            f"The policies of outer step {step} gave a {type(actions).__name__}; expected a numpy "
            f"array of float32. Of a tensor, .numpy() makes one."
        )
    shape = (policy.count, len(observations), found.problem.action_dim)
    if actions.shape != shape or actions.dtype != np.float32 or not np.isfinite(actions).all():
        raise Broken(
            f"The policies of outer step {step} gave {actions.dtype} {list(actions.shape)} with "
            f"{int((~np.isfinite(actions)).sum())} values that are not finite; expected finite "
            f"float32 {list(shape)} for {shape[1]} states."
        )


def _student(pairs: SyntheticSet, scaling: Scaling) -> Policy:
    """Train one student as for a score."""
    return train_on_set(STUDENT, pairs, scaling, [torch.Generator().manual_seed(0)])


def _size(trial: Trial) -> int:
    """The method's tiny `synthetic_size`.

    Raises:
        NotApplicable: The method submits policies.
        Broken: The method submits sets, and has no such parameter.
    """
    if not isinstance(trial.whole.final, SyntheticSet):
        raise NotApplicable("It submits policies, which have no size.")
    size = getattr(trial.method, "synthetic_size", None)
    if not isinstance(size, int):
        raise Broken(
            "It has no parameter synthetic_size, by which sets are compared. Add "
            "`synthetic_size: int = 256` and make sets of that many pairs."
        )
    return size


def _require_size(wanted: int, found: int, where: str) -> None:
    if found != wanted:
        raise Broken(
            f"synthetic_size is {wanted}, but the set{where} has {found} pairs. Make as many as "
            f"asked, or raise an ObdBenchError that says how many there can be."
        )


def _require_says(error: ObdBenchError, what: str) -> None:
    if what not in str(error):
        raise Broken(
            f"The error does not say what is wrong: it should name {what}. It says: {error}"
        )


def _unclear(error: Exception, case: str) -> str:
    return (
        f"With {case} it raises {described(error)}. Raise an ObdBenchError that names what was "
        f"found and what was expected."
    )


def _difference(whole: Observed, others: Results, *, exact: bool = True) -> int | None:
    """The first outer step at which two runs differ; None where they do not."""
    observations = whole.toy.dataset.observations
    for step in sorted({*whole.results, *others}):
        if step not in whole.results or step not in others:
            return step
        pairs = [values_of(results[step], observations) for results in (whole.results, others)]
        if len(pairs[0]) != len(pairs[1]):
            return step
        for one, other in zip(*pairs, strict=True):
            if one.shape != other.shape or not _equal(one, other, exact):
                return step
    return None


def _equal(one: torch.Tensor, other: torch.Tensor, exact: bool) -> bool:
    return one.equal(other) if exact else torch.allclose(one, other, rtol=1e-4, atol=1e-5)


class _RandomOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records whether torch draws a random number, from whatever generator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _draws(trial: Trial) -> bool:
    """Whether a run draws random numbers of torch, or makes a generator of numpy."""
    operations, made = _RandomOperations(), []
    make: Callable[..., Any] = np.random.default_rng

    def noted(*arguments: Any, **named: Any) -> Any:
        made.append(arguments)
        return make(*arguments, **named)

    @contextmanager
    def watching() -> Iterator[None]:
        with operations, patch.object(np.random, "default_rng", noted):
            yield

    trial.run(during=watching())
    return operations.seen or bool(made)


def _arrays(dataset: Dataset) -> dict[str, Any]:
    """Arrays of a dataset, and those that it derived from them and cached."""
    return {
        **dataset.arrays(),
        "observations": dataset.observations,
        "next_observations": dataset.next_observations,
    }


def _tensors(teacher: NetworkTeacher) -> dict[str, Any]:
    """Tensors of a teacher."""
    layers = [tensor for layer in (*teacher.actor, *teacher.critics) for tensor in layer]
    return {
        "mean": teacher.observation_mean,
        "std": teacher.observation_std,
        **{f"tensor {index}": tensor for index, tensor in enumerate(layers)},
    }
