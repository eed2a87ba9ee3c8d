"""Where the fluids start: Gaussians chosen by their ELBO along several L-BFGS paths.

Never the mode: on a hierarchical model the path runs on into a funnel's neck, and a point before
it has the larger ELBO. The idea is Pathfinder's (Zhang, Carpenter, Gelman, Vehtari 2022, JMLR 23);
the curvature here comes from differences of the gradient, all points of a path in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from scipy.optimize import minimize

from pymc_sph.ahead import announce
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.step import LogDensity
from pymc_sph.rehearsal import rehearse

CANDIDATES = 8
"""Points per path whose Gaussian is tried."""
ELBO_DRAWS = 32
"""Draws, in antithetic pairs, that estimate a Gaussian's ELBO."""
NARROWER = (0.5, 0.25, 0.1)
"""Factors on the standard deviations that are tried where the support cuts every Gaussian off."""
CALM = 0.1
"""Divergence, nats, below which a posterior is close to a Gaussian, and needs little effort."""
CLOSE = 0.5
"""Divergence, nats, below which one path to a mode is enough."""
SAME = 0.1
"""Squared Mahalanobis distance over d below which two paths lead to the same point."""
POLISH = 3
"""Largest number of Newton steps at the end of a path."""
SHARE = 0.01
"""Length of the differences that give the curvature, in conditional standard deviations."""
SHORT = 0.1
"""Longest difference for the curvature where longer ones have overflowed."""
FLAT = 1e-10
"""Least curvature of a combination of coordinates, in units of each one's own: below it is noise of
the differences. With 1e-6, a sum known a million times worse than its terms started a thousand
times too narrow, and some fits never grew to its width."""
SPREAD = 1e8
"""Largest ratio of the standard deviations of a Gaussian."""


@dataclass(frozen=True)
class Gaussian:
    """A candidate start N(mu, L L'), in unconstrained space.

    Attributes
    ----------
    mu : (d,)
        Mean.
    L : (d, d)
        Factor of the covariance.
    elbo : float
        Estimate of its ELBO, nats; -inf where log p was not finite.
    divergence : float
        Half the variance of log p - log q under it, which estimates KL(q || p), nats.
    """

    mu: np.ndarray
    L: np.ndarray
    elbo: float
    divergence: float = np.inf

    @cached_property
    def L_inv(self) -> np.ndarray:
        """Inverse (d, d) of the factor: paths ask at every iterate how far off they are."""
        return np.linalg.inv(self.L)

    @property
    def calm(self) -> bool:
        """Whether the posterior is close to this Gaussian."""
        return self.divergence < CALM

    @property
    def close(self) -> bool:
        """Whether no other path to this mode is worth its while."""
        return self.divergence < CLOSE


def find_starts(
    target: LogDensity, points: np.ndarray, seed: tuple[int, ...]
) -> tuple[list[Gaussian], int]:
    """Best Gaussian of each path, best first.

    Parameters
    ----------
    target : callable
        Log density and gradient of a batch, in unconstrained space.
    points : (P, d)
        Dispersed starting points with finite log density, one path each.
    seed : tuple of int
        Seed of the ELBO estimates.

    Returns
    -------
    starts : list of Gaussian
        One per path that has a finite ELBO anywhere; empty if none has.
    n_evaluations : int
        Gradients spent.
    """
    noise = elbo_noise(stream(*seed), points.shape[1])
    starts: list[Gaussian] = []
    spent = 0
    others = points[1:]
    for n, point in enumerate(points):
        # where the posterior is this close to a Gaussian, another path there finds nothing better
        close = [start for start in starts if start.close]
        if n == 1:
            rehearse(target, [partial(lbfgs_path, point=other, until=close) for other in others])
        path = lbfgs_path(target, point, until=close)
        spent += path.n_evaluations
        if path.known is not None:
            continue
        iterates, used = polish(target, path.points)
        spent += used
        if any(offset(start, iterates[-1]) < SAME for start in close):
            continue
        gaussians, used = fit_gaussians(target, thin(iterates), noise)
        spent += used
        if gaussians:
            starts.append(best(gaussians))
    starts = [start for start in starts if np.isfinite(start.elbo)]
    return sorted(starts, key=lambda start: -start.elbo), spent


