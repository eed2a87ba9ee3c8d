"""Importance weights against the posterior: PSIS, evidence, and the verdict on a fit.

Everything here works on the log weights log p - log q of independent draws from q.
"""

from __future__ import annotations

import importlib.util

from dataclasses import dataclass

import numpy as np

from scipy.special import logsumexp

RELIABLE = "reliable"
USE_WEIGHTS = "use the weights"
UNRELIABLE = "unreliable"

RELIABLE_ESS = 0.9
"""Least importance ESS of a reliable fit: below it KL(q || p) is above about .05 nats."""
SHIFT = 0.08
"""A reliable fit's weights move no mean or log sd further than this, in sds."""


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
    if len(kept) < 25 or np.ptp(kept) < 1e-9:  # too few to fit a tail to, or no tail
        if len(kept):
            out[finite] = kept - logsumexp(kept)
        return out, (-np.inf if len(kept) >= 25 else np.nan)
    if importlib.util.find_spec("arviz_stats") is not None:
        from arviz_stats.base import array_stats

        smoothed, k = array_stats.psislw(-kept)  # ArviZ 1.x takes minus the log weights
    else:
        import arviz as az

        smoothed, k = az.psislw(kept.copy())
    out[finite] = smoothed - logsumexp(smoothed)
    return out, float(k)


def relative_ess(log_weights: np.ndarray) -> float:
    """Kish's effective sample size over the sample size, in [0, 1]; non-finite weights are 0."""
    finite = log_weights[np.isfinite(log_weights)]
    if not len(finite):
        return 0.0
    return float(np.exp(2 * logsumexp(finite) - logsumexp(2 * finite)) / len(log_weights))


def log_evidence(log_weights: np.ndarray, smoothed: np.ndarray) -> tuple[float, float]:
    """Log evidence by Pareto-smoothed importance sampling, with its standard error, in nats.

    Smoothing keeps one draw far out in a tail, which may weigh as much as all others together,
    from deciding; its bias is small where Pareto k is below .7. The error is by the delta method.

    Parameters
    ----------
    log_weights, smoothed : (n,)
        Log weights as they are, and as `psis` returns them: smoothed and normalised.
    """
    if not np.isfinite(smoothed).any():
        return -np.inf, np.inf
    n = len(smoothed)
    # smoothing leaves all but the largest weights as they are: there the two differ by log sum
    least = np.argmin(np.where(np.isfinite(smoothed), log_weights, np.inf))
    value = float(log_weights[least] - smoothed[least] - np.log(n))
    variance = max(1.0 / relative_ess(smoothed) - 1.0, 0.0) / n
    return value, float(np.sqrt(variance))


def importance_shift(theta: np.ndarray, log_weights: np.ndarray) -> float:
    """Worst change that the weights make to a coordinate's mean or log sd, in sds.

    Parameters
    ----------
    theta : (n, d)
        Draws from q, in unconstrained space.
    log_weights : (n,)
        Normalised log weights, as `psis` returns them.
    """
    w = np.exp(log_weights)
    with np.errstate(all="ignore"):  # the draws of a fluid that flies off may overflow
        sd = theta.std(axis=0)
        mean = w @ theta
        new_sd = np.sqrt(w @ (theta - mean) ** 2)
        shifts = np.concatenate(
            [np.abs(mean - theta.mean(axis=0)) / sd, np.abs(np.log(new_sd / sd))]
        )
    return float(np.max(shifts[np.isfinite(shifts)], initial=0.0))


def r_hat(theta: np.ndarray) -> float:
    """Worst Gelman-Rubin statistic of draws (F, n, d), the fluids as chains; NaN for one fluid."""
    n_fluids, n, _ = theta.shape
    if n_fluids < 2:
        return float("nan")
    with np.errstate(all="ignore"):  # as in `importance_shift`
        within = theta.var(axis=1, ddof=1).mean(axis=0)
        between = theta.mean(axis=1).var(axis=0, ddof=1)
        value = np.sqrt((n - 1) / n + between / within)
    value = value[(within > 0) & ~np.isnan(value)]
    return float(value.max()) if len(value) else float("nan")


