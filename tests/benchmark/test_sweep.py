"""A sweep file says which runs there are, and a slip in it is answered with what was meant."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from benchmark.config import BadConfiguration
from benchmark.errors import ObdBenchError
from benchmark.method import METHODS, Method
from benchmark.protocol import PROTOCOLS, protocol_named
from benchmark.registry import BrokenPlugin
from benchmark.spec import RunSpec
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.sweep import TAKEN, Sweep, build_sweep, read_sweep
from benchmark.teachers.teacher import TEACHERS

HEAD = """
name = "sizes"
datasets = ["hopper/medium"]
"""
RANDOM = """
[[methods]]
name = "random"
"""


def parse(text: str) -> Sweep:
    return build_sweep(tomllib.loads(text), "sweep.toml")


def parameter(sweep: Sweep, key: str) -> list[Any]:
    return [run.resolved_parameters[key] for run in sweep.runs]


def test_smallest_sweep_is_one_run_with_every_default() -> None:
    sweep = parse(HEAD + RANDOM)

    assert sweep.name == "sizes" and sweep.description == ""
    assert sweep.runs == (
        RunSpec.create(
            method="random",
            dataset="hopper/medium",
            parameters={},
            where="",
            protocol=PROTOCOLS["obd"],
        ),
    )
    assert sweep.runs[0].teacher == "none", "random declares no teacher"
    assert sweep.runs[0].student == StudentSpec()
    assert sweep.runs[0].evaluation_student is None


def test_file_is_read_as_its_text_says(tmp_path: Path) -> None:
    path = tmp_path / "sizes.toml"
    path.write_text(HEAD + 'description = "größer"\nprotocol = "quick"\n' + RANDOM)

    sweep = read_sweep(path)

    assert sweep.description == "größer"
    assert sweep.runs[0].protocol == PROTOCOLS["quick"]


def test_runs_are_every_combination_seed_by_seed() -> None:
    sweep = parse(
        """
