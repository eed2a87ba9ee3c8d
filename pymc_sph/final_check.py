"""The check of a finished q against the target, with fresh draws: from q, and from beyond it.

Weights of draws from q show where q is wrong as far as q reaches. What it does not reach, a tail
cut off or a mode lost on the way, only draws from elsewhere can show. So a part of the draws comes
from q with wider kernels, and a part from the modes that were known before the fluids started.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scipy.special import logsumexp

from pymc_sph import importance
from pymc_sph.fluid.step import LogDensity
from pymc_sph.mixture import FluidMixture
from pymc_sph.start import Gaussian

BARE = 100.0
"""Factor by which q is thinner than p where it does not cover p."""
REACH = (2.0, 5.0)
"""How much further out than q's own the draws of its wider twins lie, in sds of a kernel."""
LEAST = 25
"""Least number of draws around a known mode."""


@dataclass(frozen=True)
class Check:
    """What the draws showed, of q without the void where p is zero: no draw is taken from there.

    Attributes
    ----------
    elbo, log_evidence, log_evidence_se : float
        ELBO, and log evidence with its standard error, nats.
    pareto_k, ess : float
        Pareto k of the weights, and relative ESS of the smoothed ones.
    error : float
        Worst error of q's means and log sds in unconstrained space, in sds, as far as draws from q
        and from beyond it can tell.
    left : float
        The same of q's draws with their importance weights.
    uncovered : float
        Share of p where q is thinner than p by a factor of `BARE`.
    void : float
        Share of q in the void.
    unknown : float
        Share of the other draws where log p is not finite.
    n_nonfinite, n_evaluations : int
        Draws from q of either kind; evaluations of log p.
    """

    elbo: float
    log_evidence: float
    log_evidence_se: float
    pareto_k: float
    ess: float
    error: float
    left: float
    uncovered: float
    void: float
    unknown: float
    n_nonfinite: int
    n_evaluations: int


def check(
    mixture: FluidMixture,
    target: LogDensity,
    modes: Sequence[Gaussian],
    n: int,
    rng: np.random.Generator,
) -> Check:
    """Weigh n draws from q, and about as many from beyond it, against the target.

    Leaving the void out, a share s of q, makes the rest denser: log q grows by -log(1 - s).

    Parameters
    ----------
    mixture : FluidMixture
        q.
    target : callable
        Log density and gradient of a batch, in unconstrained space.
    modes : sequence of Gaussian
        Modes that were known before the fluids started.
    n : int
        Draws from q.
    rng : numpy.random.Generator
        Source of the randomness.
    """
    own = mixture.sample(n, rng).theta
    logp, _ = target(own)
    n_nonfinite = int(np.sum(~np.isfinite(logp)))
    inside = logp != -np.inf
    if not inside.any():
        return Check(
            -np.inf, -np.inf, np.inf, np.nan, 0.0, np.inf, np.inf, 1.0, 1.0, 0.0, n_nonfinite, n
        )
    void = 1 - float(inside.mean())
    own, logp = own[inside], logp[inside]
    log_q = mixture.log_density(own) - np.log1p(-void)
    log_w = np.where(np.isfinite(logp), logp, -np.inf) - log_q
    finite = np.isfinite(log_w)
    smoothed, k = importance.psis(log_w)
    evidence, error = importance.log_evidence(log_w, smoothed)
    beyond = _look_beyond(mixture, target, modes, own, logp, n, rng)
    weighted = _moments(own, smoothed)
    return Check(
        elbo=float(log_w[finite].mean()) if finite.any() else -np.inf,
        log_evidence=evidence,
        log_evidence_se=error,
        pareto_k=k,
        ess=importance.relative_ess(smoothed),
        error=_gap(beyond.of_p, beyond.of_q),
        left=_gap(beyond.of_p, weighted),
        uncovered=beyond.uncovered,
        void=void,
        unknown=1 - float(finite.mean()),
        n_nonfinite=n_nonfinite,
        n_evaluations=n + beyond.n_evaluations,
    )


Moments = tuple[np.ndarray, np.ndarray]
"""Means and sds, (d,) each."""


@dataclass(frozen=True)
class _Beyond:
    of_p: Moments
    of_q: Moments
    uncovered: float
    n_evaluations: int


