"""The verdict on a fit: three grades, each with the figures that decided and what to try.

The rule and its calibration, on good fits and deliberately bad ones, are in ``docs/verdict.md``.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Iterator
from dataclasses import dataclass

from pymc_sph.links import see

RELIABLE = "reliable"
USE_WEIGHTS = "use the weights"
UNRELIABLE = "unreliable"
GRADES = (RELIABLE, USE_WEIGHTS, UNRELIABLE)
"""From the best to the worst."""

ERROR = 0.1
"""Largest error of a mean or log sd of reliable draws, in sds."""
LEFT = 0.2
"""Largest error that the weights may leave, in sds."""
ESS, ESS_MANY, MANY = 0.5, 0.8, 30
"""Least importance ESS of a reliable fit, in up to `MANY` dimensions and in more.

In many dimensions draws from beyond q seldom come to where p is, so that the estimated error may
miss a tail; the ESS has to be better there.
"""
TAIL, CONSTANT = 0.7, 0.9
"""Pareto k above which p has a heavier tail than q, unless the weights hardly vary, by the ESS."""
UNCOVERED = 0.01
"""Share of the posterior that may lie where q is nearly empty."""
UNSEEN = 0.05
"""Chance of one more path to a new mode, above which the search has not come to its end."""
R_HAT = 1.2
"""Largest r_hat of fluids that found the same."""
UNKNOWN = 0.05
"""Share of the draws where log p may be undefined."""
REFINE = "fit by `method = pymc_sph.SPH()`, `method.fit()`, and then `method.refine(n)`"
"""How a fit goes on: `pm.fit` gives the approximation back, and not the method that made it."""


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
    section : str
        Section of the page on troubleshooting about it (see `links`); empty for a reliable fit.
    """

    grade: str
    reason: str
    advice: str
    section: str = ""

    def __str__(self) -> str:
        """Return the verdict in one line."""
        advice = f" {self.advice}" if self.advice else ""
        return f"{self.grade}: {self.reason}.{advice}{see(self.section) if self.section else ''}"