name = "all"
datasets = ["hopper/medium", "hopper/medium-expert@2000"]
seeds = 3
[grid]
synthetic_size = [16, 64]
[[methods]]
name = "random"
[[methods]]
name = "dbc"
"""
    )

    assert len(sweep.runs) == 2 * 3 * 2 * 2
    assert [run.seed for run in sweep.runs] == [0] * 8 + [1] * 8 + [2] * 8
    assert {
        (run.dataset, run.method, run.parameters["synthetic_size"], run.seed) for run in sweep.runs
    } == {
        (dataset, method, size, seed)
        for dataset in ("hopper/medium", "hopper/medium-expert@2000")
        for method in ("random", "dbc")
        for size in (16, 64)
        for seed in range(3)
    }
    assert len(sweep.cells) == 8
    for cell_id, runs in sweep.cells.items():
        assert [run.seed for run in runs] == [0, 1, 2]
        assert {run.cell_id for run in runs} == {cell_id}


@pytest.mark.parametrize(
    ("seeds", "expected"), [("3", [0, 1, 2]), ("1", [0]), ("[7, 3]", [7, 3]), ("[4]", [4])]
)
def test_seeds_are_a_number_or_a_list(seeds: str, expected: list[int]) -> None:
    assert [run.seed for run in parse(HEAD + f"seeds = {seeds}" + RANDOM).runs] == expected


@pytest.mark.parametrize("seeds", ["0", "-1", "[]", "true", "[true]", "1.0", '"3"', '[1, "2"]'])
def test_other_seeds_are_refused(seeds: str) -> None:
    with pytest.raises(ObdBenchError, match=r"seeds in sweep\.toml is .*; expected how many"):
        parse(HEAD + f"seeds = {seeds}" + RANDOM)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 4_000_000_000" + RANDOM, "4,000,000,000 runs; expected at most 1,000,000"),
        ("seeds = 99999999999999999999" + RANDOM, "expected an integer from -2"),
        ("[grid]\n" + "".join(f"student.{key} = {list(range(1, 2001))}\n"
                              for key in ("width", "depth", "steps")) + RANDOM,
         "8,000,000,000 runs; expected at most"),
        (RANDOM + RANDOM, "Two entries of [[methods]] of sweep.toml ask for the same runs"),
        (RANDOM + "seeds = [1]" + RANDOM + "seeds = [2]" + RANDOM + "seeds = 3", "the same runs"),
        ("[grid]\nsynthetic_size = [8, 16, 8]" + RANDOM, "8 stands twice in synthetic_size in"),
        (RANDOM + "synthetic_size = -5", "synthetic_size of RandomSelection is -5"),
        ('[[methods]]\nname = "dbc"\nouter_momentum = 1.0', "outer_momentum of DBC is 1.0"),
        ('[[methods]]\nname = "dbc"\nouter_learning_rate = -1', "outer_learning_rate of DBC"),
        ("[student]\nlearning_rate = 0\n" + RANDOM, "student.learning_rate is 0"),
        ("[student]\nmomentum = -0.1\n" + RANDOM, "student.momentum is -0.1"),
        ("[student]\nweight_decay = -0.1\n" + RANDOM, "student.weight_decay is -0.1"),
        ('[student]\nactivation = "tanh"\n[[methods]]\nname = "dbc"',
         "DBC cannot distil for a student whose activation is 'tanh'"),
        ("[student]\ngradient_clip = 0.5\n[[methods]]\nname = \"sdw_obd\"",
         "SDWOBD cannot distil for a student whose gradient_clip is 0.5, which its gradients do "
         "not go through. Distil with no gradient_clip, and score under another student with"),
        ('[student]\noptimizer = "adam"\n[[methods]]\nname = "av_pbc"',
         'is \'adam\', which its gradients do not go through. Distil with optimizer = "sgd"'),
        ('[student]\nhead = "gaussian"\n[[methods]]\nname = "truncated_av_pbc"',
         'Distil with head = "mean" or "sampled" or "sampled_trained", and'),
        ('[student]\nschedule = "linear"\n[[methods]]\nname = "pbc"', "schedule is 'linear'"),
        ('[student]\nhead = "gaussian"\n[[methods]]\nname = "gradient_matching"',
         "GradientMatching cannot distil for a student whose head is 'gaussian'"),
        ('[student]\noptimizer = "adam"\n[[methods]]\nname = "trajectory_matching"',
         "TrajectoryMatching cannot distil for a student whose optimizer is 'adam'"),
        ('[[methods]]\nname = "truncated_av_pbc"\nwindow = 101',
         "window is 101, student.steps 100"),
        ('[student]\nmomentum = 0.5\n[[methods]]\nname = "truncated_av_pbc"', "and no momentum"),
        ('[student]\nsteps = 3\n[[methods]]\nname = "progressive_av_pbc"',
         "stages is 4 and student.steps 3; expected at least one step per stage"),
        ('[student]\nhead = "categorical"\n' + RANDOM,
         "student.head is 'categorical', for actions of a Discrete; those of Hopper-v5 are Box("),
        ('[student]\nhead = "mean"\n[protocol]\nactions = "sampled"\nname = "mine"\nstudents = 1\n'
         "episodes = 1\ncheckpoint_every = 1\nlast = 1\n" + RANDOM,
         "The protocol 'mine' samples actions, and head = 'mean' has only one."),
        ('[student]\nhead = "mean"\n[[methods]]\nname = "hades"\nactions = "sampled"',
         "HaDES samples actions, and student.head = 'mean' has only one."),
        ('[protocol]\nactions = "sampled"\nensemble = 2\nname = "mine"\nstudents = 1\n'
         "episodes = 1\ncheckpoint_every = 1\nlast = 1\n" + RANDOM,
         "The protocol 'mine' samples the actions of ensembles"),
    ],
)  # fmt: skip
def test_what_can_never_be_done_is_refused_before_any_run_is_made(text: str, message: str) -> None:
    with pytest.raises(ObdBenchError, match=re.escape(message)):
        parse(HEAD + text)


def test_sets_of_every_method_can_be_scored_with_hades_student_under_its_protocol() -> None:
    text = """
