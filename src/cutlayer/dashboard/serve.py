"""Opens the dashboard at an address; without a token only at a loopback address."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from cutlayer.errors import NetworkError
from cutlayer.network.transport.address import is_loopback, listen_at, split_address


def dashboard(
    root: str | Path = "runs",
    *,
    listen: str = "127.0.0.1:7312",
    token: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Show the runs below `root` in a browser, until it is stopped.

    listen: HOST:PORT; port 0 takes any free one. token: a browser must give it; None: none is
    needed on loopback, elsewhere a random one is made. Raises RunError or NetworkError.
    """
    import uvicorn

    from cutlayer.dashboard.access import Access
    from cutlayer.dashboard.app import make_app

    host, _ = split_address(listen, "--listen")
    local = is_loopback(listen)
    if token is not None and len(token) < 8:
        raise NetworkError(f"--token: {len(token)} characters are too few: take 8 or more")
    if token is None and not local:
        token = secrets.token_urlsafe(18)
    hosts = frozenset({"localhost", "127.0.0.1", "::1", host}) if local else None
    server: uvicorn.Server | None = None
    app = make_app(
        Path(root), Access(token, hosts), ending=lambda: bool(server and server.should_exit)
    )
    with listen_at(listen, "--listen") as listening:
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"dashboard  http://{shown}:{port}/" + (f"?token={token}" if token else ""))
        say(f"shows      {root}, as runs go on; Ctrl-C ends it")
        if not local:
            say("note       unencrypted: put a TLS proxy before it outside a network of your own")
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=3
        )
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
