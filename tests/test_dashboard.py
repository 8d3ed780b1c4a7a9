"""The dashboard: runs below a folder in a browser, as they go on, to whoever may look."""

import contextlib
import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn")

import httpx  # noqa: E402

from browsers import Opened  # noqa: E402
from cutlayer import simulate  # noqa: E402
from cutlayer.cli import main  # noqa: E402
from cutlayer.dashboard.access import Access  # noqa: E402
from cutlayer.dashboard.app import make_app  # noqa: E402
from cutlayer.dashboard.watch import WatchedRuns  # noqa: E402
from cutlayer.errors import NetworkError  # noqa: E402
from cutlayer.job import dump_job  # noqa: E402
from cutlayer.record.row_lines import line_of  # noqa: E402
from cutlayer.record.rows import Row  # noqa: E402
from cutlayer.reports import recompute  # noqa: E402
from cutlayer.reports.views.runs import Run  # noqa: E402
from helpers import small_job  # noqa: E402
from report_runs import VIEWS, made_job, made_rows  # noqa: E402

TOKEN = "a token of the test"
OPEN = Access()


def begin(folder: Path, rows: list[Row] | tuple[Row, ...] = (), **settings: Any) -> None:
    """A run folder whose record holds `rows`."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(dump_job(made_job(**settings)))
    (folder / "rounds.jsonl").write_text("".join(line_of(row) + "\n" for row in rows))


def append(folder: Path, row: Row) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(line_of(row) + "\n")


@contextlib.contextmanager
def served(root: Path, access: Access = OPEN) -> Iterator[str]:
    """The dashboard at an address of this machine."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        app = make_app(root, access, every_s=0.1, ending=lambda: server.should_exit)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


Client = Callable[..., httpx.Client]


@pytest.fixture
def client() -> Iterator[Client]:
    """Makes a client of a dashboard of its own, from a root and an Access."""
    with contextlib.ExitStack() as stack:

        def make(root: Path, access: Access = OPEN) -> httpx.Client:
            url = stack.enter_context(served(root, access))
            return stack.enter_context(httpx.Client(base_url=url, timeout=60))

        yield make


@contextlib.contextmanager
def events(url: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """What the server tells, an event a call."""
    with urllib.request.urlopen(url + "events", timeout=60) as stream:

        def following() -> dict[str, Any]:
            for line in stream:
                if line.startswith(b"data: "):
                    return dict(json.loads(line[6:]))
            raise AssertionError("the stream of events ended")

        yield following


# ---- what is read ----


def test_each_look_finds_what_changed_since_the_last(tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=3))
    begin(tmp_path / "a", rows[:1])
    begin(tmp_path / "group" / "b", rows, rounds=3)
    watch = WatchedRuns(tmp_path)
    found, _ = watch.look()
    assert {seen.name: seen.state for seen in found} == {"a": "running", "group/b": "finished"}
    assert watch.look() == ([], [])
    append(tmp_path / "a", rows[1])
    (seen,), gone = watch.look()
    told = seen.told()
    assert (told["rounds"], told["of"], gone) == (2, 3, [])
    assert told["up_bytes"] == sum(row.up_bytes for row in rows[:2])
    assert told["virtual_s"] == 4.0
    assert told["accuracy"] == pytest.approx(rows[1].accuracy)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    first, second, _ = made_rows(made_job(rounds=3))
    begin(tmp_path / "a", [first])
    watch = WatchedRuns(tmp_path)
    watch.look()
    line = line_of(second) + "\n"
    with (tmp_path / "a" / "rounds.jsonl").open("a") as file:
        file.write(line[:40])
        file.flush()
        assert watch.look() == ([], [])
        file.write(line[40:])
        file.flush()
        assert [seen.summary.rounds for seen in watch.look()[0]] == [2]


def test_a_record_that_a_resumed_run_wrote_anew_is_read_anew(tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=3))
    begin(tmp_path / "a", rows[:2])
    watch = WatchedRuns(tmp_path)
    watch.look()
    part = tmp_path / "a" / "part"
    part.write_text(line_of(rows[0]) + "\n")
    part.replace(tmp_path / "a" / "rounds.jsonl")
    (seen,), _ = watch.look()
    assert seen.summary.rounds == 1


