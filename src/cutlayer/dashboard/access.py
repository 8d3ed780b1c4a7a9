"""Who may open the dashboard: only clients with the token, and no site under a forged host name."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.dashboard.shares import MOST_REQUESTS, Shares

COOKIE = "cutlayer-dashboard"
HEADERS = {
    # The page's script sets styles of single elements.
    "content-security-policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """Who is let in. token: None lets in every client that reaches the address. hosts: the host
    names it answers to; None: any.

    A browser that was led here under another name (DNS rebinding) sends that name as Host.
    """

    token: str | None = None
    hosts: frozenset[str] | None = frozenset({"localhost", "127.0.0.1", "::1"})

    @property
    def mark(self) -> str:
        """The value of the cookie, which is not the token itself."""
        return hashlib.sha256(f"{COOKIE} {self.token}".encode()).hexdigest()

    def admits(self, given: str | None, cookie: str | None) -> bool:
        """Whether the token or the cookie that was given is right."""
        if self.token is None:
            return True
        if given is not None and _same(given, self.token):
            return True
        return cookie is not None and _same(cookie, self.mark)


class Guarded:
    """An ASGI app behind an Access, with headers that keep a page from loading other sites."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access
        self._shares = Shares()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with one sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        client = (scope.get("client") or ("",))[0]
        if not self._shares.begin(client):
            busy = PlainTextResponse(f"client: {MOST_REQUESTS} requests at a time are enough", 429)
            await busy(scope, receive, dressed)
            return
        try:
            answer: ASGIApp = self._refusal(scope, client) or self.app
            await answer(scope, receive, dressed)
        finally:
            self._shares.end(client)

    def _refusal(self, scope: Scope, client: str) -> Response | None:
        headers = Headers(scope=scope)
        access = self.access
        if access.hosts is not None and _host(headers.get("host", "")) not in access.hosts:
            return PlainTextResponse("host: this dashboard answers to another name", 421)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get("token", [None])[0]
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if given is None and scheme.lower() == "bearer":
            given = bearer
        cookie = _cookie(headers.get("cookie", ""))
        wait_s = self._shares.wait_s(client)
        if wait_s > 0 and (given is not None or cookie is not None):
            return PlainTextResponse(
                f"token: too many wrong ones came: try again in {wait_s:.0f} s",
                429,
                {"retry-after": f"{wait_s:.0f}"},
            )
        if not access.admits(given, cookie):
            if given is not None or cookie is not None:
                self._shares.wrong(client)
            return PlainTextResponse(
                "token: give the one that cutlayer dashboard printed, as in ?token=...", 401
            )
        self._shares.right(client)
        if access.token is not None and "token" in query:
            # Removes the token from the address bar and the browser's history. A path that begins
            # with two slashes would be the address of another host.
            answer = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)
            answer.set_cookie(COOKIE, access.mark, httponly=True, samesite="strict")
            return answer
        return None


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _host(value: str) -> str:
    """The name in a Host header, without port and brackets."""
    name = value.rpartition(":")[0] if value.rpartition(":")[2].isdigit() else value
    return name.strip("[]").lower()


def _cookie(value: str) -> str | None:
    try:
        found = SimpleCookie(value).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None
