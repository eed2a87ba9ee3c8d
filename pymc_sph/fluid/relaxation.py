"""Many steps of the collocated fluid: cooling, and the check whether it has come to rest.

The optimum need not be the steady state (the paper's own warning), so every state on the way can be
read: each step returns it.
"""

from __future__ import annotations

import dataclasses
import math

from dataclasses import dataclass
from typing import Any

from pymc_sph.fluid import collocated
from pymc_sph.fluid.collocated import Equations, ParticleObservation, Particles
from pymc_sph.fluid.schedule import CONVERGED, NON_FINITE, RUNNING
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.step import LogDensity


@dataclass(frozen=True)
class RestCheck:
    """When a fluid counts as being at rest.

    Attributes
    ----------
    kinetic : float
        Largest kinetic energy per particle and dimension.
    change : float
        Largest root mean square of d log rho / dt.
    steps : int
        Steps in a row for which both must hold.
    """

    kinetic: float = 1e-4
    change: float = 0.01
    steps: int = 10


@dataclass(frozen=True)
class Relaxation:
    """A collocated fluid under way; steps like `simulate.Simulation`.

    Attributes
    ----------
    particles : Particles
        Its state.
    equations : Equations
        What it obeys, at temperature 1.
    check : RestCheck
        When it is at rest.
    hot, cooling : float, int
        Temperature of the first step, a factor of c^2, and steps until it is 1.
    n_steps, n_calm : int
        Steps taken; the last of them, in a row, that were calm.
    status : str
        "running", "converged" or "non_finite".
    """

    particles: Particles
    equations: Equations
    check: RestCheck
    hot: float = 1.0
    cooling: int = 0
    n_steps: int = 0
    n_calm: int = 0
    status: str = RUNNING

    @property
    def fluid(self) -> Fluid:
        """The particles with Gaussian kernels: the density that is returned."""
        return collocated.to_fluid(self.particles)

    @property
    def running(self) -> bool:
        """Whether it has neither come to rest nor broken down."""
        return self.status == RUNNING

    @property
    def cost(self) -> int:
        """Evaluations of the target per step."""
        return self.particles.n_particles

    @property
    def temperature(self) -> float:
        """Temperature of the next step; it falls geometrically to 1."""
        if self.n_steps >= self.cooling:
            return 1.0
        return float(self.hot ** (1.0 - self.n_steps / self.cooling))

    def advance(self, target: LogDensity) -> tuple[Relaxation, ParticleObservation]:
        """Take one step."""
        equations = at_temperature(self.equations, self.temperature)
        particles, seen = collocated.step(self.particles, target, equations)
        calm = (
            self.n_steps >= self.cooling
            and seen.kinetic < self.check.kinetic
            and seen.change < self.check.change
        )
        n_calm = self.n_calm + 1 if calm else 0
        status = CONVERGED if n_calm >= self.check.steps else RUNNING
        if not math.isfinite(seen.elbo):
            status = NON_FINITE
        after = dataclasses.replace(
            self, particles=particles, n_steps=self.n_steps + 1, n_calm=n_calm, status=status
        )
        return after, seen

    def reopen(self) -> Relaxation:
        """Let a fluid at rest go on, until it is found at rest once more."""
        if self.status != CONVERGED:
            return self
        return dataclasses.replace(self, status=RUNNING, n_calm=0)


def at_temperature(equations: Equations, temperature: float) -> Equations:
    """Equations with c^2 multiplied by the temperature."""
    if temperature == 1.0:
        return equations
    eos: Any = equations.eos
    return dataclasses.replace(equations, eos=dataclasses.replace(eos, c2=temperature * eos.c2))