name = "scoring"
datasets = ["hopper/medium"]
protocol = "hades"
[evaluation_student]
recipe = "hades"
"""
    methods = ["random", "dbc", "gradient_matching", "truncated_av_pbc", "hades", "bc_whole"]
    runs = parse(text + "".join(f'[[methods]]\nname = "{name}"\n' for name in methods)).runs
    assert [run.method for run in runs] == methods
    for run in runs:
        assert run.student == StudentSpec()
        assert run.scoring_student == RECIPES["hades"]
        assert run.protocol == protocol_named("hades")


def test_the_shipped_sweep_of_hades_scoring_has_its_student_and_protocol() -> None:
    for run in shipped("hades_scoring").runs:
        assert run.scoring_student == dataclasses.replace(RECIPES["hades"], steps=200)
        assert (run.student.head, run.student.activation) == ("sampled", "relu")
        assert (run.protocol.actions, run.protocol.episodes) == ("sampled", 4)


@pytest.mark.parametrize("table", ["student", "evaluation_student"])
def test_a_recipe_is_what_a_students_settings_differ_from(table: str) -> None:
    run = parse(HEAD + f'[{table}]\nwidth = 64\nrecipe = "hades"\nsteps = 100' + RANDOM).runs[0]
    expected = dataclasses.replace(RECIPES["hades"], width=64, steps=100)
    assert run.scoring_student == expected
    assert run.student == (expected if table == "student" else StudentSpec())


def test_a_recipe_may_be_an_axis_and_an_unknown_one_is_answered_with_the_nearest() -> None:
    axis = '[grid]\nevaluation_student.recipe = ["obd", "hades"]'
    runs = parse(HEAD + axis + RANDOM).runs
    assert [run.scoring_student for run in runs] == [RECIPES["obd"], RECIPES["hades"]]
    with pytest.raises(ObdBenchError, match=r"recipe in \[student\] of .* 'hade'. Did .* 'hades'"):
        parse(HEAD + '[student]\nrecipe = "hade"' + RANDOM)


@pytest.mark.parametrize(
    "student", ['activation = "tanh"', 'head = "gaussian"', "gradient_clip = 0.5"]
)
@pytest.mark.parametrize("method", ["distribution_matching", "evolution_strategies", "random"])
def test_methods_that_can_serve_hades_student_take_it(method: str, student: str) -> None:
    assert len(parse(HEAD + f'[student]\n{student}\n[[methods]]\nname = "{method}"').runs) == 1


def test_a_dataset_that_stands_twice_is_refused_in_whatever_spelling() -> None:
    head = HEAD.replace('"hopper/medium"', '"hopper/medium", "hopper/medium@200000"')
    with pytest.raises(ObdBenchError, match="'hopper/medium' stands twice in datasets of"):
        parse(head + RANDOM)


def test_shared_axis_is_for_the_methods_that_have_it() -> None:
    sweep = parse(
        HEAD
        + """
[grid]
outer_steps = [10, 20]
[[methods]]
name = "random"
[[methods]]
name = "dbc"
"""
    )

    by_method = {m: [r for r in sweep.runs if r.method == m] for m in ("random", "dbc")}
    assert len(by_method["random"]) == 1
    assert [run.parameters["outer_steps"] for run in by_method["dbc"]] == [10, 20]


def test_own_axis_is_for_its_method_alone() -> None:
    sweep = parse(
        HEAD
        + """
[[methods]]
name = "dbc"
grid.outer_learning_rate = [0.1, 0.3]
[[methods]]
name = "pbc"
"""
    )

    assert [(run.method, run.resolved_parameters["outer_learning_rate"]) for run in sweep.runs] == [
        ("dbc", 0.1),
        ("dbc", 0.3),
        ("pbc", 0.1),
    ]


@pytest.mark.parametrize("own", ["synthetic_size = 8", "grid.synthetic_size = [8]"])
def test_what_a_method_says_of_itself_goes_before_the_shared_grid(own: str) -> None:
    sweep = parse(
        HEAD
        + f"""