def test_a_damaged_run_says_so_and_the_others_go_on(tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=3))
    begin(tmp_path / "good", rows)
    begin(tmp_path / "bad-record", rows[:1])
    with (tmp_path / "bad-record" / "rounds.jsonl").open("a") as file:
        file.write("no round\n")
    begin(tmp_path / "bad-job")
    (tmp_path / "bad-job" / "job.yaml").write_text("model: {cut: many}\n")
    found = {seen.name: seen.told() for seen in WatchedRuns(tmp_path).look()[0]}
    assert found["good"]["state"] == "finished"
    assert found["bad-record"]["rounds"] == 1
    assert found["bad-record"]["fault"] == "1 damaged lines of its record are left out"
    assert "model.cut" in found["bad-job"]["fault"]


def test_a_run_is_listed_whole_as_rounds_write_it_now(tmp_path: Path) -> None:
    sizes = ("training.rounds=1", "devices.count=2", "data.train_samples=24", "data.test_samples=8")
    found = simulate(small_job(*sizes), out=tmp_path / "run")
    (run,), _ = WatchedRuns(tmp_path).look()
    told = run.told()
    assert (told["fault"], told["state"], told["rounds"]) == ("", "finished", 1)
    assert told["up_bytes"] == found.rows[0].up_bytes
    assert told["down_bytes"] == found.rows[0].down_bytes


def test_a_run_to_which_nothing_comes_for_long_is_silent(tmp_path: Path) -> None:
    begin(tmp_path / "a", made_rows(made_job(rounds=3))[:1])
    watch = WatchedRuns(tmp_path)
    watch.look()
    assert watch.runs["a"].state == "running"
    long_ago = time.time() - 3600
    os.utime(tmp_path / "a" / "rounds.jsonl", (long_ago, long_ago))
    (seen,), _ = WatchedRuns(tmp_path).look()
    assert seen.state == "silent"


def test_a_run_that_stops_or_diverges_is_noticed(tmp_path: Path) -> None:
    first, second, _ = made_rows(made_job(rounds=3))
    begin(tmp_path / "fine", [first, second])
    begin(tmp_path / "fell", [replace(first, accuracy=0.8), replace(second, accuracy=0.61)])
    begin(tmp_path / "rose", [replace(first, loss=1.0), replace(second, loss=2.5)])
    begin(tmp_path / "stopped", [first])
    long_ago = time.time() - 3600
    os.utime(tmp_path / "stopped" / "rounds.jsonl", (long_ago, long_ago))
    told = {seen.name: seen.told() for seen in WatchedRuns(tmp_path).look()[0]}
    assert told["fine"]["notice"] == ""
    assert told["fell"]["notice"] == (
        "it diverges: its accuracy fell from 80.0 to 61.0 %; a lower training.lr may help"
    )
    assert told["fell"]["curve"] == [0.8, 0.61]
    assert told["rose"]["notice"].startswith("it diverges: its training loss rose from 1 to 2.5;")
    assert told["stopped"]["notice"].startswith("it stopped: nothing comes after 1 of 3 rounds;")


def test_a_run_that_is_deleted_leaves_the_list(tmp_path: Path) -> None:
    begin(tmp_path / "a")
    watch = WatchedRuns(tmp_path)
    watch.look()
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    (tmp_path / "a").rmdir()
    assert watch.look() == ([], ["a"])


def test_two_hundred_runs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = made_rows(made_job(rounds=1))[0]
    for number in range(200):
        begin(tmp_path / f"run-{number}", [row])
    watch = WatchedRuns(tmp_path)
    assert len(watch.look()[0]) == 200
    # Were a line read again, its run would be told as changed or unreadable.
    for number in range(200):
        record = tmp_path / f"run-{number}" / "rounds.jsonl"
        size = record.stat().st_size
        with record.open("r+b") as file:
            file.write(b"?" * (size - 1))
    monkeypatch.setattr("cutlayer.dashboard.watch.read_job", lambda path: pytest.fail(str(path)))
    append(tmp_path / "run-7", row)
    assert [(seen.name, seen.summary.rounds) for seen in watch.look()[0]] == [("run-7", 2)]


