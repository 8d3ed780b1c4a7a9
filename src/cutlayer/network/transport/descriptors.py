"""How many connections a process can hold and still open files: each takes a descriptor."""

from contextlib import suppress

# Left for the run's own files, libraries and pipes.
_FILES = 256


def connections_at_hand(wanted: int) -> int:
    """As many connections as wanted, or as the system lets this process have beside its files.

    The process's own limit is raised first, as far as the system allows. Whoever opens connections
    without end then finds no more of them, and the run goes on writing.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + _FILES
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        with suppress(ValueError, OSError):  # macOS has a limit below the one that it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, max(soft - _FILES, soft // 2))
