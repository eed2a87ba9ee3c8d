"""The check of a finished q against the target, with fresh draws: from q, and from beyond it.

Weights of draws from q show where q is wrong as far as q reaches. What it does not reach, a tail
cut off or a mode lost on the way, only draws from elsewhere can show. So a part of the draws comes
from q with wider kernels, and a part from the modes that were known before the fluids started.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Sequence
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
GLANCE = 4
"""Part of the draws that is looked at first, where one Gaussian comes close to the posterior."""
CLEAR_ESS, CLEAR_TAIL, CLEAR_ERROR, CLEAR_LEFT, CLEAR_UNCOVERED = 0.98, 0.7, 0.05, 0.1, 1e-3
"""Least ESS, largest Pareto k, errors and uncovered share of a fit that a glance can judge: well
within every limit of the verdict. What weights leave is told to .05 by a thousand draws."""
LIGHT = 1e-3
"""Mass below which a particle may have been left behind."""
BEHIND = 10.0
"""Nats of log p - log q, below the ELBO, at the place of a particle that was."""


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

    @property
    def clear(self) -> bool:
        """Whether more draws could not change what is said of the fit."""
        return (
            self.ess >= CLEAR_ESS
            and self.pareto_k <= CLEAR_TAIL
            and self.error <= CLEAR_ERROR
            and self.left <= CLEAR_LEFT
            and self.uncovered <= CLEAR_UNCOVERED
            and self.void == self.unknown == 0
        )


def leave_behind(
    mixture: FluidMixture, target: LogDensity, elbo: float
) -> tuple[FluidMixture, int]:
    """Take light particles away that stand where p is next to nothing.

    A single draw from one of them ruins the ELBO, -10^3 nats or so, and nothing else. At a place
    that other particles cover, or that p reaches, it stays.

    Parameters
    ----------
    mixture : FluidMixture
        q.
    target : callable
        Log density and gradient of a batch, in unconstrained space.
    elbo : float
        The best fluid's, nats.

    Returns
    -------
    mixture : FluidMixture
        The same one if there is none.
    n_evaluations : int
        Evaluations of log p.
    """
    light = np.flatnonzero(mixture.log_masses < np.log(LIGHT))
    if not light.size or not np.isfinite(elbo):
        return mixture, 0
    places = mixture.centres[light]
    lost = np.zeros(len(mixture.log_masses), bool)
    lost[light] = target(places)[0] - mixture.log_density(places) < elbo - BEHIND
    return (mixture.without(lost) if lost.any() else mixture), len(light)


def check(
    mixture: FluidMixture,
    target: LogDensity,
    modes: Sequence[Gaussian],
    n: int,
    rng: np.random.Generator,
    *,
    glance: bool = False,
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
    glance : bool
        Whether a quarter of the draws is looked at first, and is enough if what it shows is
        `clear`: for a posterior that a Gaussian comes close to.
    """
    if not glance:
        return _weigh(mixture, target, modes, n, rng)
    first = _weigh(mixture, target, modes, max(n // GLANCE, 1), rng)
    if first.clear:
        return first
    seen = _weigh(mixture, target, modes, n, rng)
    return dataclasses.replace(seen, n_evaluations=first.n_evaluations + seen.n_evaluations)


def _weigh(
    mixture: FluidMixture,
    target: LogDensity,
    modes: Sequence[Gaussian],
    n: int,
    rng: np.random.Generator,
) -> Check:
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
    evidence, error = importance.log_evidence(log_w, smoothed, void)
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
    widths = [1 + sds / np.sqrt(mixture.dim) for sds in REACH]
    each = max(n // (4 * len(modes)), LEAST)
    fresh = np.concatenate(
        [
            *(widened(mixture, width).sample(n // 4, rng).theta for width in widths),
            *(m.mu + rng.standard_normal((each, mixture.dim)) @ m.L.T for m in modes),
        ]
    )
    theta = np.concatenate([own, fresh])
    logp = np.concatenate([logp_own, target(fresh)[0]])
    densities = mixture.log_densities(theta, [1.0, *widths])
    log_q = densities[0]
    parts = np.concatenate([densities, np.stack([_log_normal(m, theta) for m in modes])])
    counts = np.array([n] + [n // 4] * len(widths) + [each] * len(modes))
    log_h = logsumexp(parts + np.log(counts / counts.sum())[:, None], axis=0)
    log_w = np.where(np.isfinite(logp), logp, -np.inf) - log_h
    p_weights, _ = importance.psis(log_w)
    # q is used without the void; where log p is unknown, it is used
    q_weights = np.where(logp != -np.inf, log_q - log_h, -np.inf)
    with np.errstate(invalid="ignore"):  # log p may be finite nowhere
        log_z = logsumexp(log_w) - np.log(counts.sum())
        bare = log_w + log_h - log_z - log_q > np.log(BARE)
    return _Beyond(
        of_p=_moments(theta, p_weights),
        of_q=_moments(theta, q_weights - logsumexp(q_weights)),
        uncovered=float(np.exp(p_weights)[bare].sum()),
        n_evaluations=len(fresh),
    )


def widened(mixture: FluidMixture, factor: float) -> FluidMixture:
    """Return q with kernels wider by a factor.

    A kernel's mass lies at distances sqrt(d) +- .7 from its centre, in its sds; with the factor
    1 + s / sqrt(d) that of the wider one lies s further out, whatever d.
    """
    fluids = tuple(dataclasses.replace(f, A=f.A * factor) for f in mixture.fluids)
    return FluidMixture(fluids, mixture.log_weights)


def _log_normal(mode: Gaussian, theta: np.ndarray) -> np.ndarray:
    e = np.linalg.solve(mode.L, (theta - mode.mu).T)
    constant = 0.5 * len(e) * np.log(2 * np.pi) + np.linalg.slogdet(mode.L)[1]
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
