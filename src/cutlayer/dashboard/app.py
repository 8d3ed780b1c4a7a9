"""The web app: a page, the list of runs, views of one run or several, and a stream of changes."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cutlayer import __version__
from cutlayer.dashboard.access import Access, Guarded
from cutlayer.dashboard.list_file import as_csv
from cutlayer.dashboard.views import OpenRuns
from cutlayer.dashboard.watch import WatchedRun, WatchedRuns
from cutlayer.errors import CutlayerError
from cutlayer.reports.page import SCRIPTS, asset

EVERY_S = 1.0
"""Seconds between looks at the run folders, while a browser watches."""

MOST_RUNS = 64
"""The most runs that a request may name."""

_HEARTBEAT_S = 0.5
# The report's scripts, without the one that lays out a whole page, and the dashboard's own.
_SCRIPTS = (*SCRIPTS, "dashboard.js")


def make_app(
    root: Path,
    access: Access,
    every_s: float = EVERY_S,
    ending: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The dashboard of the runs below `root`. Raises RunError where there is no such folder.

    ending: whether the server is about to stop, so that streams of events end by themselves.
    """
    return Guarded(_Dashboard(WatchedRuns(root), every_s, ending).app, access)


class _Dashboard:
    def __init__(self, watch: WatchedRuns, every_s: float, ending: Callable[[], bool]) -> None:
        self._watch, self._every_s, self._ending = watch, every_s, ending
        self._opened = OpenRuns()
        self._news = asyncio.Condition()
        self._version = 0
        self._changed: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        self._watchers = 0
        # Views of one kind are made one at a time. The views of one run wait neither for those of
        # several runs nor for those that are computed from model and data.
        self._reading, self._joining = asyncio.Lock(), asyncio.Lock()
        self._computing = asyncio.Lock()
        self._looking = asyncio.Lock()
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/page.css", self._file("page.css", "text/css")),
                Route("/dashboard.css", self._file("dashboard.css", "text/css")),
                *(Route(f"/{name}", self._file(name, "text/javascript")) for name in _SCRIPTS),
                Route("/runs.csv", self._list_file),
                Route("/events", self._events),
                Route("/run", self._views(self._opened.detail, self._reading)),
                Route("/computed", self._views(self._opened.computed, self._computing)),
                Route("/together", self._views(self._opened.together, self._joining)),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look_on())
        yield
        looking.cancel()

    # Reading run folders

    async def _look(self) -> None:
        async with self._looking:
            changed, gone = await run_in_threadpool(self._watch.look)
        if changed or gone:
            async with self._news:
                self._version += 1
                for seen in changed:
                    self._changed[seen.name] = self._version
                    self._gone.pop(seen.name, None)
                for name in gone:
                    self._gone[name] = self._version
                    self._changed.pop(name, None)
                self._news.notify_all()

    async def _look_on(self) -> None:
        while True:
            if self._watchers:
                await self._look()
            await asyncio.sleep(self._every_s)

    # Answers to requests

    async def _page(self, request: Request) -> Response:
        scripts = "\n".join(f'<script src="{name}" defer></script>' for name in _SCRIPTS)
        text = asset("dashboard.html").replace("{{scripts}}", scripts)
        text = text.replace("{{folder}}", html.escape(str(self._watch.root.resolve())))
        text = text.replace("{{version}}", html.escape(__version__))
        return Response(text, media_type="text/html")

    def _file(self, name: str, kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return Response(asset(name), media_type=kind)

        return answer

    async def _list_file(self, request: Request) -> Response:
        await self._look()
        return Response(
            as_csv(self._watch.runs.values()),
            media_type="text/csv",
            headers={"content-disposition": 'attachment; filename="runs.csv"'},
        )

    def _views(
        self, make: Callable[[list[WatchedRun]], dict[str, Any]], busy: asyncio.Lock
    ) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            names = request.query_params.getlist("id")
            if not names:
                return PlainTextResponse("id: name a run of the list", 400)
            if len(names) > MOST_RUNS:
                return PlainTextResponse(f"id: {len(names)} are more than {MOST_RUNS}", 400)
            try:
                # A run that was only just found may not have been read yet.
                known = [self._watch.runs.get(name) for name in names]
                if any(seen is None or seen.job is None for seen in known):
                    await self._look()
                seen = [self._watch.find(name) for name in names]
                async with busy:
                    return JSONResponse(await run_in_threadpool(make, seen))
            except CutlayerError as error:
                return PlainTextResponse(str(error), 404)

        return answer

    async def _events(self, request: Request) -> Response:
        return StreamingResponse(
            self._told(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def _told(self) -> AsyncIterator[str]:
        """Events of one JSON object each: first every run, then runs that change."""
        self._watchers += 1
        try:
            await self._look()
            known = self._version
            yield _event({"runs": [seen.told() for seen in self._watch.runs.values()], "all": True})
            while not self._ending():
                try:
                    await self._newer_than(known)
                except TimeoutError:
                    yield ":\n\n"  # only writing shows that a browser has left
                    continue
                news = [name for name, version in self._changed.items() if version > known]
                gone = [name for name, version in self._gone.items() if version > known]
                known = self._version
                found = [self._watch.runs[name] for name in news if name in self._watch.runs]
                yield _event({"runs": [seen.told() for seen in found], "gone": gone})
        finally:
            self._watchers -= 1

    async def _newer_than(self, version: int) -> None:
        """Wait until there are changes. Raises TimeoutError if there are none for a while."""
        async with asyncio.timeout(_HEARTBEAT_S), self._news:
            await self._news.wait_for(lambda: self._version > version)


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, separators=(',', ':'), allow_nan=False)}\n\n"
