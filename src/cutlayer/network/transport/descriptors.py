"""How many connections a process can have and still open files: each takes a file descriptor."""

from contextlib import suppress

# Descriptors left for the run's own files, libraries and pipes.
_FILES = 256


def connections_at_hand(wanted: int) -> int:
    """`wanted` connections, or fewer if the system does not let this process have as many.

    The process's own limit is raised first, as far as the system allows. An attacker who opens
    connections without end can then not keep the run from opening its files.
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
        with suppress(ValueError, OSError):  # macOS has a lower limit than the one it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, max(soft - _FILES, soft // 2))