@dataclass(frozen=True)
class Verdict:
    """How far to trust a fit.

    Attributes
    ----------
    grade : str
        "reliable": the draws can be used as they are. "use the weights": correct them with
        `log_weight` of sample_stats, or call `pymc_sph.fit`. "unreliable": do neither.
    reason : str
        The figures that decided.
    advice : str
        What to try; empty for a reliable fit.
    """

    grade: str
    reason: str
    advice: str

    def __str__(self) -> str:
        """Return the verdict in one line."""
        return f"{self.grade}: {self.reason}." + (f" {self.advice}" if self.advice else "")


NOISY = Verdict(
    UNRELIABLE,
    "the model draws minibatches, so log p is a noisy estimate, and neither evidence nor weights "
    "can check the fit",
    "Compare with a fit of the whole data, or of a part of it.",
)
"""Verdict on a model with ``pm.Minibatch``."""


@dataclass(frozen=True)
class Evidence:
    """What the final check of a fit found; the input of the verdict.

    Attributes
    ----------
    ess : float
        Relative ESS of the Pareto-smoothed weights of draws from q.
    pareto_k : float
        Pareto k of their weights.
    shift : float
        See `importance_shift`.
    r_hat : float
        Worst r_hat over the agreeing fluids, before they met.
    n_agreeing, n_fluids : int
        Fluids that carry mass in the pooled q or come to the best one's ELBO; all fluids.
    nonfinite : float
        Share of the draws where log p is undefined.
    status : str
        Why the fit stopped.
    void : float
        Share of q where p is zero.
    """

    ess: float
    pareto_k: float
    error: float
    left: float
    r_hat: float
    n_agreeing: int
    n_fluids: int
    nonfinite: float
    status: str
    void: float = 0.0
    uncovered: float = 0.0
    unseen: float = 0.0


def judge(found: Evidence) -> Verdict:
    """Grade a fit.

    The weights bound the error where q reaches, the fluids' agreement witnesses that it reaches
    everywhere. Pareto k alone misleads both ways, so that it counts only where the weights vary.
    """
    figures = (
        f"importance ESS {found.ess:.2f}, Pareto k {found.pareto_k:.2f}, "
        f"{found.n_agreeing} of {found.n_fluids} fluids agree (r_hat {found.r_hat:.2f})"
    )
    if found.status not in ("converged", "stopped"):
        figures += f", status {found.status!r}"
    tail = found.pareto_k > 0.7 and found.ess < 0.9
    if found.status == "non_finite" or max(found.nonfinite, found.void) > 0.9:
        return Verdict(
            UNRELIABLE,
            f"log p or its gradient was not finite at almost every probe; {figures}",
            "Check the model's support and the start.",
        )
    if found.ess < 0.05 or (tail and (found.ess < 0.3 or found.pareto_k > 1.0)):
        return Verdict(
            UNRELIABLE,
            f"the fluid does not cover the posterior; {figures}",
            _remedy(found, "Reparametrise (non-centred groups), or raise `particles` or `probes`."),
        )
    alone = found.n_fluids > 1 and found.n_agreeing == 1
    if found.r_hat > 1.2 or alone:
        return Verdict(
            USE_WEIGHTS if not tail and found.ess > 0.3 else UNRELIABLE,
            f"the fluids found different parts of the posterior; {figures}",
            "There may be more modes than fluids: raise `fluids` and `temperature`.",
        )
    if tail or found.error > SHIFT or found.ess < RELIABLE_ESS or found.nonfinite > 0.05:
        return Verdict(
            USE_WEIGHTS,
            f"the weights move a mean or log sd by up to {found.error:.2f} sd; {figures}",
            _remedy(found, "Use pymc_sph.fit (importance-corrected draws), or raise `particles`."),
        )
    if found.status == "interrupted":
        return Verdict(
            USE_WEIGHTS, f"the fit was interrupted; {figures}", "Continue with refine(n)."
        )
    return Verdict(RELIABLE, figures, "")


def _remedy(found: Evidence, remedy: str) -> str:
    """Advice for a fit that did not reach its end: let it, before anything else."""
    if found.status == "max_steps":
        return "The fit used up its steps: raise `n`, or continue with refine(n)."
    if found.status == "interrupted":
        return "The fit was interrupted: continue with refine(n)."
    return remedy
