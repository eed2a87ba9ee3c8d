"""Fluids placed at their starts, ready to run; and what the ensemble needs to know of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np

from scipy.special import logsumexp, softmax

from pymc_sph import exploration
from pymc_sph.collocated_settings import CollocatedSettings
from pymc_sph.exploration import apart, distance, near
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid, pour
from pymc_sph.fluid.step import LogDensity, Observation, Rates
from pymc_sph.mixture import apportion
from pymc_sph.schemes import AnySettings
from pymc_sph.seeds import POSITIONS, STEPS
from pymc_sph.settings import Settings
from pymc_sph.start import Gaussian

HALVINGS = 2
"""Halvings of the step sizes without progress after which a fluid has converged. With three, full
tensors gained nothing that they do not gain together, for a third more gradients."""
HALVINGS_DIAGONAL = 3
"""The same for diagonal tensors. With two, a mean of a funnel's neck (d = 176) was off
by .18 to .19 sd, with three by .13 to .17."""

FLAT_STEPS = 3
"""Flat steps in a row that end a fluid where the posterior is close to a Gaussian."""
SPREAD = 0.2
"""Variance of the positions there, in units of Silverman's rule. Positions are random, and with its
narrow kernels a fluid spends most of its steps on their noise: with 1 in place of .2, logistic
regression (d = 25) took 100 steps (four fluids) instead of 30, nes 54 instead of 21, at the same
ESS."""
EASE = 2.0
"""Times `tol` that a fluid alone is good enough, where one Gaussian comes close to the posterior:
pooled, fluids are twice as good or better, and flow on together if they are not."""


class Run(Protocol):
    """One fluid under way, whatever its scheme: what the ensemble needs to know of it."""

    @property
    def fluid(self) -> Fluid:
        """Its state, as the density that is returned."""

    @property
    def running(self) -> bool:
        """Whether it goes on."""

    @property
    def status(self) -> str:
        """A status of `schedule`."""

    @property
    def n_steps(self) -> int:
        """Steps taken."""

    @property
    def temperature(self) -> float:
        """Temperature of the next step."""

    @property
    def cost(self) -> int:
        """Evaluations of the target per step."""

    @property
    def placing_cost(self) -> int:
        """Evaluations of the target that it took to place it."""

    def advance(self, target: LogDensity) -> tuple[Self, Observation]:
        """Take one step."""

    def reopen(self) -> Self:
        """Let it go on if it has converged."""


def choose(starts: list[Gaussian], n_fluids: int) -> list[Gaussian]:
    """One start per fluid, from starts sorted by ELBO: places apart first, then the best others.

    Several paths that ended in one mode must not crowd out the path that found another.
    """
    first = apart(starts)
    taken = {id(start) for start in first}
    ordered = [*first, *(start for start in near(starts) if id(start) not in taken)]
    return [ordered[i % len(ordered)] for i in range(n_fluids)]


def placing(
    settings: AnySettings, target: LogDensity, modes: Sequence[Gaussian]
) -> Callable[[Gaussian, int, int, int], Run]:
    """Return the function of start, number, seed and n that places a fluid of these settings."""
    if isinstance(settings, CollocatedSettings):
        return lambda start, i, seed, n: settings.place(start, i, target, seed, n)
    noisy = bool(getattr(target, "random", False))
    return lambda start, i, seed, n: _place(start, modes, i, settings, seed, n, noisy)


def _place(
    start: Gaussian,
    modes: Sequence[Gaussian],
    i: int,
    settings: Settings,
    seed: int,
    n: int,
    noisy: bool,
) -> Simulation:
    """Fluid i at rest at its start and, with full tensors, at all other modes; with its schedule.

    A diagonal tensor takes its shape from the frame, and a frame fits one mode.
    """
    d = len(start.mu)
    full = settings.full_tensor(d)
    places = [start]
    if full:
        places += [mode for mode in modes if distance(mode, start) > 1.0]
    particles, probes = settings.sizes(d, len(places))
    places = places[:particles]
    rng = stream(seed, POSITIONS, i)
    pressure = settings.formulation == "pressure"
    # a hot start finds nothing more where the posterior is close to the Gaussian that was found;
    # without gradients it spreads the particles, which cold ones are slow to do
    calm = exploration.calm(modes) and not pressure
    log_share = np.array([place.elbo for place in places])
    counts = apportion(softmax(0.5 * log_share), particles - len(places)) + 1
    fluid = pour(
        [(p.mu, p.L, rng.standard_normal((c, d))) for p, c in zip(places, counts, strict=True)],
        log_share - logsumexp(log_share),
        full=full,
        spread=SPREAD if calm and not noisy else 1.0,  # noisy ones need the steps to average
    )
    auto = settings.temperature == "auto"
    temperature = 1.0 if calm and auto else settings.temperatures()[i]
    plan = Plan(
        temperature=temperature,
        cooling=min(settings.cooling, n // 2),
        window=settings.window,
        halvings=HALVINGS if full else HALVINGS_DIAGONAL,
        tol=settings.tolerance(),
        rates=Rates(
            dt=settings.dt,
            tensor=settings.tensor_rate,
            mass=settings.mass_rate,
            frame=settings.frame_rate,
            damping=settings.damping,
            viscosity=settings.viscosity,
            trust=settings.trust,
        ),
        flat=FLAT_STEPS if calm else None,
        noisy=noisy,
        ease=EASE if exploration.close(modes) and not (pressure or noisy) else 1.0,
    )
    memory = Memory() if pressure else None
    return Simulation(fluid, plan, Schedule(), probes, (seed, STEPS, i), memory)