NOISY = Verdict(
    UNRELIABLE,
    "the model draws minibatches, so log p is a noisy estimate, and nothing vouches for the fit",
    "Set full_data=True to have the fit checked, and its evidence computed, on the whole data.",
    "minibatches-make-log-p-noisy",
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
    error : float
        Worst error of q's means and log sds, in sds, as draws from beyond q show it.
    left : float
        The same of weighted draws from q.
    r_hat : float
        Worst r_hat over the agreeing fluids, before they met; NaN for one fluid.
    n_agreeing, n_fluids : int
        Fluids that carry mass in the pooled q or come to the best one's ELBO; all fluids.
    nonfinite : float
        Share of the draws where log p is undefined.
    status : str
        Why the fit stopped.
    void : float
        Share of q where p is zero.
    uncovered : float
        Share of the posterior, as far as it is known, where q is nearly empty.
    unseen : float
        Chance that one more path of the search would have found a new mode.
    n_modes : int
        Modes that the search knows.
    dim : int
        Dimension.
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
    n_modes: int = 1
    dim: int = 1


def judge(found: Evidence) -> Verdict:
    """Grade a fit: by the worst of what speaks against it.

    Each finding looks at figures of its own and none lifts another, so that worse figures never
    give a better grade.
    """
    fluids = f"{found.n_agreeing} of {found.n_fluids} fluids"
    if found.n_modes > 1:  # each may have found its own: then a large r_hat is no disagreement
        together = f"{fluids} carry mass, on {found.n_modes} modes (r_hat {found.r_hat:.2f})"
    else:
        together = f"{fluids} agree (r_hat {found.r_hat:.2f})"
    # of weights that hardly vary, k is often large, for nothing
    equal = " (weights nearly equal)" if found.pareto_k > TAIL and found.ess >= CONSTANT else ""
    figures = (
        f"estimated error {found.error:.2f} sd ({found.left:.2f} with weights), "
        f"importance ESS {found.ess:.2f}, Pareto k {found.pareto_k:.2f}{equal}, {together}"
    )
    if found.status not in ("converged", "stopped"):
        figures += f", status {found.status!r}"
    against = [*_lost(found), *_beyond_weights(found), *_mendable(found)]
    if not against:
        return Verdict(RELIABLE, figures, "")
    worst = max(against, key=lambda verdict: GRADES.index(verdict.grade))  # the first of them
    return dataclasses.replace(worst, reason=f"{worst.reason}; {figures}")


def _lost(found: Evidence) -> Iterator[Verdict]:
    """Yield what leaves no density to speak of."""
    if found.void > 0.9:
        yield Verdict(
            UNRELIABLE,
            f"p is zero in {found.void:.0%} of q",
            "Give the constraint as a bounded variable instead of a potential, and check the "
            "start (`start`).",
            "p-is-zero-in-most-of-q",
        )
    if found.status == "non_finite" or found.nonfinite > 0.9:
        yield Verdict(
            UNRELIABLE,
            "log p or its gradient was not finite at almost every probe",
            "Check the model's support and the start (`start`).",
            "log-p-is-not-finite-almost-everywhere",
        )


def _beyond_weights(found: Evidence) -> Iterator[Verdict]:
    """Yield what the importance weights cannot mend."""
    tail = not found.pareto_k <= TAIL
    heavy = tail and found.ess < CONSTANT
    if not found.uncovered <= UNCOVERED:
        # with a heavy tail, or a fluid that was still on its way, there may be more further out
        known = found.left <= LEFT and not tail and not _cut_off(found)
        grade = USE_WEIGHTS if known else UNRELIABLE
        where = "modes or tails" if found.n_modes > 1 else "the tails"
        advice = "Reparametrise (non-centred groups, lighter tails), or raise `particles`."
        if found.n_modes > 1:
            advice = "Raise `particles` and `fluids`, and leave `temperature` at 'auto'."
        yield Verdict(
            grade,
            f"{found.uncovered:.1%} of the posterior, in {where}, is not covered",
            _unless_cut_off(found, advice),
            "a-part-of-the-posterior-is-not-covered",
        )
    if not found.left <= LEFT:
        yield Verdict(
            UNRELIABLE,
            "the weights do not mend the error",
            _unless_cut_off(found, "Reparametrise (non-centred groups), or raise `particles`."),
            "the-weights-do-not-mend-the-error",
        )
    if not found.ess >= 0.02 or (heavy and not (found.pareto_k <= 1.0 and found.ess >= 0.3)):
        yield Verdict(
            UNRELIABLE,
            "a few weights decide",
            _unless_cut_off(
                found, "Reparametrise (non-centred groups), or raise `particles` or `probes`."
            ),
            "a-few-weights-decide",
        )
    if not found.nonfinite <= UNKNOWN:
        yield Verdict(
            USE_WEIGHTS,
            f"log p is undefined at {found.nonfinite:.0%} of the draws",
            "Check the model for overflow and 0/0 where its parameters are extreme.",
            "log-p-is-undefined-at-some-draws",
        )


def _mendable(found: Evidence) -> Iterator[Verdict]:
    """Yield what the weights mend, or what asks for care."""
    apart = found.n_fluids > 1 and found.n_agreeing == 1
    # several known modes, shared out among the fluids, explain a large r_hat
    if (found.r_hat > R_HAT and found.n_modes == 1) or apart:
        yield Verdict(
            USE_WEIGHTS,
            "the fluids found different parts of the posterior",
            _unless_cut_off(
                found, "There may be more modes than fluids: raise `fluids` and `temperature`."
            ),
            "the-fluids-found-different-parts-of-the-posterior",
        )
    if found.unseen > UNSEEN:
        yield Verdict(
            USE_WEIGHTS,
            f"the search for modes was still finding new ones (1 path in {1 / found.unseen:.0f})",
            "There may be more modes: raise `temperature`, and `paths`.",
            "the-search-for-modes-was-still-finding-new-ones",
        )
    least = ESS if found.dim <= MANY else ESS_MANY
    heavy = not found.pareto_k <= TAIL and found.ess < CONSTANT
    if heavy or not (found.error <= ERROR and found.ess >= least):
        yield Verdict(
            USE_WEIGHTS,
            "the draws need their weights",
            _unless_cut_off(
                found,
                "Take importance-corrected draws, by `approx.sample_chains()` or pymc_sph.fit, or "
                "raise `particles`.",
            ),
            "the-draws-need-their-weights",
        )
    if found.status == "interrupted":
        yield Verdict(
            USE_WEIGHTS,
            "the fit was interrupted",
            f"Fit again, or {REFINE}.",
            "stopped-before-its-end",
        )


def _cut_off(found: Evidence) -> bool:
    """Whether the fit did not come to its end by itself."""
    return found.status in ("max_steps", "interrupted")


def _unless_cut_off(found: Evidence, advice: str) -> str:
    """Advice for a fit that did not reach its end: let it, before anything else."""
    if found.status == "max_steps":
        return f"The fit used up its steps: raise `n`, or {REFINE}."
    if found.status == "interrupted":
        return f"The fit was interrupted: fit again, or {REFINE}."
    return advice