[grid]
synthetic_size = [16, 64]
[[methods]]
name = "random"
{own}
[[methods]]
name = "dbc"
"""
    )

    assert parameter(sweep, "synthetic_size") == [8, 16, 64]


@pytest.mark.parametrize(
    ("axis", "methods", "which"),
    [
        ("synthetic_size", RANDOM + "synthetic_size = 8", "every method"),
        ("synthetic_size", RANDOM + "grid.synthetic_size = [8]", "every method"),
        (
            "outer_steps",
            RANDOM + RANDOM.replace("random", "dbc") + "outer_steps = 8",
            "every method with it",
        ),
        ("student.width", RANDOM + "grid.student.width = [8]", "every method"),
    ],
)
def test_axis_that_every_method_gives_itself_is_refused(
    axis: str, methods: str, which: str
) -> None:
    with pytest.raises(BadConfiguration) as error:
        parse(HEAD + f"[grid]\n{axis} = [16, 64]\n" + methods)
    assert f"{axis} in [grid] of sweep.toml varies nothing: {which} gives it itself" in str(
        error.value
    )


def test_method_may_stand_twice_with_other_settings() -> None:
    sweep = parse(HEAD + RANDOM + "synthetic_size = 8" + RANDOM + "synthetic_size = 9")

    assert parameter(sweep, "synthetic_size") == [8, 9]


@pytest.mark.parametrize(
    "axis",
    ['"student.width" = [32, 64]', "student.width = [32, 64]", "[grid.student]\nwidth = [32, 64]"],
)
def test_dotted_axis_varies_the_student(axis: str) -> None:
    text = "[student]\nsteps = 50\nwidth = 8\n"
    sweep = parse(HEAD + text + f"[grid]\n{axis}\n" + RANDOM)

    assert [run.student for run in sweep.runs] == [
        StudentSpec(width=32, steps=50),
        StudentSpec(width=64, steps=50),
    ]


def test_dotted_axis_of_one_method_leaves_the_others() -> None:
    sweep = parse(HEAD + RANDOM + '"grid"."student.width" = [32, 64]\n[[methods]]\nname = "dbc"\n')

    assert [(run.method, run.student.width) for run in sweep.runs] == [
        ("random", 32),
        ("random", 64),
        ("dbc", 256),
    ]


def test_protocol_axis_varies_a_named_protocol_and_says_so() -> None:
    sweep = parse(HEAD + 'protocol = "smoke"\n[grid]\nprotocol.students = [3, 5]\n' + RANDOM)

    assert [run.protocol for run in sweep.runs] == [
        dataclasses.replace(PROTOCOLS["smoke"], name="smoke (varied)", students=count)
        for count in (3, 5)
    ]


def test_protocol_may_be_a_table() -> None:
    table = """
