"""Many steps of one fluid: its state together with its schedule and its stream of noise."""

from __future__ import annotations

import dataclasses

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pymc_sph.fluid import schedule as scheduling
from pymc_sph.fluid.density import ProbeNoise, draw_noise
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.pressure_step import pressure_step
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.schedule import Plan, Schedule, assured
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.step import Field, LogDensity, Observation, Rates, step

Coming = Callable[[int], Sequence[tuple[ProbeNoise, Rates]]]
"""(most) -> random numbers and rates of the next steps that are sure to be taken, at most so many.
"""


class Stepper(Protocol):
    """What takes the steps in place of `step.step`: a target may have one, as its `stepper`."""

    def take(
        self, key: tuple[int, ...], fluid: Fluid, rates: Rates, n_probes: int, coming: Coming
    ) -> tuple[Fluid, Observation]:
        """Take the next step of one fluid among those under way, which `key` names."""

    def once(
        self, fluid: Fluid, noise: ProbeNoise, rates: Rates, around: Field | None = None
    ) -> tuple[Fluid, Observation]:
        """Take one step."""


@dataclass(frozen=True)
class Simulation:
    """A fluid under way.

    Attributes
    ----------
    fluid : Fluid
        Its state.
    plan, schedule : Plan, Schedule
        Fixed and changing part of its schedule.
    n_probes : int
        Probes per step, even.
    seed : tuple of int
        The noise of step t depends on this and t alone, so that a run can be taken up anywhere.
    memory : Memory, optional
        Probes of the last steps, in the pressure form; None in the force form.
    """

    fluid: Fluid
    plan: Plan
    schedule: Schedule
    n_probes: int
    seed: tuple[int, ...]
    memory: Memory | None = None

    @property
    def running(self) -> bool:
        """Whether the stopping rule lets it go on."""
        return self.schedule.status == scheduling.RUNNING

    @property
    def status(self) -> str:
        """Status of its schedule."""
        return self.schedule.status

    @property
    def n_steps(self) -> int:
        """Steps taken."""
        return self.schedule.step

    @property
    def temperature(self) -> float:
        """Temperature of the next step."""
        return scheduling.temperature(self.plan, self.schedule.step)

    @property
    def cost(self) -> int:
        """Evaluations of the target per step."""
        return self.n_probes

    @property
    def placing_cost(self) -> int:
        """Evaluations of the target that it took to place it: none."""
        return 0

    def advance(self, target: LogDensity) -> tuple[Simulation, Observation]:
        """Take one step of the fluid and of its schedule."""
        return advance(self, target)

    def reopen(self) -> Simulation:
        """Let a stopped fluid go on, at its last step sizes."""
        schedule = scheduling.reopen(self.plan, self.schedule)
        return dataclasses.replace(self, schedule=schedule)


def coming(sim: Simulation, most: int) -> list[tuple[ProbeNoise, Rates]]:
    """Random numbers and rates of its next steps: those it is sure to take, at most so many."""
    first, n = sim.schedule.step, min(most, assured(sim.plan, sim.schedule))
    steps = []
    for t in range(first, first + n):
        noise = draw_noise(stream(*sim.seed, t), sim.n_probes, sim.fluid.dim)
        schedule = dataclasses.replace(sim.schedule, step=t)
        steps.append((noise, scheduling.rates(sim.plan, schedule)))
    return steps


def advance(simulation: Simulation, target: LogDensity) -> tuple[Simulation, Observation]:
    """Take one step of the fluid and of its schedule."""
    sim, memory = simulation, simulation.memory
    stepper: Stepper | None = getattr(target, "stepper", None)
    if memory is None and stepper is not None:
        rates = scheduling.rates(sim.plan, sim.schedule)
        fluid, seen = stepper.take(sim.seed, sim.fluid, rates, sim.n_probes, partial(coming, sim))
    else:
        [(noise, rates)] = coming(sim, 1)
        if memory is None:
            fluid, seen = step(sim.fluid, noise, target, rates)
        else:
            fluid, memory, seen = pressure_step(sim.fluid, memory, noise, target, rates)
    schedule = scheduling.advance(sim.plan, sim.schedule, seen, sim.n_probes)
    return dataclasses.replace(sim, fluid=fluid, schedule=schedule, memory=memory), seen
