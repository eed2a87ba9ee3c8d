"""Where the fluids start when there is no gradient: Gaussians found along CMA-ES runs.

The counterpart of `start`: CMA-ES (Hansen and Ostermeier 2001; the package ``cma``) climbs from
each dispersed point, a population as one batch of the target. At some of its generations a
Gaussian is made in two ways, both from values that are already there: the covariance of CMA-ES,
rescaled to the posterior's width, and the curvature of a quadratic fitted to the last points. The
Gaussian with the best ELBO wins, as in `start` and for the same reason: the mode may lie in a
funnel's neck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scipy.linalg import lstsq

from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.step import LogDensity
from pymc_sph.process import same_filters
from pymc_sph.start import Gaussian, best, covariance_factor, elbo_noise, thin, with_elbo

FLAT = 1.0
"""A run ends when its values have changed by less than this, nats, over its last generations:
the typical distance from the mode is d / 2 nats, and more precision is of no use to a fluid."""
MAX_EVALUATIONS = 5_000
"""Evaluations after which a run is cut off, per path."""
QUADRATIC_MAX_DIM = 30
"""Largest dimension in which quadratics are fitted; that costs O(d^6)."""
RESCALINGS = (0.5, 0.7, 1.4, 2.0)
"""Factors on the standard deviations of the best Gaussian that are tried last."""


@dataclass(frozen=True)
class Run:
    """A run of CMA-ES.

    Attributes
    ----------
    theta : (n, d)
        Every point evaluated, in order.
    logp : (n,)
        Its log density; may be non-finite.
    stop : (G,) int
        Points evaluated up to the end of each generation.
    mean : (G, d)
        Mean of the search distribution after each generation.
    cov : (G, d, d)
        Its covariance.
    """

    theta: np.ndarray
    logp: np.ndarray
    stop: np.ndarray
    mean: np.ndarray
    cov: np.ndarray


def find_starts(
    target: LogDensity, points: np.ndarray, seed: tuple[int, ...]
) -> tuple[list[Gaussian], int]:
    """Best Gaussian of each CMA-ES run, best first.

    Parameters
    ----------
    target : callable
        Log density of a batch, in unconstrained space, with anything in the gradient's place.
    points : (P, d)
        Dispersed starting points with finite log density, one run each. Their spread is the scale
        of the first steps.
    seed : tuple of int
        Seed of the runs and of the ELBO estimates.

    Returns
    -------
    starts : list of Gaussian
        One per run that has a finite ELBO anywhere; empty if none has.
    n_evaluations : int
        Log densities spent.
    """
    noise = elbo_noise(stream(*seed), points.shape[1])
    scale = spread(points)
    starts, spent = [], 0
    for i, point in enumerate(points):
        run = climb(target, point, scale, stream(*seed, i))
        spent += len(run.theta)
        found = candidates(run)
        if not found:
            continue
        right = best(with_elbo(target, found, noise))
        wider = [(right.mu, right.L * factor) for factor in RESCALINGS]
        starts.append(best([right, *with_elbo(target, wider, noise)]))
        spent += (len(found) + len(wider)) * len(noise)
    starts = [start for start in starts if np.isfinite(start.elbo)]
    return sorted(starts, key=lambda start: -start.elbo), spent


def spread(points: np.ndarray) -> np.ndarray:
    """Return the standard deviations (d,) of points (P, d); 1 where they do not differ."""
    sd = np.std(points, axis=0)
    return np.where(sd > 0, sd, 1.0)


def climb(
    target: LogDensity, point: np.ndarray, scale: np.ndarray, rng: np.random.Generator
) -> Run:
    """Run CMA-ES from a point (d,), its first steps half the scale (d,) long."""
    d = len(point)
    options = {
        # a seed that is not a number leaves NumPy's global state alone
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": np.nan,
        "tolfun": FLAT,
        "maxfevals": MAX_EVALUATIONS,
        "verbose": -9,
        "verb_log": 0,
        "verb_disp": 0,
    }
    # in units of the scale; CMA-ES needs two dimensions, the second one is idle if need be
    with same_filters():  # both this import and this class add filters of warnings
        import cma  # here, because it takes more than a second to import

        search = cma.CMAEvolutionStrategy(np.zeros(max(d, 2)), 0.5, options)
    theta, logp, mean, cov = [], [], [], []
    while not search.stop():
        population = search.ask()
        theta.append(point + np.stack(population)[:, :d] * scale)
        logp.append(target(theta[-1])[0])
        search.tell(population, list(_costs(logp[-1])))
        mean.append(point + search.mean[:d] * scale)
        own = search.sigma**2 * search.sm.covariance_matrix[:d, :d]
        cov.append(own * scale * scale[:, None])
    stop = np.cumsum([len(batch) for batch in theta])
    return Run(np.concatenate(theta), np.concatenate(logp), stop, np.stack(mean), np.stack(cov))


def _costs(logp: np.ndarray) -> np.ndarray:
    """Return what CMA-ES minimises; a point without density is worse than every other one."""
    return np.where(np.isfinite(logp), -logp, 1e300)


def candidates(run: Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gaussians (mean, factor of the covariance) at some generations of a run.

    Each from the points evaluated last: twice as many as a quadratic has coefficients, or fewer
    at the beginning.
    """
    d = run.theta.shape[1]
    count = (d + 1) * (d + 2)
    out = []
    for generation in thin(np.arange(len(run.stop))):
        last = slice(max(0, run.stop[generation] - count), run.stop[generation])
        theta, logp = run.theta[last], run.logp[last]
        theta, logp = theta[np.isfinite(logp)], logp[np.isfinite(logp)]
        mean, cov = run.mean[generation], run.cov[generation]
        if len(logp) > 2:
            out.append((mean, _rescaled(cov, mean, theta, logp)))
        if d <= QUADRATIC_MAX_DIM and len(logp) > 0.75 * count:
            out.extend(_quadratic(mean, theta, logp))
    return out


def _rescaled(cov: np.ndarray, mean: np.ndarray, theta: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """Factor of the covariance of CMA-ES, as wide as the decline of log p says."""
    L = covariance_factor(-np.linalg.inv(cov))
    square = np.sum(np.linalg.solve(L, (theta - mean).T) ** 2, axis=0)
    slope = np.polyfit(square, logp, 1)[0]  # -1 / 2 if the width is right
    return L / np.sqrt(-2.0 * slope) if slope < 0 else L


def _quadratic(
    mean: np.ndarray, theta: np.ndarray, logp: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gaussian of the quadratic fitted to log densities (n,) at points (n, d), if there is one."""
    d = theta.shape[1]
    scale = np.std(theta, axis=0) + 1e-300
    x = (theta - mean) / scale
    i, j = np.triu_indices(d)
    design = np.column_stack([np.ones(len(x)), x, x[:, i] * x[:, j]])
    beta = lstsq(design, logp, lapack_driver="gelsy")[0]  # far faster than by singular values
    if not np.isfinite(beta).all():
        return []
    H = np.zeros((d, d))
    H[i, j] = beta[1 + d :]
    H = (H + H.T) / scale / scale[:, None]
    L = covariance_factor(H)
    newton = L @ (L.T @ (beta[1 : 1 + d] / scale))
    length = np.sqrt(np.sum(np.linalg.solve(L, newton) ** 2))
    return [(mean + newton * min(1.0, 3.0 * np.sqrt(d) / max(length, 1e-300)), L)]