def best(gaussians: Sequence[Gaussian]) -> Gaussian:
    """Return the Gaussian with the largest ELBO."""
    return max(gaussians, key=lambda g: g.elbo)


def elbo_noise(rng: np.random.Generator, dim: int) -> np.ndarray:
    """Draw normal numbers (ELBO_DRAWS, d) in antithetic pairs, for the ELBO of Gaussians.

    Their covariance is the identity, or its diagonal is where they are too few for that: else the
    ELBO would favour a wrong width. On a Gaussian target it is exact.
    """
    half = rng.standard_normal((ELBO_DRAWS // 2, dim))
    if 2 * dim <= len(half):
        half = np.linalg.solve(np.linalg.cholesky(half.T @ half / len(half)), half.T).T
    half = half / np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half])


@dataclass(frozen=True)
class Path:
    """A run of L-BFGS.

    Attributes
    ----------
    points : (T, d)
        Its iterates.
    known : int or None
        Number of the known Gaussian in which it ended, if it did.
    n_evaluations : int
        Gradients spent.
    """

    points: np.ndarray
    known: int | None
    n_evaluations: int


def lbfgs_path(
    target: LogDensity,
    point: np.ndarray,
    tolerance: float = 2.2e-9,
    until: Sequence[Gaussian] = (),
    near: float = SAME,
) -> Path:
    """Run SciPy's L-BFGS from a point.

    It ends when a step raises the log density by less than `tolerance`, relative to its size, or
    at an iterate that belongs to one of the Gaussians `until`, by `landings` within `near`. Where
    there is one of these alone and it comes close to the posterior, its frame conditions the path.
    """
    origin, place, pull = _conditioned(point, until)
    path = [np.array(point)]
    latest = np.full_like(point, np.nan)  # gradient at the last point looked at
    known: int | None = None
    count = 0

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count, latest
        count += 1
        logp, grad = target(place(x)[None])
        latest = grad[0]
        slope = pull(latest)
        if not (np.isfinite(logp[0]) and np.isfinite(slope).all()):
            return 1e100, np.zeros_like(x)  # the line search backs off
        return -float(logp[0]), -slope

    def keep(x: np.ndarray) -> None:
        nonlocal known
        theta = place(x)
        if np.isfinite(theta).all():
            path.append(theta)
        if until:
            known = landings(until, theta[None], latest[None], near)[0]
            if known is not None:
                raise StopIteration  # SciPy's way to end a run

    minimize(
        objective,
        origin,
        jac=True,
        method="L-BFGS-B",
        callback=keep,
        options={"maxiter": 200, "maxfun": 400, "maxcor": 20, "ftol": tolerance},
    )
    return Path(np.stack(path), known, count)


def _conditioned(
    point: np.ndarray, until: Sequence[Gaussian]
) -> tuple[np.ndarray, Callable[[Any], np.ndarray], Callable[[Any], np.ndarray]]:
    """Coordinates x of a path: those of `point`, the map to theta, and the gradient's map to x.

    They are theta itself, but where one Gaussian alone is known and comes close to the posterior.
    """
    if len(until) == 1 and until[0].close:
        L = until[0].L
        quiet = np.errstate(over="ignore", invalid="ignore")  # far out, log p is not finite anyway
        return np.zeros_like(point), quiet(lambda x: point + L @ x), quiet(lambda grad: grad @ L)
    return point, np.array, np.asarray


