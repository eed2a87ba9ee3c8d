"""Importance weights against the posterior: PSIS, evidence, and r_hat over the fluids.

Everything here works on the log weights log p - log q of independent draws from q.
"""

from __future__ import annotations

import numpy as np

from scipy.special import logsumexp

# here, and not in the middle of a fit: with JAX installed, loading ArviZ 1.x draws from NumPy's
# global generator
try:
    from arviz_stats.base import array_stats
except ImportError:
    import arviz

    array_stats = None


def psis(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance sampling, by ArviZ.

    Parameters
    ----------
    log_weights : (n,)
        log p - log q of n independent draws; non-finite ones get weight zero.

    Returns
    -------
    log_weights : (n,)
        Smoothed and normalised: their exponentials sum to 1.
    pareto_k : float
        Shape of the tail; NaN if fewer than 25 weights are finite.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry (2024). Pareto smoothed importance sampling. JMLR 25.
    """
    log_weights = np.asarray(log_weights, dtype="float64")
    finite = np.isfinite(log_weights)
    out = np.full(log_weights.shape, -np.inf)
    kept = log_weights[finite]
    # a tail that is all the same has no shape to fit, and ArviZ 1.x raises an error: modes that are
    # exact but for their shares have two different weights altogether
    largest = np.sort(kept)[-max(1, int(min(len(kept) / 5, 3 * np.sqrt(len(kept))))) :]
    if len(kept) < 25 or np.ptp(largest) < 1e-9:  # too few to fit a tail to, or no tail
        if len(kept):
            out[finite] = kept - logsumexp(kept)
        return out, (-np.inf if len(kept) >= 25 else np.nan)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # of ArviZ' tail fit
        if array_stats is not None:
            smoothed, k = array_stats.psislw(-kept)  # ArviZ 1.x takes minus the log weights
        else:
            smoothed, k = arviz.psislw(kept.copy())
    out[finite] = smoothed - logsumexp(smoothed)
    return out, float(k)


def relative_ess(log_weights: np.ndarray) -> float:
    """Kish's effective sample size over the sample size, in [0, 1]; non-finite weights are 0."""
    finite = log_weights[np.isfinite(log_weights)]
    if not len(finite):
        return 0.0
    return float(np.exp(2 * logsumexp(finite) - logsumexp(2 * finite)) / len(log_weights))


def log_evidence(
    log_weights: np.ndarray, smoothed: np.ndarray, void: float = 0.0
) -> tuple[float, float]:
    """Log evidence by Pareto-smoothed importance sampling, with its standard error, in nats.

    Smoothing keeps one draw far out in a tail, which may weigh as much as all others together,
    from deciding; its bias is small where Pareto k is below .7. The error is by the delta method.

    Parameters
    ----------
    log_weights, smoothed : (n,)
        Log weights as they are, and as `psis` returns them: smoothed and normalised.
    void : float
        Share of the draws left out because p is zero there, the rest of q made denser for it.
        Its estimate has an error, too.
    """
    if not np.isfinite(smoothed).any():
        return -np.inf, np.inf
    n = len(smoothed)
    # smoothing leaves all but the largest weights as they are: there the two differ by log sum
    least = np.argmin(np.where(np.isfinite(smoothed), log_weights, np.inf))
    value = float(log_weights[least] - smoothed[least] - np.log(n))
    variance = max(1.0 / relative_ess(smoothed) - 1.0, 0.0) / n + void / n
    return value, float(np.sqrt(variance))


def r_hat(theta: np.ndarray) -> float:
    """Worst Gelman-Rubin statistic of draws (F, n, d), the fluids as chains; NaN for one fluid."""
    n_fluids, n, _ = theta.shape
    if n_fluids < 2:
        return float("nan")
    with np.errstate(all="ignore"):  # the draws of a fluid that flies off may overflow
        within = theta.var(axis=1, ddof=1).mean(axis=0)
        between = theta.mean(axis=1).var(axis=0, ddof=1)
        value = np.sqrt((n - 1) / n + between / within)
    value = value[(within > 0) & ~np.isnan(value)]
    return float(value.max()) if len(value) else float("nan")