def _look_beyond(
    mixture: FluidMixture,
    target: LogDensity,
    modes: Sequence[Gaussian],
    own: np.ndarray,
    logp_own: np.ndarray,
    n: int,
    rng: np.random.Generator,
) -> _Beyond:
    """Moments of p and of q by the same draws, some of which q alone would not have made.

    All are weighted by p, and by q, over the density h of what all of them came from. So an exact
    q shows no error, up to the smoothing of the weights of p, and these have no tail wherever one
    of the proposals covers p.
    """
    fresh, log_h_of = _propose(mixture, modes, n, rng)
    theta = np.concatenate([own, fresh])
    logp = np.concatenate([logp_own, target(fresh)[0]])
    log_q = mixture.log_density(theta)
    log_h = log_h_of(theta, log_q)
    log_w = np.where(np.isfinite(logp), logp, -np.inf) - log_h
    p_weights, _ = importance.psis(log_w)
    # q is used without the void; where log p is unknown, it is used
    q_weights = np.where(logp != -np.inf, log_q - log_h, -np.inf)
    log_z = logsumexp(log_w) - np.log(n + len(fresh))
    with np.errstate(invalid="ignore"):  # log p may be finite nowhere
        bare = log_w + log_h - log_z - log_q > np.log(BARE)
    return _Beyond(
        of_p=_moments(theta, p_weights),
        of_q=_moments(theta, q_weights - logsumexp(q_weights)),
        uncovered=float(np.exp(p_weights)[bare].sum()),
        n_evaluations=len(fresh),
    )


def _propose(
    mixture: FluidMixture, modes: Sequence[Gaussian], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Draw from beyond q.

    Returns
    -------
    fresh : (m, d)
        A quarter of n from each wider twin of q, and a quarter from the known modes.
    log_h : callable
        theta, log q -> log density of these draws together with n from q.
    """
    proposals: list[FluidMixture | Gaussian] = [*(widened(mixture, sds) for sds in REACH), *modes]
    counts = [n // 4] * len(REACH) + [max(n // (4 * len(modes)), LEAST)] * len(modes)
    fresh = np.concatenate([_draw(p, m, rng) for p, m in zip(proposals, counts, strict=True)])
    log_shares = np.log([n, *counts]) - np.log(n + len(fresh))

    def log_h(theta: np.ndarray, log_q: np.ndarray) -> np.ndarray:
        parts = np.stack([log_q, *(_log_density(p, theta) for p in proposals)])
        return np.asarray(logsumexp(parts + log_shares[:, None], axis=0))

    return fresh, log_h


def widened(mixture: FluidMixture, sds: float) -> FluidMixture:
    """Return q with wider kernels, 1 + sds / sqrt(d) times.

    A kernel's mass lies at distances sqrt(d) +- .7 from its centre, in its sds; that of the wider
    one lies `sds` further out, whatever d.
    """
    factor = 1 + sds / np.sqrt(mixture.dim)
    fluids = tuple(dataclasses.replace(f, A=f.A * factor) for f in mixture.fluids)
    return FluidMixture(fluids, mixture.log_weights)


def _draw(proposal: FluidMixture | Gaussian, n: int, rng: np.random.Generator) -> np.ndarray:
    if isinstance(proposal, FluidMixture):
        return proposal.sample(n, rng).theta
    return proposal.mu + rng.standard_normal((n, len(proposal.mu))) @ proposal.L.T


def _log_density(proposal: FluidMixture | Gaussian, theta: np.ndarray) -> np.ndarray:
    if isinstance(proposal, FluidMixture):
        return proposal.log_density(theta)
    e = np.linalg.solve(proposal.L, (theta - proposal.mu).T)
    constant = 0.5 * len(e) * np.log(2 * np.pi) + np.linalg.slogdet(proposal.L)[1]
    return np.asarray(-0.5 * np.sum(e**2, axis=0) - constant)


def _moments(theta: np.ndarray, log_weights: np.ndarray) -> Moments:
    w = np.exp(log_weights)
    with np.errstate(all="ignore"):  # the draws of a fluid that flies off may overflow
        theta, w = theta[w > 0], w[w > 0] / w.sum()
        mean = w @ theta
        return mean, np.sqrt(w @ (theta - mean) ** 2)


def _gap(exact: Moments, other: Moments) -> float:
    """Worst error of a mean or log sd, in sds; infinite where it cannot be told."""
    with np.errstate(all="ignore"):
        gaps = np.concatenate(
            [np.abs(other[0] - exact[0]) / exact[1], np.abs(np.log(other[1] / exact[1]))]
        )
    return float(np.max(np.where(np.isnan(gaps), np.inf, gaps)))