[protocol]
name = "mine"
students = 1
episodes = 2
checkpoint_every = 3
last = 4
"""
    protocol = parse(HEAD + table + RANDOM).runs[0].protocol

    assert dataclasses.astuple(protocol) == ("mine", 1, 2, 3, 4, 1, 0, "mode")


PBC = '[[methods]]\nname = "pbc"\n'


def test_teacher_axis_varies_the_teacher_of_methods_that_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TEACHERS._entries, "other", TEACHERS["td3_bc"])
    grid = '[grid]\nteacher = ["td3_bc", "other"]\n'

    assert [r.teacher for r in parse(HEAD + grid + PBC).runs] == ["td3_bc", "other"]
    assert [r.teacher for r in parse(HEAD + grid + RANDOM).runs] == ["none"], "not done twice"


BOTH = 'name = "s"\ndatasets = ["hopper/medium", "hopper/medium-replay"]\n'


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('default = "iql"\n"hopper/medium-replay" = "cal_ql"', ["iql", "cal_ql"]),
        ('"hopper/medium-replay" = "cal_ql:1"', ["td3_bc", "cal_ql:1"]),
        ('"hopper/medium" = "iql"\n"hopper/medium-replay" = "cal_ql"', ["iql", "cal_ql"]),
    ],
)
def test_teacher_may_be_another_one_per_dataset(table: str, expected: list[str]) -> None:
    sweep = parse(f"{BOTH}[teacher]\n{table}\n{PBC}{RANDOM}")
    assert [run.teacher for run in sweep.runs if run.method == "pbc"] == expected
    assert {run.teacher for run in sweep.runs if run.method == "random"} == {"none"}


def test_an_axis_of_teachers_goes_before_those_per_dataset() -> None:
    table = '[teacher]\n"hopper/medium-replay" = "cal_ql"\n[grid]\nteacher = ["iql"]\n'
    assert {run.teacher for run in parse(BOTH + table + PBC).runs} == {"iql"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            '[teacher]\n"hopper/medium-replaz" = "cal_ql"\n',
            r"'hopper/medium-replaz' in \[teacher\] of .* Did you mean 'hopper/medium-replay'",
        ),
        ('[density]\n"walker2d/medium" = "kde"\n', r"'walker2d/medium' in \[density\]"),
        ("[teacher]\ndefault = 1\n", "teacher in .*; expected a string or a table"),
        ('[teacher]\ndefault = "td3bc"\n', "Did you mean 'td3_bc'"),
        ("[grid]\nteacher = [{}]\n", "teacher in .* is {}; expected a name"),
    ],
)
def test_a_teacher_of_no_dataset_or_of_another_kind_is_refused(table: str, message: str) -> None:
    with pytest.raises(ObdBenchError, match=message):
        parse(BOTH + table + PBC)


def test_density_is_a_key_and_an_axis_for_methods_that_need_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(METHODS["pbc"]), "needs", frozenset({"dataset", "log_density"}))
    grid = '[grid]\ndensity = ["maf", "kde"]\n'

    assert [r.density for r in parse(HEAD + 'density = "knn"\n' + PBC).runs] == ["knn"]
    assert [r.density for r in parse(HEAD + PBC).runs] == ["maf"]
    assert [r.density for r in parse(HEAD + grid + PBC).runs] == ["maf", "kde"]
    assert [r.density for r in parse(HEAD + grid + RANDOM).runs] == ["none"], "not done twice"


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("[1, 2, 1]", r"seeds in sweep\.toml is \[1, 2, 1\]; expected each seed once"),
        ("[1, -2]", r"has seed -2; expected an integer from 0 to 2\^63-1"),
        (f"[{2**63 - 1}, {2**63}]", r"seeds in .* 9223372036854775808\]; expected an integer"),
    ],
)
def test_seeds_that_are_no_seeds_or_stand_twice_are_refused(seeds: str, message: str) -> None:
    with pytest.raises(ObdBenchError, match=message):
        parse(HEAD + f"seeds = {seeds}" + RANDOM)


def test_a_method_may_have_seeds_of_its_own() -> None:
    runs = parse(HEAD + "seeds = 2\n" + RANDOM + "seeds = 4\n" + PBC).runs

    assert [r.seed for r in runs if r.method == "random"] == [0, 1, 2, 3]
    assert [r.seed for r in runs if r.method == "pbc"] == [0, 1]
    with pytest.raises(ObdBenchError, match=r"seeds of random in sweep\.toml is 0; expected"):
        parse(HEAD + RANDOM + "seeds = 0\n")


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", "two words"])
def test_a_name_that_cannot_name_files_is_refused(name: str) -> None:
    with pytest.raises(ObdBenchError, match=r"The name in sweep.toml is .* become names of files"):
        parse(HEAD.replace("sizes", name) + RANDOM)


@pytest.mark.parametrize("key", ["students", "episodes", "checkpoint_every", "last"])
def test_a_protocol_of_nothing_is_refused(key: str) -> None:
    numbers = {"students": 1, "episodes": 1, "checkpoint_every": 1, "last": 1, key: 0}
    table = '[protocol]\nname = "mine"\n' + "".join(f"{k} = {v}\n" for k, v in numbers.items())
    with pytest.raises(ObdBenchError, match=f"{key} of the protocol 'mine' is 0; expected 1"):
        parse(HEAD + table + RANDOM)


def test_evaluation_student_is_the_student_with_its_differences() -> None:
    tables = "[student]\nwidth = 64\nsteps = 50\n[evaluation_student]\ndepth = 2\n"
    run = parse(HEAD + tables + RANDOM).runs[0]

    assert run.student == StudentSpec(width=64, steps=50)
    assert run.evaluation_student == StudentSpec(width=64, steps=50, depth=2)


def test_a_method_that_brings_its_student_is_scored_by_it_where_the_sweep_names_no_other() -> None:
    tables = "[student]\nwidth = 64\nsteps = 50\n"
    methods = '[[methods]]\nname = "ppmo"\n[[methods]]\nname = "av_pbc_published"\n'
    ppmo, published = parse(HEAD + tables + methods).runs
    own = dataclasses.replace(RECIPES["ppmo"], head="gaussian", width=64)
    assert (ppmo.student, ppmo.evaluation_student) == (own, None)
    assert (published.student.head, published.evaluation_student) == ("sampled_trained", None)
    ppmo, published = parse(HEAD + tables + "[evaluation_student]\ndepth = 2\n" + methods).runs
    assert ppmo.scoring_student == dataclasses.replace(own, depth=2)
    assert published.scoring_student == dataclasses.replace(published.student, depth=2)
    _, published = parse(HEAD + tables + '[evaluation_student]\nrecipe = "obd"\n' + methods).runs
    assert published.scoring_student == StudentSpec()


def test_presets_of_hades_take_every_setting_that_the_sweep_names() -> None:
    """Also one that the suite's student has by default."""
    hades = '[[methods]]\nname = "hades_published"\n'
    (run,) = parse(HEAD + "[student]\nsteps = 100\n" + hades).runs
    assert run.student == dataclasses.replace(RECIPES["hades"], steps=100)
    sweep = parse(HEAD + "[grid]\nevaluation_student.width = [128, 256, 512]\n" + hades)
    assert [run.scoring_student.width for run in sweep.runs] == [128, 256, 512]
    (run,) = parse(HEAD + '[evaluation_student]\nrecipe = "obd"\n' + hades).runs
    assert (run.student, run.scoring_student) == (RECIPES["hades"], StudentSpec())


