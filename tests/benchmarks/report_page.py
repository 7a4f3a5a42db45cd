"""How long the report of 5,000 runs takes to write, and to open in a headless browser.

python -m tests.benchmarks.report_page [RUNS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.record import FILE
from benchmark.run import run_folder
from obdbench.html_report import write_html_report
from results.record_store import save_sweep
from tests.benchmarks.ten_thousand_runs import SMALL, record_of, ten_thousand
from tests.browser import visit
from tests.tiny_runs import execute


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        patch.setenv("MINARI_DATASETS_PATH", str(root / "datasets"))
        build_dataset(DatasetName.parse(SMALL))
        sweep = ten_thousand(count)
        template = execute(replace(sweep.runs[0], dataset=SMALL), root / "one")
        store = root / "runs"
        save_sweep(store, sweep)
        for run in sweep.runs:
            path = run_folder(store, run) / FILE
            path.parent.mkdir(parents=True)
            path.write_text(record_of(run, template))
        began = time.monotonic()
        page = root / "report.html"
        write_html_report(store, sweep, page)
        print(f"written: {time.monotonic() - began:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        found = visit(page, 'await go("runs"); found.drawn = performance.now();')
        print(f"opened: {found['milliseconds']:.0f} ms until the results are drawn; "
              f"the list of runs {found['drawn'] - found['milliseconds']:.0f} ms later; "
              f"problems: {found['problems']}")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5_000)
