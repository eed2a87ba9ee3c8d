"""Many steps of one fluid: its state together with its schedule and its stream of noise."""

from __future__ import annotations

import dataclasses

from dataclasses import dataclass

from pymc_sph.fluid import schedule as scheduling
from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.pressure_step import pressure_step
from pymc_sph.fluid.reuse import Memory
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.step import LogDensity, Observation, step


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


def advance(simulation: Simulation, target: LogDensity) -> tuple[Simulation, Observation]:
    """Take one step of the fluid and of its schedule."""
    sim = simulation
    rng = stream(*sim.seed, sim.schedule.step)
    noise = draw_noise(rng, sim.n_probes, sim.fluid.dim)
    rates = scheduling.rates(sim.plan, sim.schedule)
    memory = sim.memory
    if memory is None:
        fluid, seen = step(sim.fluid, noise, target, rates)
    else:
        fluid, memory, seen = pressure_step(sim.fluid, memory, noise, target, rates)
    schedule = scheduling.advance(sim.plan, sim.schedule, seen, sim.n_probes)
    return dataclasses.replace(sim, fluid=fluid, schedule=schedule, memory=memory), seen