def test_evaluation_student_follows_the_axes_of_the_student_and_its_own() -> None:
    sweep = parse(
        HEAD
        + """
[student]
steps = 50
[grid]
student.width = [32, 64]
evaluation_student.depth = [2, 6]
"""
        + RANDOM
    )

    assert [(run.student, run.evaluation_student) for run in sweep.runs] == [
        (StudentSpec(steps=50, width=w), StudentSpec(steps=50, width=w, depth=d))
        for w in (32, 64)
        for d in (2, 6)
    ]


def test_same_run_is_done_once_in_the_order_of_its_first_mention() -> None:
    sweep = parse(
        """
name = "twice"
datasets = ["hopper/medium"]
seeds = [5, 0]
[grid]
teacher = ["td3_bc", "iql"]      # which random has not
synthetic_size = [64, 256]
"""
        + RANDOM
    )

    assert [(run.seed, run.resolved_parameters["synthetic_size"]) for run in sweep.runs] == [
        (5, 64),
        (5, 256),
        (0, 64),
        (0, 256),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "seed = 3" + RANDOM, "Unknown key 'seed' in sweep.toml. Did you mean 'seeds'"),
        (
            HEAD + "[student]\nwidht = 64" + RANDOM,
            "Unknown key 'widht' in [student] of sweep.toml. Did you mean 'width'",
        ),
        (
            HEAD + "[evaluation_student]\nwidht = 64" + RANDOM,
            "Unknown key 'widht' in [evaluation_student] of sweep.toml. Did you mean 'width'",
        ),
        (
            HEAD + RANDOM + "syntetic_size = 64",
            "Unknown key 'syntetic_size' in [[methods]] random of sweep.toml. Did you mean "
            "'synthetic_size'",
        ),
        (
            HEAD + "[grid]\nsyntetic_size = [1]" + RANDOM,
            "Unknown axis 'syntetic_size' in [grid] of sweep.toml. Did you mean 'synthetic_size'",
        ),
        (
            HEAD + RANDOM + "grid.syntetic_size = [1]",
            "Unknown axis 'syntetic_size' in the grid of random in sweep.toml. Did you mean "
            "'synthetic_size'",
        ),
        (
            HEAD + "[grid]\nstduent.width = [1]" + RANDOM,
            "Unknown axis 'stduent.width' in [grid] of sweep.toml. Did you mean 'student.width'",
        ),
        (
            HEAD + RANDOM + "grid.stduent.width = [1, 2]",
            "Unknown axis 'stduent.width' in the grid of random in sweep.toml. Did you mean "
            "'student.width'",
        ),
        (
            HEAD + "[grid]\nprotocl.students = [1]" + RANDOM,
            "Unknown axis 'protocl.students' in [grid] of sweep.toml. Did you mean "
            "'protocol.students'",
        ),
        (HEAD + "[grid]\nstudent.widht = [1]" + RANDOM, "Did you mean 'width'"),
        (HEAD + RANDOM.replace("random", "randm"), "No method is called 'randm'. Did you mean"),
        (
            HEAD.replace("medium", "mediun") + RANDOM,
            "No dataset is called 'hopper/mediun'. Did you mean 'hopper/medium'",
        ),
        (HEAD.replace("medium", "medium@many") + RANDOM, "The size in 'hopper/medium@many'"),
        (HEAD + 'protocol = "quik"' + RANDOM, "No protocol is called 'quik'. Did you mean 'quick'"),
        (HEAD + 'teacher = "td3bc"' + RANDOM, "No teacher recipe is called 'td3bc'. Did you mean"),
        (
            HEAD + '[grid]\nteacher = ["td3bc"]' + RANDOM,
            "No teacher recipe is called 'td3bc'. Did you mean",
        ),
    ],
)
def test_slip_is_answered_with_the_nearest_name(text: str, message: str) -> None:
    with pytest.raises(ObdBenchError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RANDOM, "sweep.toml lacks 'name', 'datasets'"),
        ('name = "x"' + RANDOM, "sweep.toml lacks 'datasets'"),
        (
            'name = "x"\ndatasets = []' + RANDOM,
            "datasets in sweep.toml is [] (list); expected a list, each entry a string, not",
        ),
        (
            'name = "x"\ndatasets = "y"' + RANDOM,
            "datasets in sweep.toml is 'y' (str); expected a list",
        ),
        (
            'name = "x"\ndatasets = [3]' + RANDOM,
            "datasets in sweep.toml is [3] (list); expected a list, each entry a string",
        ),
        (HEAD, "sweep.toml lacks 'methods'"),
        (
            HEAD + 'methods = ["random"]',
            "methods in sweep.toml is ['random'] (list); expected a list, each entry a table",
        ),
        (HEAD + RANDOM + "[[methods]]\nsynthetic_size = 3", "needs a name; got {'synthetic_size'"),
        (HEAD + "teacher = 3" + RANDOM, "teacher in sweep.toml is 3 (int); expected a string"),
        (HEAD + "density = 3" + RANDOM, "density in sweep.toml is 3 (int); expected a string"),
        (HEAD + "[grid]\nteacher = [3]" + RANDOM, "teacher in sweep.toml is 3; expected a name"),
        (
            HEAD + 'student = "mlp"' + RANDOM,
            "student in sweep.toml is 'mlp' (str); expected a table",
        ),
        (
            HEAD + "evaluation_student = 3" + RANDOM,
            "evaluation_student in sweep.toml is 3 (int); expected a table",
        ),
        (
            HEAD + "protocol = 3" + RANDOM,
            "protocol in sweep.toml is 3 (int); expected a string or a table",
        ),
        (
            HEAD + "protocol = 3\n[grid]\nprotocol.students = [3]" + RANDOM,
            "protocol in sweep.toml is 3 (int); expected a string or a table",
        ),
        (HEAD + "[protocol]\nstudents = 3" + RANDOM, "lacks 'name', 'episodes'"),
        (HEAD + "grid = 3" + RANDOM, "grid in sweep.toml is 3 (int); expected a table"),
        (HEAD + "[grid]\nsynthetic_size = 3" + RANDOM, "expected a list of choices"),
        (HEAD + "[grid]\nsynthetic_size = []" + RANDOM, "expected a list of choices"),
        (HEAD + '[grid]\nsynthetic_size = ["a"]' + RANDOM, "synthetic_size"),
        (
            HEAD + RANDOM + "synthetic_size = 3\ngrid.synthetic_size = [4]",
            "'synthetic_size' of [[methods]] random in sweep.toml has a value and an axis",
        ),
        (HEAD + "[student]\ndepth = 0" + RANDOM, "student.depth is 0; expected 1 or more"),
    ],
)
def test_malformed_sweep_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ObdBenchError) as error:
        parse(text)
    assert message in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObdBenchError, match=r"sizes\.toml does not exist"):
        read_sweep(tmp_path / "sizes.toml")