# ---- what is answered ----


def test_events_tell_all_runs_first_and_then_those_that_change(tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=3))
    begin(tmp_path / "a", rows[:1])
    begin(tmp_path / "b", rows[:1])
    with served(tmp_path) as url, events(url) as following:
        first = following()
        assert first["all"] is True
        assert {run["id"] for run in first["runs"]} == {"a", "b"}
        append(tmp_path / "b", rows[1])
        (changed,) = following()["runs"]
        assert (changed["id"], changed["rounds"]) == ("b", 2)


def test_a_run_is_given_in_the_views_of_the_report(client: Client, tmp_path: Path) -> None:
    begin(tmp_path / "a", made_rows(made_job(rounds=3)))
    found = client(tmp_path).get("/run", params={"id": "a"}).json()
    assert {view["id"] for view in found["views"]} == VIEWS
    assert set(found["computed"]) == {"labels", "gantt", "fleet", "patches"}


def test_a_run_of_a_thousand_devices_and_rounds_stays_small(client: Client, tmp_path: Path) -> None:
    job = made_job(devices=1000, rounds=1000)
    few = made_rows(made_job(devices=1000, rounds=4))
    begin(tmp_path / "a")
    (tmp_path / "a" / "job.yaml").write_text(dump_job(job))
    with (tmp_path / "a" / "rounds.jsonl").open("w") as file:
        for number in range(0, 1000, 10):  # a tenth of the rounds, to keep the test quick
            line = json.loads(line_of(few[number % 4])) | {"round": number}
            file.write(json.dumps(line) + "\n")
    answer = client(tmp_path).get("/run", params={"id": "a"})
    assert len(answer.json()["views"]) == len(VIEWS)
    assert len(answer.content) < 2e6


