"""The check of a finished q against the target, with fresh draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pymc_sph import importance
from pymc_sph.fluid.step import LogDensity
from pymc_sph.mixture import FluidMixture


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