def test_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sizes.toml"
    path.write_text("name = \n")

    with pytest.raises(ObdBenchError, match=r"sizes\.toml is not TOML: .*line 1"):
        read_sweep(path)


@pytest.mark.parametrize(
    ("digits", "message"),
    [(21, "expected an integer from"), (5000, "is not TOML: .* 5000 digits")],
)
def test_integer_of_too_many_digits_is_refused(digits: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sizes.toml"
    path.write_text(f'{HEAD}[[methods]]\nname = "dbc"\nouter_steps = {"9" * digits}\n')
    with pytest.raises(BadConfiguration, match=message):
        read_sweep(path)


def shipped(name: str) -> Sweep:
    return read_sweep(Path(str(resources.files("obdbench.sweeps") / f"{name}.toml")))


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("ensembles", ["main_table"]),
        ("cross_architecture", ["main_table", "cross_architecture"]),  # ten seeds
        ("d4rl_ensembles", ["d4rl_main_table"]),
        ("d4rl_cross_architecture", ["d4rl_main_table"]),
    ],
)
def test_shipped_sweeps_that_change_who_is_scored_score_the_sets_of_runs_as_usual(
    name: str, sources: list[str]
) -> None:
    wanted = {_distillation(run) for run in shipped(name).runs if not _as_usual(run)}
    usual = [run for plan in sources for run in shipped(plan).runs if _as_usual(run)]
    assert wanted
    assert wanted <= set(map(_distillation, usual))


