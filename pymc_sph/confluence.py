"""Where the fluids meet: their shares in the pooled q, what they witness, and steps together.

Until they meet, the fluids know nothing of each other, so that their agreement says something.
Then they flow on for a while in one density: each particle's potential and acceleration are those
of the pooled q. Where several fluids found the same, their particles share it out among them, and
holes between them close; where they found different modes, the modes keep their fluids, and the
shares go to where the density says.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from scipy.special import logsumexp

from pymc_sph import importance
from pymc_sph.ahead import announce_steps
from pymc_sph.fluid import schedule as scheduling
from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.mass import settle
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.pressure_step import pressure_step
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation, Stepper
from pymc_sph.fluid.state import Fluid, to_frame
from pymc_sph.fluid.step import LogDensity, Observation, Rates, step
from pymc_sph.mixture import FluidMixture, fit_shares, pooled_field
from pymc_sph.start import CALM

NEGLIGIBLE = 1e-3
"""Share of q below which a fluid rests."""
HALVINGS = {"force": 4, "pressure": 3}
"""Halvings of the step sizes together: the noise of the last steps is what is left of the error."""
CLOSE = 0.5
"""Nats below the best fluid's ELBO within which a fluid agrees with it, whatever its share."""


@dataclass(frozen=True)
class Witness:
    """What the fluids have in common before they meet: the evidence for their agreement.

    Attributes
    ----------
    fluid_elbo : (F,)
        ELBO of each fluid alone, nats.
    r_hat : float
        Worst r_hat over the agreeing fluids, in unconstrained space; NaN for one fluid.
    n_agreeing : int
        Fluids that carry mass in the pooled q, or come to the same ELBO as the best one.
    """

    fluid_elbo: np.ndarray
    r_hat: float
    n_agreeing: int


@dataclass(frozen=True)
class Confluence:
    """Fluids that have met.

    Attributes
    ----------
    mixture : FluidMixture
        The fluids with their shares.
    plan, schedule : Plan, Schedule
        Step sizes and stopping rule, as of a single fluid; the ELBO is the pooled one.
    n_probes : int
        Probes per step and fluid.
    seed : tuple of int
        Seed of the noise; step and fluid are added to it.
    memories : tuple of Memory
        Probes of each fluid's last steps, in the pressure form; none in the force form.
    """

    mixture: FluidMixture
    plan: Plan
    schedule: Schedule
    n_probes: int
    seed: tuple[int, ...]
    memories: tuple[Memory, ...] = ()

    @property
    def running(self) -> bool:
        """Whether the stopping rule lets them go on."""
        return self.schedule.status == scheduling.RUNNING

    @property
    def carrying(self) -> np.ndarray:
        """Fluids, by number, that carry mass and take part."""
        return np.flatnonzero(np.exp(self.mixture.log_weights) > NEGLIGIBLE)

    @property
    def cost(self) -> int:
        """Evaluations of the target per step."""
        return self.n_probes * len(self.carrying)


def meet(
    mixture: FluidMixture,
    target: LogDensity,
    n: int,
    rng: np.random.Generator,
    *,
    settling: bool = True,
    centring: bool = False,
) -> tuple[FluidMixture, Witness, float]:
    """Let the masses of each fluid settle, and fit their shares, from n draws of each.

    Without `settling` the masses within each fluid stay as they are. With `centring`, where one
    Gaussian comes close to the posterior, q is moved as a whole to where the weighted draws have
    their mean.

    Returns
    -------
    mixture : FluidMixture
        The fluids with the shares that maximise the pooled ELBO.
    witness : Witness
        What they witness.
    divergence : float
        Half the variance of log p - log q under q, which estimates KL(q || p), nats; infinite
        where no draw is finite.
    """
    n_fluids = len(mixture.fluids)
    theta = np.stack([mixture.sample(n, rng, fluid=i).theta for i in range(n_fluids)])
    flat = theta.reshape(n_fluids * n, -1)
    logp = target(flat)[0].reshape(n_fluids, n)
    if settling:
        settled = [_settle(f, *part) for f, *part in zip(mixture.fluids, theta, logp, strict=True)]
        mixture = FluidMixture(tuple(settled), mixture.log_weights)
    log_q = np.stack([mixture.log_density(flat, i).reshape(n_fluids, n) for i in range(n_fluids)])
    own = logp - log_q[np.arange(n_fluids), np.arange(n_fluids)]
    elbo = np.array([x[np.isfinite(x)].mean() if np.isfinite(x).any() else -np.inf for x in own])
    log_shares = fit_shares(logp, log_q)
    # one that others make superfluous agrees with them as well
    agreeing = (np.exp(log_shares) > NEGLIGIBLE) | (elbo > elbo.max() - CLOSE)
    witness = Witness(elbo, importance.r_hat(theta[agreeing]), int(agreeing.sum()))
    log_w = logp - logsumexp(log_q + log_shares[:, None, None], axis=0)
    weight = np.where(np.isfinite(log_w), np.exp(log_shares)[:, None], 0.0)
    divergence = np.inf
    if weight.any():
        log_w = np.where(weight > 0, log_w, 0.0)
        mean = np.average(log_w, weights=weight)
        divergence = 0.5 * float(np.average((log_w - mean) ** 2, weights=weight))
    met = FluidMixture(mixture.fluids, log_shares)
    if centring and divergence < CALM:
        met = met.moved(_off_centre(theta, log_w, weight))
    return met, witness, divergence


