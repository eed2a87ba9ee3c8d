"""The Lotka-Volterra posterior of the lynx and hare pelts, for `posteriors.py`, in plain NumPy.

Data and priors are those of Carpenter's case study (Stan, 2018). theta holds the logarithms of
alpha, beta, gamma, delta, the two initial sizes and the two error scales; the gradient comes from
the forward sensitivities of the same Runge-Kutta steps.
"""

from __future__ import annotations

import numpy as np

NAMES = ["alpha", "beta", "gamma", "delta", "hare", "lynx", "sd hare", "sd lynx"]
HARE = np.array([30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6,
                 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7])  # fmt: skip
LYNX = np.array([4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1,
                 29.7, 15.8, 9.7, 10.1, 8.6])  # fmt: skip
LOG_DATA = np.log(np.stack([HARE, LYNX]))
STEPS = 5
"""Runge-Kutta steps a year."""
START = np.log([0.55, 0.028, 0.8, 0.024, 33.0, 6.0, 0.25, 0.25])


def rates(log_y: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d log y / dt (2, n), and alpha, beta v, gamma, delta u, its parts, (4, n)."""
    hare, lynx = np.exp(np.minimum(log_y, 50.0))
    parts = np.stack([rate[0], rate[1] * lynx, rate[2], rate[3] * hare])
    return np.stack([parts[0] - parts[1], parts[3] - parts[2]]), parts


def slopes(log_y: np.ndarray, S: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d log y / dt, and dS / dt of the sensitivities S (2, 6, n) to the first six of theta."""
    change, (a, b, c, d) = rates(log_y, rate)
    grown = np.stack([-b * S[1], d * S[0]])
    grown[0, 0] += a
    grown[0, 1] -= b
    grown[1, 2] -= c
    grown[1, 3] += d
    return change, grown


def solve(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log sizes (21, 2, n) year by year, and their sensitivities (21, 2, 6, n)."""
    rate, h = np.exp(theta[:4]), 1.0 / STEPS
    y, S = theta[4:6], np.zeros((2, 6, theta.shape[1]))
    S[0, 4] = S[1, 5] = 1.0
    sizes, grown = [y], [S]
    for _ in range(20):
        for _ in range(STEPS):
            k1, s1 = slopes(y, S, rate)
            k2, s2 = slopes(y + 0.5 * h * k1, S + 0.5 * h * s1, rate)
            k3, s3 = slopes(y + 0.5 * h * k2, S + 0.5 * h * s2, rate)
            k4, s4 = slopes(y + h * k3, S + h * s3, rate)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            S = S + h / 6 * (s1 + 2 * s2 + 2 * s3 + s4)
        sizes.append(y)
        grown.append(S)
    return np.stack(sizes), np.stack(grown)


def target(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density (n,) with all constants and the Jacobian, and gradient (n, 8)."""
    with np.errstate(all="ignore"):
        theta = theta.T
        sizes, S = solve(theta)
        sd = np.exp(theta[6:])
        residual = (LOG_DATA.T[:, :, None] - sizes) / sd
        logp = np.sum(-0.5 * residual**2 - np.log(sd) - 0.5 * np.log(2 * np.pi), axis=(0, 1))
        logp = logp - LOG_DATA.sum()
        grad = np.empty_like(theta)
        grad[:6] = np.einsum("tkn,tkjn->jn", residual / sd, S)
        grad[6:] = np.sum(residual**2 - 1, axis=0)
        value = np.exp(theta[:4])
        centre, width = np.array([[1, 0.05, 1, 0.05]]).T, np.array([[0.5, 0.05, 0.5, 0.05]]).T
        scaled = (value - centre) / width
        logp += np.sum(-0.5 * scaled**2 - np.log(width * np.sqrt(2 * np.pi)) + theta[:4], axis=0)
        grad[:4] += 1 - scaled * value / width
        gap = theta[4:] - np.array([[np.log(10), np.log(10), -1, -1]]).T  # log-normal, scale 1
        logp += np.sum(-0.5 * gap**2 - 0.5 * np.log(2 * np.pi), axis=0)
        grad[4:] -= gap
    return logp, grad.T


def reference(start: np.ndarray, n_steps: int, seed: int = 0) -> np.ndarray:
    """Draws by the affine-invariant ensemble of Goodman and Weare (2010), from walkers (w, d)."""
    rng = np.random.default_rng(seed)
    walkers = start.copy()
    half, d = len(walkers) // 2, walkers.shape[1]
    halves = (slice(0, half), slice(half, None))
    logp, kept = target(walkers)[0], []
    for step in range(n_steps):
        for mine, others in (halves, halves[::-1]):
            z = (1 + rng.random(half)) ** 2 / 2  # density 1 / sqrt(z) on [1/2, 2]
            partner = walkers[others][rng.integers(half, size=half)]
            moved = partner + z[:, None] * (walkers[mine] - partner)
            new = target(moved)[0]
            ratio = (d - 1) * np.log(z) + np.where(np.isfinite(new), new, -np.inf) - logp[mine]
            taken = np.log(rng.random(half)) < ratio
            walkers[mine] = np.where(taken[:, None], moved, walkers[mine])
            logp[mine] = np.where(taken, new, logp[mine])
        if step >= n_steps // 5:
            kept.append(walkers.copy())
    return np.concatenate(kept)