def _as_usual(run: RunSpec) -> bool:
    """Whether single students of the kind that the sets are made for are scored."""
    return run.evaluation_student is None and run.protocol.ensemble == 1


def _distillation(run: RunSpec) -> str:
    """Everything that a run's sets depend on, and when they are scored."""
    every = run.protocol.checkpoint_every
    return json.dumps([run.method, run.parameters, run.teacher, every, run.distillation_axes])


def test_sweeps_on_d4rl_take_the_authors_outer_steps_on_each_environment() -> None:
    """Facts of the authors' code: `../shared/facts/obd_paper.json`, and docs/deviations.md."""
    published = {"dbc": (200_000, 50_000), "pbc": (200_000, 50_000), "av_pbc": (50_000, 20_000)}
    sweep = shipped("d4rl_main_table")
    assert len({run.dataset for run in sweep.runs}) == 9
    for method, (elsewhere, hopper) in published.items():
        runs = [run for run in sweep.runs if run.method == f"{method}_published"]
        assert len(runs) == 9 * 5
        for run in runs:
            wanted = hopper if run.dataset.startswith("d4rl/hopper") else elsewhere
            assert run.resolved_parameters["outer_steps"] == wanted
    for name in ("main_table", "sdw_main", "sizes", "ensembles", "cross_architecture"):
        for run in shipped(f"d4rl_{name}").runs:
            assert run.teacher in ("none", "cal_ql_corl")
            assert run.density in ("none", "maf_published")
    assert sum(run.method == "random" for run in sweep.runs) == 9 * 10


# --- datasets of a method -------------------------------------------------------------------------
def test_a_method_may_be_for_some_of_the_datasets_only() -> None:
    text = HEAD.replace('["hopper/medium"]', '["hopper/medium", "walker2d/medium"]')
    assert text != HEAD
    sweep = parse(
        text
        + 'seeds = 2\n[[methods]]\nname = "dbc"\ndatasets = ["hopper/*"]\nouter_steps = 7\n'
        + '[[methods]]\nname = "dbc"\ndatasets = ["walker2d/medium"]\nouter_steps = 9\n'
        + RANDOM
    )
    found = [(r.dataset, r.method, r.parameters.get("outer_steps"), r.seed) for r in sweep.runs]
    assert sorted(found, key=str) == sorted(
        [
            (dataset, method, steps, seed)
            for seed in (0, 1)
            for dataset, method, steps in [
                ("hopper/medium", "dbc", 7),
                ("walker2d/medium", "dbc", 9),
                ("hopper/medium", "random", None),
                ("walker2d/medium", "random", None),
            ]
        ],
        key=str,
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["hoper/*"]', r"'hoper/\*' in datasets of dbc in sweep.toml matches none of the sweep's"),
        ('["walker2d/medium"]', "matches none of the sweep's datasets"),
        ('"hopper/*"', "datasets of dbc in sweep.toml is 'hopper/\\*'; expected a list of names"),
        ("[]", r"datasets of dbc in sweep.toml is \[\]; expected a list of names or patterns"),
    ],
)
def test_datasets_of_a_method_that_match_nothing_are_refused(value: str, message: str) -> None:
    with pytest.raises(ObdBenchError, match=message):
        parse(HEAD + f'[[methods]]\nname = "dbc"\ndatasets = {value}\n')


def test_the_quick_starts_curves_have_at_least_eight_points() -> None:
    sweep = read_sweep(Path(str(resources.files("obdbench.sweeps") / "quickstart.toml")))
    for run in sweep.runs:
        steps = run.resolved_parameters.get("outer_steps")
        if steps:
            assert sum(run.protocol.due(step, steps) for step in range(steps + 1)) >= 8
    assert {run.protocol.name for run in sweep.runs} == {"quickstart"}, "no name for two protocols"


# --- hyper-parameters that a sweep could not set --------------------------------------------------


@pytest.mark.parametrize("name", TAKEN)
def test_no_hyper_parameter_has_the_name_of_a_key_with_another_meaning(name: str) -> None:
    """`seeds = 3` of such a method would be its number of runs, and reach it never."""
    fields = {"__annotations__": {name: int}, name: 1, "distill": lambda self, problem, monitor: 0}
    method = dataclasses.dataclass(frozen=True)(type("Mine", (Method,), fields))
    with pytest.raises(BrokenPlugin, match=f"has a hyper-parameter '{name}', by which a sweep"):
        METHODS.register("mine", method)
    assert "mine" not in METHODS
