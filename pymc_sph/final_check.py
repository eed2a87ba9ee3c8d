"""The check of a finished q against the target, with fresh draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from collections.abc import Sequence

from scipy.special import logsumexp

from pymc_sph import importance
from pymc_sph.fluid.step import LogDensity
from pymc_sph.mixture import FluidMixture
from pymc_sph.start import Gaussian

BARE = 100.0
"""Where q is thinner than p by more than this factor, it does not cover p."""
MODE_DRAWS = 50
"""Draws around each mode that the start and its search found."""


@dataclass(frozen=True)
class Check:
    """What the draws showed, of q without the void where p is zero: no draw is taken from there.

    Attributes
    ----------
    elbo, log_evidence, log_evidence_se : float
        ELBO, and log evidence with its standard error, nats.
    pareto_k, ess : float
        Pareto k of the weights, and relative ESS of the smoothed ones.
    shift : float
        See `importance.importance_shift`.
    void : float
        Share of q in the void.
    unknown : float
        Share of the other draws where log p is not finite.
    n_nonfinite : int
        Draws of either kind.
    """

    elbo: float
    log_evidence: float
    log_evidence_se: float
    pareto_k: float
    ess: float
    shift: float
    void: float
    unknown: float
    n_nonfinite: int


def check(mixture: FluidMixture, target: LogDensity, n: int, rng: np.random.Generator) -> Check:
    """Weigh n draws from q against the target.

    Leaving the void out, a share s of q, makes the rest denser: log q grows by -log(1 - s).
    """
    draws = mixture.sample(n, rng).theta
    logp, _ = target(draws)
    n_nonfinite = int(np.sum(~np.isfinite(logp)))
    inside = logp != -np.inf
    if not inside.any():
        return Check(-np.inf, -np.inf, np.inf, np.nan, 0.0, 0.0, 1.0, 0.0, n_nonfinite)
    draws, logp = draws[inside], logp[inside]
    log_w = np.where(np.isfinite(logp), logp, -np.inf) - mixture.log_density(draws)
    log_w = log_w + np.log(inside.mean())
    finite = np.isfinite(log_w)
    smoothed, k = importance.psis(log_w)
    evidence, error = importance.log_evidence(log_w, smoothed)
    return Check(
        elbo=float(log_w[finite].mean()) if finite.any() else -np.inf,
        log_evidence=evidence,
        log_evidence_se=error,
        pareto_k=k,
        ess=importance.relative_ess(smoothed),
        shift=importance.importance_shift(draws, smoothed),
        void=1 - float(inside.mean()),
        unknown=1 - float(finite.mean()),
        n_nonfinite=n_nonfinite,
    )


def uncovered(
    mixture: FluidMixture,
    target: LogDensity,
    modes: Sequence[Gaussian],
    n: int,
    rng: np.random.Generator,
) -> float:
    """Share of p, as far as it lies around known modes or within q, that q does not cover.

    Draws from q cannot show what q has lost. The start and its search left a Gaussian at every
    mode they found, so that draws from these and from q together can: they are weighted by p over
    the density h of what all of them came from.

    Parameters
    ----------
    mixture : FluidMixture
        q.
    target : callable
        As in `check`.
    modes : sequence of Gaussian
        What was found before the fluids started.
    n : int
        Draws from q; each mode adds `MODE_DRAWS`.
    rng : numpy.random.Generator
        Source of the randomness.
    """
    own = [mixture.sample(n, rng).theta]
    around = [m.mu + rng.standard_normal((MODE_DRAWS, len(m.mu))) @ m.L.T for m in modes]
    theta = np.concatenate(own + around)
    logp, _ = target(theta)
    log_q = mixture.log_density(theta)
    counts = np.log([n] + [MODE_DRAWS] * len(modes)) - np.log(len(theta))
    log_h = logsumexp(
        np.stack([log_q, *(_normal_log_density(m, theta) for m in modes)]) + counts[:, None], axis=0
    )
    log_w = np.where(np.isfinite(logp), logp, -np.inf) - log_h
    if not np.isfinite(log_w).any():
        return 1.0
    log_z = logsumexp(log_w) - np.log(len(theta))
    bare = logp - log_z - log_q > np.log(BARE)
    share = np.exp(log_w - logsumexp(log_w))
    return float(share[bare].sum())


def _normal_log_density(gaussian: Gaussian, theta: np.ndarray) -> np.ndarray:
    e = np.linalg.solve(gaussian.L, (theta - gaussian.mu).T)
    constant = 0.5 * len(e) * np.log(2 * np.pi) + np.linalg.slogdet(gaussian.L)[1]
    return -0.5 * np.sum(e**2, axis=0) - constant
