"""The schedule: temperature, step sizes and the stopping rule, apart from the physics.

The temperature falls geometrically to 1. After that the ELBO is averaged over windows of steps;
when a window is no better than the best one before it, beyond its noise, the step sizes are
halved, and after some halvings without progress the fluid has converged.
"""

from __future__ import annotations

import dataclasses
import math

from collections.abc import Callable
from dataclasses import dataclass

from pymc_sph.fluid.step import Observation, Rates

RUNNING = "running"
CONVERGED = "converged"
MAX_STEPS = "max_steps"
NON_FINITE = "non_finite"
STALL = 50
"""Steps in a row without one finite probe after which a fluid is given up."""


Temperature = float | Callable[[int], float]
"""The first temperature of a geometric cooling, or the temperature as a function of the step."""


@dataclass(frozen=True)
class Plan:
    """The fixed part of a schedule.

    Attributes
    ----------
    temperature : float or callable
        Temperature of the first step, or a function that gives the one of each step.
    cooling : int
        Steps until the temperature is 1.
    window : int
        Steps per window of the ELBO.
    halvings : int
        Halvings of the step sizes before the fluid counts as converged.
    tol : float
        A rise of the ELBO that still counts as progress, nats.
    rates : Rates
        Rates at full step size.
    flat : int, optional
        Steps in a row that end the fit if half the variance of the log weights is `good` at
        each; by default it must be over a whole window. Few steps hardly see a heavy tail.
    noisy : bool
        Whether the log density is another one at each step (minibatches): the noise of a window's
        mean is then read off the ELBO's differences from step to step.
    ease : float
        Half the variance of the log weights is good enough below so many times `tol`.
    """

    temperature: Temperature
    cooling: int
    window: int
    halvings: int
    tol: float
    rates: Rates
    flat: int | None = None
    noisy: bool = False
    ease: float = 1.0

    @property
    def good(self) -> float:
        """Half the variance of the log weights below which the fluid is good enough, nats."""
        return self.tol * self.ease


@dataclass(frozen=True)
class Schedule:
    """The changing part of a schedule.

    Attributes
    ----------
    step : int
        Steps taken.
    level : int
        Halvings so far.
    best : float
        Best window mean of the ELBO at temperature 1, nats.
    total, total_variance : float
        Sums over the current window of the ELBO and of the variance of the log weights.
    total_square : float
        Sum over the current window of the squared differences of the ELBO from step to step.
    last : float
        ELBO of the last step at temperature 1, nats; 0 before the first.
    count, barren, flat : int
        Steps in the current window; steps in a row without a finite probe; steps in a row at which
        half the variance of the log weights was below `tol`.
    status : str
        "running", "converged" or "non_finite".
    """

    step: int = 0
    level: int = 0
    best: float = -math.inf
    total: float = 0.0
    total_variance: float = 0.0
    total_square: float = 0.0
    last: float = 0.0
    count: int = 0
    barren: int = 0
    flat: int = 0
    status: str = RUNNING


def temperature(plan: Plan, step: int) -> float:
    """Temperature of a step."""
    if callable(plan.temperature):
        return max(1.0, float(plan.temperature(step)))
    if step >= plan.cooling:
        return 1.0
    return plan.temperature ** (1.0 - step / plan.cooling)


def rates(plan: Plan, schedule: Schedule) -> Rates:
    """Rates of the next step."""
    scale = 0.5**schedule.level
    full = plan.rates
    return dataclasses.replace(
        full,
        temperature=temperature(plan, schedule.step),
        dt=full.dt * scale,
        tensor=full.tensor * scale,
        mass=full.mass * scale,
        frame=full.frame * scale,
    )


def assured(plan: Plan, schedule: Schedule) -> int:
    """Return for how many steps the schedule neither stops nor changes its step sizes.

    At least 1, and whatever they see; but a fit may be told to end before.
    """
    n = min(STALL - schedule.barren, plan.window * 2**schedule.level - schedule.count)
    return max(1, n if plan.flat is None else min(n, plan.flat - schedule.flat))


def advance(plan: Plan, schedule: Schedule, seen: Observation, n_probes: int) -> Schedule:
    """Schedule after a step with this observation of `n_probes` probes."""
    after = dataclasses.replace(schedule, step=schedule.step + 1)
    if not math.isfinite(seen.elbo):
        barren = schedule.barren + 1
        status = NON_FINITE if barren >= STALL else RUNNING
        return dataclasses.replace(after, barren=barren, status=status)
    if temperature(plan, schedule.step) > 1:
        return dataclasses.replace(after, barren=0)
    change = seen.elbo - schedule.last if plan.noisy and schedule.count else 0.0
    after = dataclasses.replace(
        after,
        barren=0,
        total_square=schedule.total_square + change * change,
        last=seen.elbo,
        flat=schedule.flat + 1 if 0.5 * seen.variance < plan.good else 0,
        total=schedule.total + seen.elbo,
        total_variance=schedule.total_variance + seen.variance,
        count=schedule.count + 1,
    )
    if plan.flat is not None and after.flat >= plan.flat:
        return dataclasses.replace(after, status=CONVERGED)
    full = after.count >= plan.window * 2**after.level
    return close_window(plan, after, n_probes) if full else after


def close_window(plan: Plan, schedule: Schedule, n_probes: int) -> Schedule:
    """Judge a full window: go on, halve the step sizes, or stop."""
    mean = schedule.total / schedule.count
    variance = schedule.total_variance / schedule.count
    error = math.sqrt(variance / (n_probes * schedule.count))
    if plan.noisy and schedule.count > 1:
        # half the mean squared difference is the variance of a step, whatever the trend
        per_step = schedule.total_square / (2 * (schedule.count - 1))
        error = max(error, math.sqrt(per_step / schedule.count))
    progress = mean > schedule.best + max(plan.tol, error)
    level = schedule.level + (not progress)
    flat = 0.5 * variance < plan.good
    return dataclasses.replace(
        schedule,
        best=max(schedule.best, mean),
        level=level,
        total=0.0,
        total_variance=0.0,
        total_square=0.0,
        count=0,
        status=CONVERGED if flat or level > plan.halvings else RUNNING,
    )


def reopen(plan: Plan, schedule: Schedule) -> Schedule:
    """Let a stopped schedule go on, at its last step sizes, until it stops once more."""
    if schedule.status != CONVERGED:
        return schedule
    level = min(schedule.level, plan.halvings)
    return dataclasses.replace(
        schedule, status=RUNNING, level=level, total=0.0, total_square=0.0, count=0, flat=0
    )
