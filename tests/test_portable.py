"""cutlayer runs on Linux, macOS and Windows: no call that one of them lacks without another way."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import cutlayer
from cutlayer.files import read_bounded

SOURCE = Path(cutlayer.__file__).parent
# By Python's documentation these are of Unix, or of Linux alone.
NOT_ON_WINDOWS = {
    "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios",
    "asyncio.open_unix_connection", "os.chown", "os.chroot", "os.ctermid", "os.eventfd",
    "os.fchmod", "os.fchown", "os.fork", "os.forkpty", "os.getegid", "os.geteuid", "os.getgid",
    "os.getgroups", "os.getloadavg", "os.getpgid", "os.getpriority", "os.getuid", "os.killpg",
    "os.lchown", "os.mkfifo", "os.mknod", "os.nice", "os.O_CLOEXEC", "os.O_DIRECTORY",
    "os.O_NOFOLLOW", "os.O_NONBLOCK", "os.pipe2", "os.posix_fadvise", "os.pread", "os.pwrite",
    "os.register_at_fork", "os.sched_getaffinity", "os.sched_setaffinity", "os.sendfile",
    "os.setpgid", "os.setsid", "os.setuid", "os.sync", "os.sysconf", "os.uname", "os.wait",
    "select.epoll", "select.kqueue", "select.poll", "signal.alarm", "signal.pause",
    "signal.setitimer", "signal.SIGALRM", "signal.SIGCHLD", "signal.SIGHUP", "signal.SIGKILL",
    "signal.SIGPIPE", "signal.SIGUSR1", "signal.SIGUSR2", "signal.sigwait", "socket.AF_UNIX",
    "socket.SO_REUSEPORT", "time.tzset",
}  # fmt: skip
OTHERWISE = {
    # Without it there is no limit to raise.
    ("network/transport/descriptors.py", "resource"),
    # Windows and Linux say the peak in ways of their own.
    ("light/batch_cost.py", "resource"),
}
FILES = sorted(SOURCE.rglob("*.py"))


def _uses(tree: ast.AST) -> Iterator[str]:
    """What a module imports, and what it takes out of modules, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{one.name}" for one in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def _text_without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines that read or write a file as text in whatever encoding the system likes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(one.arg == "encoding" for one in node.keywords):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        modes = [given.value for given in node.args if isinstance(given, ast.Constant)]
        opened = called == "open" and any(one in ("r", "w", "a", "x", "r+") for one in modes)
        if opened or called in ("read_text", "write_text"):
            yield node.lineno


def test_nothing_is_called_that_windows_lacks_and_text_is_utf_8() -> None:
    assert len(FILES) > 300
    lacking, texts = set(), set()
    for file in FILES:
        name, tree = file.relative_to(SOURCE).as_posix(), ast.parse(file.read_text())
        lacking |= {(name, used) for used in _uses(tree) if used in NOT_ON_WINDOWS}
        texts |= {(name, line) for line in _text_without_encoding(tree)}
    assert lacking == OTHERWISE
    # These are files of Linux, in ASCII.
    assert {name for name, _ in texts} == {"light/batch_cost.py", "network/device/machine.py"}


def test_files_are_read_where_flags_of_opening_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("O_NONBLOCK", "O_CLOEXEC"):
        monkeypatch.delattr(os, name)
    file = tmp_path / "lines"
    file.write_bytes(b"one\r\ntwo\x1a\n")
    assert read_bounded(file, 100) == b"one\r\ntwo\x1a\n"
