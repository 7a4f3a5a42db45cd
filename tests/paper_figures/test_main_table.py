"""The main table in its five forms and two layouts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from benchmark.spec import RunSpec
from paper_figures.main_table import main_table
from paper_figures.table import Cell, Table, csv_text, escape_latex
from results.aggregate import cell_table
from results.frames import runs_frame
from results.labels import dataset_order
from results.statistics import stratified
from tests.results.conftest import MakeRecord, Record, build_spec
from tests.tiny_runs import altered

Sweep = Callable[..., list[Record]]
DATASETS = ["hopper/medium", "walker2d/medium", "ant/medium"]


def table_of(records: Sequence[Record], asked: Sequence[RunSpec] = ()) -> Table:
    return main_table(cell_table(runs_frame(records, asked)))


def line_with(text: str, *words: str) -> str:
    (line,) = (line for line in text.splitlines() if all(word in line for word in words))
    return line


def printed(table: Table, width: int = 300) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table.rich())
    file: Any = console.file
    return str(file.getvalue())


def test_latex_sets_the_best_bold_marks_ties_and_rules_off_references(make_sweep: Sweep) -> None:
    latex = table_of(make_sweep()).latex()
    assert r"\textbf{26.8} {\scriptsize [" in line_with(latex, r"av\_pbc &")
    assert r"]}$^{\dagger}$ &" in line_with(latex, "& pbc &")
    for other in ("& dbc &", "& teacher &", r"& bc\_whole &"):
        assert "textbf" not in line_with(latex, other)
        assert "dagger" not in line_with(latex, other)
    assert latex.index("& pbc &") < latex.rindex(r"\midrule") < latex.index(r"bc\_whole &")
    rules = (r"\toprule", r"\midrule", r"\bottomrule")
    assert [latex.count(rule) for rule in rules] == [1, 2, 1]
    assert latex.count("{") == latex.count("}")


def test_latex_rows_have_as_many_cells_as_columns(make_sweep: Sweep) -> None:
    for datasets in (DATASETS[:1], DATASETS):
        table = table_of(make_sweep(datasets))
        rows = [line for line in table.latex().splitlines() if line.endswith(r"\\")]
        assert {row.count(" & ") for row in rows} == {len(table.columns) - 1}
        assert len(table.alignment) == len(table.columns)


def noted(make_record: MakeRecord, note: str) -> Table:
    """A table in which a text of a third party, a setting's value, stands in a label."""
    notes = [{"note": note}, {"note": "plain"}]
    return table_of([make_record("pbc", parameters=p, score=-1.25) for p in notes])


def test_latex_escapes_what_a_third_party_may_write(make_record: MakeRecord) -> None:
    latex = noted(make_record, "50%_of_$&#{x}~^\\<a|b>").latex()
    assert (
        r"50\%\_of\_\$\&\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
        r"\textless{}a\textbar{}b\textgreater{}"
    ) in latex
    assert r"\textbf{$-$1.2}" in latex


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("-3.0", "$-$3.0"), ("hopper-v5", "hopper-v5"), ("[-1.0, 2.0]", "[$-$1.0, 2.0]")],
)
def test_latex_has_minus_signs_before_numbers_only(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


def test_markdown_sets_the_best_bold_and_marks_ties(make_sweep: Sweep) -> None:
    markdown = table_of(make_sweep()).markdown()
    assert "| **26.8** [" in line_with(markdown, "| av_pbc |")
    assert "]\u2020 |" in line_with(markdown, "| pbc |")
    assert line_with(markdown, "| dbc |").endswith("| 5 | 22.0 | 1,000 | 0 | data, teacher |")


def test_markdown_keeps_a_bar_in_a_text_inside_its_cell(make_record: MakeRecord) -> None:
    assert r"| pbc (note=a\|b) |" in noted(make_record, "a|b").markdown()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("[a](http://b)", r"[a]\(http://b)"),
        ("![a](http://b)", r"![a]\(http://b)"),
        ("<http://b>", r"\<http://b>"),
        ("`a` *b* $c$", r"\`a\` \*b\* \$c\$"),
        ("a\n\n# b", "a  # b"),
        ("a\u2028| b", r"a \| b"),
        ("a\x1b[31mb", r"a\\x1b[31mb"),
    ],
)
def test_markdown_shows_a_text_as_it_is_in_one_line(text: str, escaped: str) -> None:
    table = Table(("c",), (((Cell(text),),),), text, "l", pd.DataFrame())
    head, _, row, _, caption = table.markdown().splitlines()
    assert (head, row, caption) == ("| c |", f"| {escaped} |", escaped)