def landings(
    gaussians: Sequence[Gaussian], points: np.ndarray, grad: np.ndarray, near: float
) -> list[int | None]:
    """Return for each point (n, d) the Gaussian that it belongs to, or None.

    It belongs to the one in whose middle, at a squared Mahalanobis distance over d below `near`, it
    lies itself, or a Newton step x + C g with this one's covariance C ends. From anywhere in a
    Gaussian mode that ends in the mean; the gradient (n, d) of another hardly ever points there.
    """
    if not gaussians:
        return [None] * len(points)
    squares = np.empty((len(gaussians), len(points)))
    with np.errstate(over="ignore", invalid="ignore"):  # a steep slope far out leads nowhere
        for row, g in zip(squares, gaussians, strict=True):
            gap, step = (points - g.mu) @ g.L_inv.T, grad @ g.L
            row[:] = np.fmin(np.mean(gap**2, axis=1), np.mean((gap + step) ** 2, axis=1))
    nearest = np.argmin(squares, axis=0)
    inside = squares[nearest, np.arange(len(points))] < near
    return [int(i) if known else None for i, known in zip(nearest, inside, strict=True)]


def polish(target: LogDensity, path: np.ndarray) -> tuple[np.ndarray, int]:
    """Take Newton steps from the end of a path (T, d), as long as they are long and go uphill.

    On a ridge each step of L-BFGS gains so little that it may stop a standard deviation short of
    the mode.

    Returns
    -------
    path : (T', d)
        The path with these steps.
    n_evaluations : int
        Gradients spent.
    """
    spent = 0
    for _ in range(POLISH):
        x = path[-1]
        logp, grad = target(x[None])
        scale, used = difference_lengths(target, x)
        spent += used + 1
        if scale is None:
            break
        H, used = hessians(target, x[None], scale)
        spent += used
        if not (np.isfinite(H).all() and np.linalg.eigvalsh(H[0])[-1] < 0):
            break
        newton = -np.linalg.solve(H[0], grad[0])
        if not newton @ grad[0] > SAME * len(x):  # its squared length, in standard deviations
            break
        spent += 1
        if not target((x + newton)[None])[0][0] > logp[0]:
            break
        path = np.concatenate([path, (x + newton)[None]])
    return path, spent


def thin(path: np.ndarray) -> np.ndarray:
    """At most `CANDIDATES` iterates of a path, the last one first, denser towards the end."""
    last = len(path) - 1
    share = np.linspace(0.0, 1.0, CANDIDATES) ** 1.5
    index = np.unique(np.round(last * (1 - share)).astype(int))[::-1]
    return path[index]


def fit_gaussians(
    target: LogDensity, points: np.ndarray, noise: np.ndarray
) -> tuple[list[Gaussian], int]:
    """Gaussians at points (C, d), the mode of the path first, with their ELBO.

    At each point the negative Hessian H, its eigenvalues made positive, gives the covariance;
    the mean is the point, and a second candidate has the mean one Newton step further.
    """
    d = points.shape[1]
    grad = target(points)[1]
    known, used = difference_lengths(target, points[0])
    spent = len(points) + used
    scale = np.full(d, SHARE) if known is None else known
    curvature, used = hessians(target, points, scale)
    spent += used
    # a path may end in a funnel's neck, flat to the last digit: from there, steps come out so long
    # that log p overflows at the points before it as well
    lost = ~np.isfinite(curvature).all(axis=(1, 2))
    if lost.any():
        curvature[lost], used = hessians(target, points[lost], np.minimum(scale, SHORT))
        spent += used
    found = []
    for x, g, H in zip(points, grad, curvature, strict=True):
        if not (np.isfinite(H).all() and np.isfinite(g).all()):
            continue
        L = covariance_factor(H)
        with np.errstate(over="ignore"):
            newton = L.T @ g  # in sds
            length = np.sqrt(np.sum(newton**2))
        share = min(1.0, 3.0 * np.sqrt(d) / max(length, 1e-300))  # of an infinite step: none
        found += [(mean, L) for mean in (x, x + L @ (newton * share if share else 0 * x))]
    if not found:
        return [], spent
    out = with_elbo(target, found, noise)
    spent += len(found) * len(noise)
    for factor in NARROWER:  # where the support cuts off most of every one
        if any(np.isfinite(g.elbo) for g in out):
            break
        out = with_elbo(target, [(mean, L * factor) for mean, L in found], noise)
        spent += len(found) * len(noise)
    return out, spent


