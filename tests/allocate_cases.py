"""Random problems for the tests of the allocators."""

import numpy as np

from cutlayer.allocate.token_problem import TokenProblem, obstacles

NOISE = 10 ** ((-174 - 30) / 10)


def gains(rng: np.random.Generator, M: int) -> np.ndarray:
    """Rayleigh-faded gains of devices 5 to 500 m away, exponent 2.5, -30 dB at 1 m."""
    return 1e-3 * rng.uniform(5, 500, M) ** -2.5 * np.maximum(rng.exponential(1, M), 1e-3)


def curves(
    rng: np.random.Generator, M: int, N: int, flatness: float, batch: int = 64
) -> np.ndarray:
    """Cumulative sorted attention [M, N + 1] of a batch, from Dirichlet scores."""
    scores = -np.sort(-rng.dirichlet(np.full(N, flatness), M), axis=1)
    return np.concatenate([np.zeros((M, 1)), 64 * np.cumsum(scores, axis=1)], axis=1)


def token_problem(
    seed: int, M: int, N: int, *, flatness: float = 1.0, limited: bool = False, **changes: object
) -> TokenProblem:
    """A problem like the paper's; `limited` draws standing times and energies that often bind."""
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "gain": gains(rng, M),
        "power_max_w": 0.2,
        "energy_max_j": np.inf,
        "time_max_s": np.inf,
        "fixed_time_s": 0.5,
        "bits_per_token": 64 * 384 * 32.0,
        "importance": curves(rng, M, N, flatness),
        "bandwidth_total_hz": 5e6 * M,
        "noise_w_per_hz": NOISE,
        "tokens_min": 1,
    }
    if limited:
        values["time_max_s"] = 0.5 + 10 ** rng.uniform(-1.3, 1.0, M)
        values["energy_max_j"] = 10 ** rng.uniform(-2.5, 0, M)
    values.update(changes)
    return TokenProblem(**values)  # type: ignore[arg-type]


def feasible_problems(count: int, M: int, N: int, **changes: object) -> list[TokenProblem]:
    """The first `count` limited problems that have a solution."""
    found: list[TokenProblem] = []
    seed = 0
    while len(found) < count:
        problem = token_problem(seed, M, N, limited=True, **changes)  # type: ignore[arg-type]
        if not obstacles(problem):
            found.append(problem)
        seed += 1
    return found


def limits(rng: np.random.Generator, M: int, limited: bool) -> dict[str, np.ndarray | float]:
    """Energy caps and time limits that often bind, or none."""
    if not limited:
        return {"energy_max_j": np.inf, "time_max_s": np.inf}
    return {
        "energy_max_j": 0.02 + 10 ** rng.uniform(-2, 0.5, M),
        "time_max_s": 0.5 + 10 ** rng.uniform(-0.5, 1.5, M),
    }