def _off_centre(theta: np.ndarray, log_w: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How far (d,) the mean of p is from that of q, by draws (F, n, d) of the fluids.

    Both means are of the same draws, so that their difference is known much better than either:
    its noise falls with the spread of the log weights (F, n). `weight` are the draws' own, by the
    shares of their fluids.
    """
    theta, q = theta.reshape(-1, theta.shape[-1]), weight.ravel() / weight.sum()
    p = q * np.exp(log_w.ravel() - log_w.max())
    return np.asarray((p / p.sum() - q) @ (theta - q @ theta))


def _settle(fluid: Fluid, theta: np.ndarray, logp: np.ndarray) -> Fluid:
    finite = np.isfinite(logp)
    if not finite.any():
        return fluid
    return settle(fluid, to_frame(fluid, theta[finite]), logp[finite])


def join(
    mixture: FluidMixture, runs: Sequence[Simulation], seed: tuple[int, ...], *, flat: bool
) -> Confluence:
    """Fluids that have met, with the plan and the number of probes of the first.

    Parameters
    ----------
    mixture : FluidMixture
        The fluids with their shares, as `meet` returns them.
    runs : sequence of Simulation
        The fluids as they were under way.
    seed : tuple of int
        Seed of the noise.
    flat : bool
        Whether q is as good as asked for already: then no steps are taken.
    """
    run = runs[0]
    # the frames rest: they differ, and their fluids have converged; the first halving is theirs
    plan = dataclasses.replace(
        run.plan,
        temperature=1.0,
        cooling=0,
        window=max(1, run.plan.window // 2),
        flat=None,
        ease=1.0,
        halvings=HALVINGS["force" if run.memory is None else "pressure"],
        rates=dataclasses.replace(run.plan.rates, temperature=1.0, frame=0.0),
    )
    status = scheduling.CONVERGED if flat else scheduling.RUNNING
    memories = tuple(r.memory for r in runs if r.memory is not None)
    return Confluence(mixture, plan, Schedule(level=1, status=status), run.n_probes, seed, memories)


def at_rest(mixture: FluidMixture, seed: tuple[int, ...]) -> Confluence:
    """Fluids that have met but do not flow on: those of the collocated scheme, which has no probes.

    They have stopped, and keep the shares of `mixture`.
    """
    plan = Plan(temperature=1.0, cooling=0, window=1, halvings=0, tol=1.0, rates=Rates())
    return Confluence(mixture, plan, Schedule(status=scheduling.CONVERGED), 0, seed)


def advance(together: Confluence, target: LogDensity) -> tuple[Confluence, Observation, np.ndarray]:
    """Take one step of every fluid that carries mass, in the density of all of them.

    Returns
    -------
    together : Confluence
        The fluids after the step.
    observation : Observation
        What the probes of all fluids saw of the pooled q before it.
    elbos : (F,)
        Mean of log p - log q (pooled) under each fluid, nats; NaN for a fluid that rests.
    """
    mixture = together.mixture
    field = pooled_field(mixture)
    rates = scheduling.rates(together.plan, together.schedule)
    fluids, memories = list(mixture.fluids), list(together.memories)
    shares = np.exp(mixture.log_weights)
    seen: dict[int, Observation] = {}
    stepper: Stepper | None = getattr(target, "stepper", None)

    def take(i: int, target: LogDensity) -> None:
        rng = stream(*together.seed, i, together.schedule.step)
        noise = draw_noise(rng, together.n_probes, mixture.dim)
        if memories:
            fluids[i], memories[i], seen[i] = pressure_step(
                fluids[i], memories[i], noise, target, rates, around=field
            )
        elif stepper is not None:
            fluids[i], seen[i] = stepper.once(fluids[i], noise, rates, field)
        else:
            fluids[i], seen[i] = step(fluids[i], noise, target, rates, around=field)

    announce_steps(target, [partial(take, int(i)) for i in together.carrying])
    for i in together.carrying:
        take(int(i), target)
    elbos = np.full(len(fluids), np.nan)
    elbos[list(seen)] = [o.elbo for o in seen.values()]
    pooled = _pool(seen, shares)
    log_shares = mixture.log_weights.copy()
    for i, o in seen.items():
        if np.isfinite(o.elbo):
            log_shares[i] += np.clip(rates.mass * (o.elbo - pooled.elbo), -1.0, 1.0)
    after = FluidMixture(tuple(fluids), log_shares - logsumexp(log_shares))
    schedule = scheduling.advance(together.plan, together.schedule, pooled, together.cost)
    together = dataclasses.replace(
        together, mixture=after, schedule=schedule, memories=tuple(memories)
    )
    return together, pooled, elbos


def reopen(together: Confluence) -> Confluence:
    """Let fluids that had stopped go on together, at their last step sizes."""
    schedule = scheduling.reopen(together.plan, together.schedule)
    return dataclasses.replace(together, schedule=schedule)


def _pool(seen: dict[int, Observation], shares: np.ndarray) -> Observation:
    """Observation of the mixture, from those of its fluids."""
    n_nonfinite = sum(o.n_nonfinite for o in seen.values())
    finite = [i for i, o in seen.items() if np.isfinite(o.elbo)]
    if not finite:
        return Observation(-np.inf, np.inf, 0.0, n_nonfinite)
    weight = shares[finite] / shares[finite].sum()
    elbo, variance, ess = np.array(
        [[seen[i].elbo, seen[i].variance, seen[i].ess] for i in finite]
    ).T
    mean = float(weight @ elbo)
    between = float(weight @ (elbo - mean) ** 2)
    return Observation(mean, float(weight @ variance) + between, float(weight @ ess), n_nonfinite)