def with_elbo(
    target: LogDensity, found: list[tuple[np.ndarray, np.ndarray]], noise: np.ndarray
) -> list[Gaussian]:
    """Gaussians (mean (d,), factor (d, d)) with their ELBO, from noise (n, d) of `elbo_noise`.

    Where the support leaves a share s of a Gaussian, the ELBO is that of the rest,
    <log p - log q> + log s, so that reaching out of the support does not pay. A Gaussian with less
    than half of itself inside has none.
    """
    theta = np.concatenate([mean + noise @ L.T for mean, L in found])
    logp = np.reshape(target(theta)[0], (len(found), len(noise)))
    log_q = -0.5 * (np.sum(noise**2, axis=1) + noise.shape[1] * np.log(2 * np.pi))
    out = []
    for (mean, L), values in zip(found, logp, strict=True):
        finite, elbo = np.isfinite(values), -np.inf
        with np.errstate(over="ignore"):  # where log p is near 1e300 or so, infinity is the answer
            if 2 * finite.sum() > len(values):
                gap = float(np.mean(values[finite] - log_q[finite]))
                elbo = gap + float(np.linalg.slogdet(L)[1]) + float(np.log(finite.mean()))
            spread = 0.5 * float(np.var(values - log_q)) if finite.all() else np.inf
        out.append(Gaussian(mean, L, elbo, spread))
    return out


def offset(gaussian: Gaussian, point: np.ndarray) -> float:
    """Squared Mahalanobis distance of a point (d,) from a Gaussian's mean, over d."""
    return float(np.mean((gaussian.L_inv @ (point - gaussian.mu)) ** 2))


def difference_lengths(target: LogDensity, point: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Return lengths (d,) of differences that show a point's curvature, and gradients spent.

    They are a hundredth of a conditional sd: far above rounding, well inside the bend. None where
    the curvature is not finite.
    """
    rough, used = hessians(target, point[None], 1e-5 * np.maximum(1.0, np.abs(point)))
    if not np.isfinite(rough).all():
        return None, used
    return SHARE / np.sqrt(np.maximum(np.abs(np.diagonal(rough[0])), 1e-12)), used


def hessians(target: LogDensity, points: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, int]:
    """Hessians (C, d, d) at points (C, d), by central differences of length `scale` (d,)."""
    d = points.shape[1]
    steps = np.concatenate([np.diag(scale), -np.diag(scale)])
    out = np.empty((len(points), d, d))
    announce(target, [x + steps for x in points])
    for x, H in zip(points, out, strict=True):
        _, grad = target(x + steps)
        H[:] = (grad[:d] - grad[d:]) / (2 * scale[:, None])
    return 0.5 * (out + out.transpose(0, 2, 1)), 2 * d * len(points)


def covariance_factor(H: np.ndarray) -> np.ndarray:
    """Root L of |H|^-1 = L L', with the ratio of the standard deviations bounded.

    Up to the scales it is the symmetric root, which keeps the axes of the frame close to the
    model's own coordinates. Diagonal smoothing tensors rely on it: what bends a hierarchical
    posterior is a scale that all coordinates of a group share.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.abs(np.diagonal(H)), 1e-20))
    scale = np.clip(scale, scale.min(), scale.min() * SPREAD)
    values, vectors = np.linalg.eigh(-H * scale * scale[:, None])
    values = np.maximum(np.abs(values), FLAT)
    return scale[:, None] * ((vectors / np.sqrt(values)) @ vectors.T)
