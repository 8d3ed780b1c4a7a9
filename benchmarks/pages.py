"""How fast pages open: the report of a long run, and the dashboard of many, in headless Chromium.

PYTHONPATH=tests python benchmarks/pages.py [--write]     (needs playwright and chromium)

Runs are made up, not trained: 1,000 rounds x 100 devices for the report and the dashboard, 200 runs
beside it for the list. Seconds are from asking for a page to its first view, and to its last.
"""

import argparse
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

from cutlayer.dashboard.access import Access
from cutlayer.dashboard.app import make_app
from cutlayer.drawing import tables
from cutlayer.job import dump_job
from cutlayer.record.row_lines import line_of
from cutlayer.reports import page, replay
from cutlayer.reports.views.runs import Run, lines_of
from environment import describe
from report_runs import made_holdings, made_patches, made_places, made_run, made_spans

REPORTS = Path(__file__).parent / "reports"
COLUMNS = (
    tables.Column("what", "page", "text"),
    tables.Column("megabytes", "size (MB)"),
    tables.Column("first", "first view", "seconds"),
    tables.Column("last", "all views", "seconds"),
)


@contextmanager
def chromium() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise SystemExit("pages: needs chromium (apt-get install chromium)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@contextmanager
def dashboard(root: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(root, Access(), ending=lambda: server.should_exit)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def opened(browser: Any, url: str, first: str, last: str) -> tuple[float, float]:
    """Seconds until an element is there, and another, looked for in every frame that is drawn."""
    shown = browser.new_page(bypass_csp=True)
    there = "selector => document.querySelector(selector)"
    began = time.perf_counter()
    shown.goto(url, wait_until="commit")
    shown.wait_for_function(there, arg=first, timeout=120_000)
    first_s = time.perf_counter() - began
    shown.wait_for_function(there, arg=last, timeout=120_000)
    last_s = time.perf_counter() - began
    shown.close()
    return first_s, last_s


def large() -> Run:
    run = made_run(devices=100, rounds=1000)
    spans = made_spans(run)
    # As many rounds of the timeline as `cutlayer report` puts on a page.
    every = len(spans) // (replay.MOST_SPANS // len(spans[0].place)) + 1
    return replace(
        run, whole=49, holdings=made_holdings(run), rounds=spans[::every],
        places=made_places(run), patches=made_patches(),
    )  # fmt: skip


def write_run(folder: Path, run: Run) -> None:
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(dump_job(run.job))
    (folder / "rounds.jsonl").write_text("".join(line_of(row) + "\n" for row in run.rows))


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    run = large()
    report = folder / "report.html"
    report.write_text(page.render([run], lines_of([run])))
    with chromium() as browser:
        first, last = opened(browser, report.as_uri(), "#run-headline dd", "html[data-ready]")
        size = report.stat().st_size / 1e6
        yield {
            "what": "report, 1,000 rounds x 100 devices",
            "megabytes": size,
            "first": first,
            "last": last,
        }
        small = made_run(devices=10, rounds=20)
        for number in range(200):
            write_run(folder / "runs" / f"run-{number:03d}", small)
        write_run(folder / "runs" / "large", run)
        with dashboard(folder / "runs") as url:
            first, last = opened(browser, url, "tbody tr", "html[data-listed='201']")
            yield {"what": "dashboard, list of 201 runs, cold", "first": first, "last": last}
            first, last = opened(browser, url, "tbody tr", "html[data-listed='201']")
            yield {"what": "dashboard, list of 201 runs", "first": first, "last": last}
            shown = f"{url}#run=large"
            first, last = opened(browser, shown, "#view-headline dd", "#view-allocation canvas")
            size = len(json.dumps(browser.new_context().request.get(f"{url}run?id=large").json()))
            yield {
                "what": "dashboard, the same run, cold",
                "megabytes": size / 1e6,
                "first": first,
                "last": last,
            }
            first, last = opened(browser, shown, "#view-headline dd", "#view-allocation canvas")
            yield {
                "what": "dashboard, the same run",
                "megabytes": size / 1e6,
                "first": first,
                "last": last,
            }


TEXT = """\
# How fast pages open

{environment}

Made-up runs in headless Chromium, seconds from asking for a page to its first view and to its last
(of the dashboard: the last that needs no model or data).

{table}
cold: when the dashboard reads a record for the first time.

    PYTHONPATH=tests python benchmarks/pages.py --write
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/pages.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        rows = []
        for row in measure(Path(made)):
            rows.append(row)
            print(row, flush=True)
    if options.write:
        text = TEXT.format(environment=describe(), table=tables.markdown(rows, COLUMNS))
        (REPORTS / "pages.md").write_text(text)


if __name__ == "__main__":
    main()
