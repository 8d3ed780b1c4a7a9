"""What one client may take of the dashboard, and what it cannot make it do."""

from pathlib import Path

import pytest

starlette = pytest.importorskip("starlette")
pytest.importorskip("httpx")

from starlette.testclient import TestClient  # noqa: E402

from cutlayer.dashboard import shares  # noqa: E402
from cutlayer.dashboard.access import Access  # noqa: E402
from cutlayer.dashboard.app import MOST_RUNS, make_app  # noqa: E402
from test_files_looked_at import good_folder  # noqa: E402

TOKEN = "a-long-enough-token"


def client(root: Path, token: str | None = None) -> TestClient:
    app = make_app(root, Access(token, None))
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def test_a_redirect_stays_on_the_host(tmp_path: Path) -> None:
    with client(tmp_path, TOKEN) as one:
        for path in ("/", "//evil.example/x", "///evil.example", "/%5Cevil.example", "/run"):
            answer = one.get(f"http://localhost{path}?token={TOKEN}")
            assert answer.status_code == 303
            where = answer.headers["location"]
            assert where.startswith("/")
            assert not where.startswith(("//", "/\\"))


def test_guesses_of_the_token_are_slowed_and_the_right_one_waits_too(tmp_path: Path) -> None:
    with client(tmp_path, TOKEN) as one:
        guessed = [one.get("/", headers={"authorization": f"Bearer {n}"}) for n in range(9)]
        assert [answer.status_code for answer in guessed] == [401] * 6 + [429] * 3
        assert int(guessed[-1].headers["retry-after"]) >= 1
        right = one.get("/", headers={"authorization": f"Bearer {TOKEN}"})
        assert right.status_code == 429
        assert one.get("/").status_code == 401  # one that guesses nothing is told what to do


def test_a_request_names_a_bounded_number_of_runs(tmp_path: Path) -> None:
    good_folder(tmp_path / "a")
    with client(tmp_path) as one:
        many = [("id", "a")] * (MOST_RUNS + 1)
        assert one.get("/together", params=many).status_code == 400


def test_runs_side_by_side_are_taken_once_each(tmp_path: Path) -> None:
    good_folder(tmp_path / "a")
    good_folder(tmp_path / "b")
    with client(tmp_path) as one:
        once = one.get("/together", params=[("id", "a"), ("id", "b")]).json()
        often = one.get("/together", params=[("id", "a")] * 9 + [("id", "b")] * 9).json()
        assert often == once
        twice = one.get("/together", params=[("id", "a"), ("id", "a")])
        assert "two runs or more" in twice.text


def test_a_client_has_its_share_of_requests_and_others_theirs() -> None:
    found = shares.Shares()
    assert all(found.begin("one") for _ in range(shares.MOST_REQUESTS))
    assert not found.begin("one")
    assert found.begin("other")
    found.end("one")
    assert found.begin("one")