def test_the_list_is_given_as_csv(client: Client, tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=3))
    begin(tmp_path / "b, and more", rows[:2])
    begin(tmp_path / "a", rows)
    answer = client(tmp_path).get("runs.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    one, other = csv.DictReader(io.StringIO(answer.text))
    assert (one["id"], one["state"], one["rounds"]) == ("a", "finished", "3")
    assert (other["id"], other["of"]) == ("b, and more", "3")
    assert int(one["up_bytes"]) == sum(row.up_bytes for row in rows)


def test_several_runs_are_given_side_by_side(client: Client, tmp_path: Path) -> None:
    for method in ("sflora", "tsflora"):
        job = made_job(method=method, rounds=3)
        begin(tmp_path / method, made_rows(job), method=method, rounds=3)
    asked = client(tmp_path)
    found = asked.get("/together", params={"id": ["sflora", "tsflora"]}).json()
    assert [view["id"] for view in found["together"]] == ["comparison", "curves", "pareto"]
    assert asked.get("/together", params={"id": "sflora"}).status_code == 404


@pytest.mark.parametrize("name", ["../a", "/etc", "a/../../a", "", "b"])
def test_nothing_but_a_run_of_the_list_is_read(client: Client, tmp_path: Path, name: str) -> None:
    begin(tmp_path / "runs" / "c")
    begin(tmp_path / "a", made_rows(made_job(rounds=3)))
    answer = client(tmp_path / "runs").get("/run", params={"id": name})
    assert answer.status_code == 404
    assert "choose one of the list" in answer.text


def test_a_run_without_a_round_says_so(client: Client, tmp_path: Path) -> None:
    begin(tmp_path / "a")
    answer = client(tmp_path).get("/run", params={"id": "a"})
    assert (answer.status_code, "no finished round" in answer.text) == (404, True)


def test_nothing_can_be_written(client: Client, tmp_path: Path) -> None:
    asked = client(tmp_path)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert asked.request(method, "/run").status_code == 405


# ---- who may look ----


def test_a_token_lets_in_and_is_taken_out_of_the_address(client: Client, tmp_path: Path) -> None:
    asked = client(tmp_path, Access(TOKEN))
    for wrong in ({}, {"token": "another"}):
        answer = asked.get("/", params=wrong)
        assert (answer.status_code, "token" in answer.text) == (401, True)
    assert asked.get("/events").status_code == 401
    assert asked.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    answer = asked.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert TOKEN not in answer.headers["set-cookie"]
    assert asked.get("/").status_code == 200  # by the cookie


def test_a_name_that_leads_here_from_elsewhere_is_refused(client: Client, tmp_path: Path) -> None:
    asked = client(tmp_path)
    for host, status in (
        ("evil.example", 421), ("evil.example:80", 421), ("127.0.0.1:7312", 200),
        ("[::1]:7312", 200), ("LOCALHOST", 200),
    ):  # fmt: skip
        assert asked.get("/", headers={"host": host}).status_code == status


def test_pages_may_not_be_framed_nor_load_anything_from_elsewhere(
    client: Client, tmp_path: Path
) -> None:
    headers = client(tmp_path).get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "RUNS: nowhere is no folder"),
        (["--listen", "7312"], "--listen: '7312' is no HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "there is no port 99999"),
        (["--listen", "192.0.2.1:0"], "--listen: cannot listen on 192.0.2.1:0"),
        (["--token", "short"], "--token: 5 characters are too few"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    monkeypatch.setattr(sys, "argv", ["cutlayer", "dashboard", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    from cutlayer.dashboard.serve import dashboard

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NetworkError, match="--listen: cannot listen on"):
            dashboard(tmp_path, listen=address, say=lambda line: None)


def test_beyond_this_machine_a_token_is_made_up_and_ctrl_c_ends_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cutlayer", "dashboard", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--listen", "0.0.0.0:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address, _, token = process.stdout.readline().split()[1].partition("?token=")
    here = address.replace("0.0.0.0", "127.0.0.1")
    assert len(token) >= 20
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(here, timeout=60)
    asked = urllib.request.Request(here, headers={"Authorization": f"Bearer {token}"})
    assert urllib.request.urlopen(asked, timeout=60).status == 200
    process.send_signal(2)
    _, complaint = process.communicate(timeout=60)
    assert complaint == ""


# ---- in a browser ----


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of a simulated run in a world, and of one over a network."""
    folder = tmp_path_factory.mktemp("real")
    world = {"reference_loss_db": 75.0, "mobility": {"kind": "redraw"}}
    data = {"train_samples": 60, "test_samples": 20, "partition": {"min_samples": 8}}
    simulate(small_job(method="tsflora", world=world, data=data), out=folder / "simulated")
    from fleet_helpers import crowd
    from fleet_helpers import served as job_served

    with crowd() as devices:
        job_served(
            small_job(method="tsflora"),
            folder / "network",
            lambda port: [devices.join(port, n) for n in range(4)],
        )
    assert devices.errors == {}
    with served(folder) as url:
        yield url


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (340, "dark")])
@pytest.mark.parametrize("name", ["simulated", "network"])
def test_every_view_is_shown(
    browser: Any,
    real: str,
    tmp_path: Path,
    name: str,
    width: int,
    scheme: str,
) -> None:
    opened = Opened(browser, f"{real}#run={name}", width, scheme)
    shown = opened.page
    assert set(shown.eval_on_selector_all("#views section", "all => all.map(one => one.id)")) == {
        f"view-{view}" for view in VIEWS
    }
    kinds = shown.eval_on_selector_all("#views section", "all => all.map(one => one.dataset.kind)")
    # No world, no clock and no map: a network has but its own.
    assert kinds.count("missing") == (0 if name == "simulated" else 2)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.screenshot(path=tmp_path / "dashboard.png", full_page=True)
    assert opened.quiet(real)
    opened.page.context.close()


def test_a_run_is_followed_as_it_goes_on(browser: Any, tmp_path: Path) -> None:
    rows = made_rows(made_job(rounds=5))
    begin(tmp_path / "a", rows[:2], rounds=5)
    with served(tmp_path) as url:
        opened = Opened(browser, f"{url}#run=a")
        shown = opened.page
        assert "After 2 rounds" in shown.inner_text("#view-headline")
        for number in (2, 3, 4):
            append(tmp_path / "a", rows[number])
            shown.wait_for_selector(f"#view-headline:has-text('After {number + 1} rounds')")
            shown.wait_for_selector(f"tr[data-id='a'] >> text={number + 1} / 5")
        shown.wait_for_selector("tr[data-id='a'] .state.finished")
        assert opened.quiet(url)
        opened.page.context.close()


def test_a_phone_shows_accuracy_and_its_course_and_whatever_column_is_ticked(
    browser: Any, tmp_path: Path
) -> None:
    begin(tmp_path / "a", made_rows(made_job(rounds=3)), rounds=3)
    with served(tmp_path) as url:
        opened = Opened(browser, url, width=390, ready="html[data-listed]")
        shown = opened.page
        assert "%" in shown.inner_text("tr[data-id='a'] .brief")
        assert shown.locator("tr[data-id='a'] .spark:visible").count() == 1
        region = "document.querySelector('.runs')"
        assert shown.evaluate(f"{region}.scrollWidth <= {region}.clientWidth")
        shown.click("text=Columns")
        header = shown.locator("thead th:has-text('devices (J)')")
        assert not header.is_visible()
        shown.get_by_label("devices (J)").check()
        assert header.is_visible()
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.quiet(url)
        opened.page.context.close()


def test_nothing_waits_for_views_that_are_still_computed(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(made_job(rounds=5))
    for name in ("a", "b"):
        begin(tmp_path / name, rows[:2], rounds=5)
    go_on, compute = threading.Event(), recompute.again

    def held(*asked: Any) -> Run:
        assert go_on.wait(300)
        return compute(*asked)

    monkeypatch.setattr(recompute, "again", held)
    with served(tmp_path) as url, contextlib.ExitStack() as at_last:
        at_last.callback(go_on.set)
        opened = Opened(browser, f"{url}#run=a", ready="#view-headline")
        shown = opened.page
        append(tmp_path / "a", rows[2])
        shown.wait_for_selector("#view-headline:has-text('After 3 rounds')")
        shown.click("tr[data-id='b'] a")
        shown.wait_for_selector("#shown-title:has-text('b:')")
        shown.wait_for_selector("#view-headline:has-text('After 2 rounds')")
        shown.wait_for_selector("#view-fleet[data-kind='missing']")
        go_on.set()
        shown.wait_for_selector("#view-fleet[data-kind='fleet']")
        assert opened.quiet(url)
        opened.page.context.close()


def test_a_round_that_is_looked_at_stays_while_others_come(
    browser: Any,
    tmp_path: Path,
) -> None:
    rows = made_rows(made_job(rounds=5))
    begin(tmp_path / "a", rows[:3], rounds=5)
    with served(tmp_path) as url:
        opened = Opened(browser, f"{url}#run=a")
        shown = opened.page
        shown.focus("#view-allocation input[type=range]")
        shown.keyboard.press("Home")
        shown.evaluate("document.activeElement.blur()")
        append(tmp_path / "a", rows[3])
        shown.wait_for_selector("#view-allocation input[type=range][max='3']")
        shown.wait_for_selector("#view-allocation output:has-text('round 1')")
        assert opened.quiet(url)
        opened.page.context.close()


def test_runs_are_found_opened_and_compared_with_the_keyboard(
    browser: Any,
    tmp_path: Path,
) -> None:
    for method in ("sflora", "tsflora", "fedlora"):
        job = made_job(method=method, rounds=3)
        begin(tmp_path / method, made_rows(job), method=method, rounds=3)
    with served(tmp_path) as url:
        opened = Opened(browser, url, ready="html[data-listed]")
        shown = opened.page
        keys = shown.keyboard
        keys.press("/")
        keys.type("sflora")
        assert shown.locator("tbody tr").count() == 2
        shown.evaluate("document.activeElement.blur()")
        keys.press("j")
        keys.press("Enter")
        shown.wait_for_selector("#view-headline")
        shown.focus("tr[data-id='sflora'] input")
        keys.press("Space")
        shown.focus("tr[data-id='tsflora'] input")
        keys.press("Space")
        shown.focus("text=2 runs side by side")
        keys.press("Enter")
        shown.wait_for_selector("#view-pareto")
        nameless = "one => !(one.ariaLabel || one.innerText || one.labels?.length)"
        controls = "input, button, select, a"
        assert shown.eval_on_selector_all(controls, f"all => all.filter({nameless}).length") == 0
        assert opened.quiet(url)
        opened.page.context.close()