def test_latex_keeps_a_row_a_row_whatever_it_begins_with() -> None:
    rows = tuple((Cell(text),) for text in ("[3cm]", "*", "a\n\nb", "a\x00b"))
    lines = Table(("c",), (rows,), "", "l", pd.DataFrame()).latex().splitlines()
    at = lines.index("\\midrule")
    assert lines[at + 1 : at + 5] == [
        r"{}[3cm] \\", r"{}* \\", r"a  b \\", r"a\textbackslash{}x00b \\",
    ]  # fmt: skip


def test_csv_holds_no_text_that_a_spreadsheet_computes() -> None:
    texts = ["=cmd|'/c calc'!A1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "a=1", "-1.5 2.0"]
    numbers = [-1.5, float("nan"), 1e-9, -3.0, 0.1, 2.0, 3.0, 4.0]
    frame = pd.DataFrame({"text": texts, "number": numbers, "count": range(-4, 4)})
    found = list(csv.DictReader(io.StringIO(csv_text(frame), newline="")))
    assert [row["text"] for row in found] == [
        *(f"'{text}" for text in texts[:5]), "' =1", *texts[6:]
    ]  # fmt: skip
    assert [row["number"] for row in found] == [repr(n) if n == n else "" for n in numbers]
    assert [int(row["count"]) for row in found] == list(range(-4, 4))
    assert frame["text"].tolist() == texts


def test_terminal_table_prints_brackets_as_they_stand(make_sweep: Sweep) -> None:
    text = printed(table_of(make_sweep()))
    assert "26.8 [22.4, 31.2]" in text  # 26.8 +- 2.776 sd / sqrt(5)
    assert "Protocol quick: 4 students x 10 episodes" in text


@pytest.mark.parametrize("datasets", [DATASETS[:1], DATASETS], ids=["long", "wide"])
def test_a_notebook_shows_well_formed_html_with_every_cell(
    make_sweep: Sweep, datasets: list[str]
) -> None:
    table = table_of(make_sweep(datasets))
    page = ElementTree.fromstring(table._repr_html_())
    assert page.findtext("caption") == table.caption
    assert [head.text for head in page.findall("thead/tr/th")] == list(table.columns)
    shown = [
        [["".join(cell.itertext()) for cell in row] for row in body]
        for body in page.findall("tbody")
    ]
    assert shown == [
        [
            [f"{cell.text} {cell.detail}".strip() + "\u2020" * cell.tied for cell in row]
            for row in group
        ]
        for group in table.groups
    ]
    best = [cell.text for group in table.groups for row in group for cell in row if cell.best]
    assert [bold.text for bold in page.iter("b")] == best != []
    sides = [cell.get("style") for cell in page.findall("tbody/tr")[0]]
    assert sides == [
        {"l": "text-align: left", "r": "text-align: right"}[s] for s in table.alignment
    ]


def test_html_escapes_what_a_third_party_may_write(make_record: MakeRecord) -> None:
    name = "<script>alert('1 & 2')</script>"
    page = noted(make_record, name)._repr_html_()
    assert "<script>" not in page
    assert name in "".join(ElementTree.fromstring(page).itertext())


def test_csv_holds_unrounded_numbers_and_every_seed(make_record: MakeRecord) -> None:
    scores = [1 / 3, 2 / 3, 5 / 3]
    text = table_of([make_record(seed=i, score=s) for i, s in enumerate(scores)]).csv()
    row = pd.read_csv(io.StringIO(text)).iloc[0]
    assert [float(score) for score in row["scores"].split()] == scores
    assert row["value"] == pytest.approx(sum(scores) / 3)
    assert (row["n"], row["n_expected"], row["n_failed"]) == (3, 3, 0)


def test_caption_states_seeds_level_protocol_teacher_and_completeness(make_sweep: Sweep) -> None:
    caption = table_of(make_sweep()).caption
    for statement in (
        "mean over 5 seeds with 95 % interval (Student's t).",
        "not apart from it, the interval of the difference, paired by seed",
        "Protocol quick: 4 students x 10 episodes, last 3 checkpoints.",
        "Teacher's own return: hopper/medium-replay 2500.0 (normalized 80.0), td3_bc.",
        "No expected run is missing or failed.",
    ):
        assert statement in caption


def test_a_caption_speaks_of_teachers_only_where_one_is_used(make_record: MakeRecord) -> None:
    def caption(*needs: str) -> str:
        record = make_record("hades" if "environment" in needs else "pbc", needs=needs)
        return table_of([altered(record, teacher=None)]).caption

    assert "Teacher's return unknown. " in caption("dataset", "teacher")
    without = caption("environment")
    assert "Teacher's" not in without
    assert "  " not in without


def test_cells_with_other_files_of_one_name_are_named(make_record: MakeRecord) -> None:
    """A teacher that was trained on another processor is another teacher."""
    ours, theirs = make_record(), make_record("pbc")
    assert "several files" not in table_of([ours, theirs]).caption
    theirs = altered(theirs, teacher__sha256="12345678" + "0" * 56)
    assert (
        "One name, several files (sha256): teacher td3_bc on hopper/medium-replay: "
        "av_pbc 00000000; pbc 12345678." in table_of([ours, theirs]).caption
    )
    theirs = altered(theirs, teacher__return_=1500.0, teacher__normalized_return=50.0)
    assert (
        "Teacher's own return: hopper/medium-replay 2500.0 (normalized 80.0; sha256 00000000), "
        "1500.0 (normalized 50.0; sha256 12345678), td3_bc." in table_of([ours, theirs]).caption
    ), "a mean of two teachers is the return of none"


def test_missing_failed_and_single_seeds_are_shown(make_record: MakeRecord) -> None:
    records = [make_record(seed=0, score=20.0), make_record(seed=1, error="MemoryError")]
    records += [make_record("pbc", score=10.0), make_record("dbc", error="OSError")]
    asked = [build_spec(method, seed=s) for method in ("av_pbc", "hades") for s in range(3)]
    table = table_of(records, asked)
    markdown = table.markdown()
    assert "**20.0** (n=1 of 3) | 1/3 |" in line_with(markdown, "| av_pbc |")
    assert "| 10.0 (n=1) | 1 |" in line_with(markdown, "| pbc |")
    assert "| failed (0 of 1) | 0/1 |" in line_with(markdown, "| dbc |")
    assert "| missing (0 of 3) | 0/3 |" in line_with(markdown, "| hades |")
    assert (
        "av_pbc on hopper/medium-replay has 1 of 3 seeds (1 failed: MemoryError, 1 without a "
        "record)"
    ) in table.caption
    assert "n=1: a single seed has no interval" in table.caption
    assert "nan" not in markdown + table.latex() + printed(table)


def test_three_datasets_give_a_column_each_and_the_stratified_mean(make_sweep: Sweep) -> None:
    records = make_sweep(DATASETS)
    table = table_of(records)
    assert table.columns[-4:] == ("ant/medium", "hopper/medium", "walker2d/medium", "mean")
    runs = runs_frame(records)
    scores = {
        str(dataset): list(rows["normalized_return"])
        for dataset, rows in runs[runs["method"] == "pbc"].groupby("dataset")
    }
    expected = stratified(scores)
    assert line_with(table.markdown(), "| pbc |").endswith(f"| {expected} |")
    assert line_with(table.markdown(), "| av_pbc |").count("**") == 6
    data = pd.read_csv(io.StringIO(table.csv()))
    average = data[(data["dataset"] == "mean over datasets") & (data["label"] == "pbc")].iloc[0]
    assert average["value"] == pytest.approx(expected.value)
    assert (average["low"], average["high"]) == pytest.approx((expected.low, expected.high))


def test_the_suites_own_datasets_have_their_mean_on_d4rls_scale_too(
    make_record: MakeRecord,
) -> None:
    tasks = {"halfcheetah": (-280.178953, 12135.0), "hopper": (-20.272305, 3234.3)}
    names = ["halfcheetah/medium", "halfcheetah/medium-expert", "hopper/medium"]
    records = [
        make_record(dataset=name, seed=seed, score=10.0 * place + seed)
        for place, name in enumerate(names)
        for seed in range(2)
    ]
    expected = []
    for record in records:
        random, expert = tasks[record.spec.dataset.partition("/")[0]]
        expected.append(100 * (record.mean_score.return_ - random) / (expert - random))
    table = table_of(records)
    assert table.columns[-2:] == ("mean", "mean, D4RL's scale")
    assert table.groups[0][0][-1].text == f"{sum(expected) / 6:.1f}"
    assert "100 is a return of 12,135 on halfcheetah, 3,234 on hopper." in table.caption
    data = pd.read_csv(io.StringIO(table.csv()))
    row = data[data["dataset"] == "mean, D4RL's scale"].iloc[0]
    assert row["value"] == pytest.approx(sum(expected) / 6)
    cell = data[(data["dataset"] == names[1])].iloc[0]
    of_cell = [r.mean_score.return_ for r in records if r.spec.dataset == names[1]]
    assert [float(value) for value in cell["returns"].split()] == of_cell
    # With one dataset that D4RL has no like of, there is no such mean.
    others = [*records, make_record(dataset="ant/medium", seed=0, score=1.0)]
    assert table_of(others).columns[-1] == "mean"


def test_a_mean_over_datasets_of_several_settings_says_so(make_record: MakeRecord) -> None:
    sizes = dict(zip(DATASETS, (16, 64, 256), strict=True))
    alike = [make_record("random", dataset, seed) for dataset in DATASETS for seed in range(2)]
    several = [
        make_record(method, dataset, seed, parameters={"synthetic_size": sizes[dataset]})
        for method in ("av_pbc", "pbc")
        for dataset in DATASETS
        for seed in range(2)
    ]
    assert "Settings" not in table_of(alike).caption
    assert (
        "Settings differ between datasets: av_pbc, pbc with synthetic_size=256 on ant/medium, "
        "synthetic_size=16 on hopper/medium, synthetic_size=64 on walker2d/medium."
    ) in table_of([*alike, *several]).caption
    two = [r for r in several if r.spec.dataset != "ant/medium"]
    assert "Settings" not in table_of(two).caption, "there is no mean"


def test_teachers_that_differ_are_listed_once(make_sweep: Sweep) -> None:
    records = []
    for record in make_sweep(DATASETS):
        teacher = "cal_ql" if record.spec.dataset == DATASETS[0] else "td3_bc"
        spec = replace(record.spec, teacher=teacher)
        records.append(altered(record, spec=spec, run_id=spec.run_id, cell_id=spec.cell_id))
    caption = table_of(records).caption
    assert "Settings" not in caption and caption.count("cal_ql") == 1


def test_a_method_that_lacks_a_dataset_has_no_mean(make_sweep: Sweep) -> None:
    records = [
        record
        for record in make_sweep(DATASETS)
        if (record.spec.method, record.spec.dataset) != ("pbc", "ant/medium")
    ]
    line = line_with(table_of(records).markdown(), "| pbc |")
    assert line.endswith("| \u2013 |")
    assert line.count("\u2013") == 2


def test_labels_are_in_numerical_order(make_record: MakeRecord) -> None:
    sizes = (128, 16, 64)
    table = table_of([make_record(parameters={"synthetic_size": size}) for size in sizes])
    labels = [row[1].text for row in table.groups[0]]
    assert labels == [f"av_pbc (synthetic_size={size})" for size in (16, 64, 128)]


@pytest.mark.parametrize("datasets", [DATASETS[:1], DATASETS[:2], DATASETS])
def test_same_records_in_any_order_give_the_same_bytes(
    make_sweep: Sweep, datasets: list[str]
) -> None:
    records = make_sweep(datasets)
    first, second = table_of(records), table_of(records[::-1])
    assert first.markdown() == second.markdown()
    assert first.latex() == second.latex()
    assert first.csv() == second.csv()
    assert printed(first) == printed(second)


def test_no_records_give_an_empty_table_that_says_so() -> None:
    table = table_of([])
    assert table.caption == "No run on record."
    assert table.latex().count(r"\midrule") == 1
    assert "| dataset | method |" in table.markdown()


def test_a_rounded_zero_has_no_sign(make_record: MakeRecord) -> None:
    records = [make_record(score=-0.01)]
    assert "**0.0**" in table_of(records).markdown()
    assert not math.isnan(table_of(records).data["value"].iloc[0])


def test_datasets_are_in_the_papers_order_in_both_layouts(make_sweep: Sweep) -> None:
    order = ["hopper/medium-replay", "hopper/medium", "hopper/medium-expert", "walker2d/medium"]
    wide = table_of(make_sweep(sorted(order)))
    assert wide.columns[-6:-1] == (*order, "mean")
    long = table_of(make_sweep(["hopper/medium-expert", "hopper/medium-replay"]))
    assert list(dict.fromkeys(row[0].text for group in long.groups for row in group)) == [
        "hopper/medium-replay",
        "hopper/medium-expert",
    ]
    assert wide.caption.index("hopper/medium-replay 2") < wide.caption.index(
        "hopper/medium-expert 2"
    )
    d4rl = ["d4rl/hopper-medium-v2", "d4rl/hopper-medium-expert-v2", "d4rl/hopper-medium-replay-v2"]
    assert sorted([*d4rl, "mujoco/hopper/expert-v0", "pendulum/mixed"], key=dataset_order) == [
        d4rl[2], d4rl[0], d4rl[1], "mujoco/hopper/expert-v0", "pendulum/mixed",
    ]  # fmt: skip


@pytest.mark.parametrize("datasets", [DATASETS[:1], DATASETS], ids=["long", "wide"])
def test_methods_are_in_the_order_of_their_families(
    make_record: MakeRecord, datasets: list[str]
) -> None:
    families = [
        "av_pbc", "dbc", "frepo", "gradient_matching", "distribution_matching",
        "generative_teaching", "hades", "herding", "random", "plugin",
    ]  # fmt: skip
    records = [make_record(method, dataset) for method in sorted(families) for dataset in datasets]
    text = table_of(records).markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    column = 1 if len(datasets) > 1 else 2
    assert [row.split("|")[column].strip() for row in rows] == families
