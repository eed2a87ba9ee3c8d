"""Time integration of the collocated scheme, and the bounds of its time step."""

from __future__ import annotations

import math

from dataclasses import dataclass

from pymc_sph.fluid.state import Array, namespace


@dataclass(frozen=True)
class Integrator:
    """A kick before the drift and one after it, as shares of the time step.

    One evaluation of the forces per step: those after the drift serve the next first kick.
    """

    before: float
    after: float


INTEGRATORS = {"euler": Integrator(1.0, 0.0), "verlet": Integrator(0.5, 0.5)}
"""Symplectic Euler (order 1) and velocity Verlet (kick, drift, kick; order 2)."""


@dataclass(frozen=True)
class Bounds:
    """The CFL bounds of a time step; each is infinite where its effect is absent.

    Attributes
    ----------
    convective : float
        min h / (c + abs(v)): sound and flow cross no more than a kernel.
    viscous : float
        min h^2 / (2 nu).
    diffusive : float
        min h / (2 delta c), of the density diffusion.
    force : float
        min sqrt(h / abs(a)): from rest, no particle falls further than a kernel's half.
    """

    convective: float
    viscous: float
    diffusive: float
    force: float

    @property
    def least(self) -> float:
        """The binding bound."""
        return min(self.convective, self.viscous, self.diffusive, self.force)


def time_step_bounds(
    h: Array, v: Array, a: Array, speed: Array, viscosity: float, diffusion: float
) -> Bounds:
    """Bounds of the time step (Monaghan 1992; Morris, Fox and Zhu 1997), at Courant number 1.

    Parameters
    ----------
    h, speed : (N,)
        Smoothing lengths and sound speeds.
    v, a : (N, d)
        Velocities and accelerations.
    viscosity, diffusion : float
        nu, and delta of the density diffusion.
    """
    xp = namespace(h)
    flow = xp.sqrt(xp.sum(v * v, axis=1))
    push = xp.sqrt(xp.sum(a * a, axis=1))
    least = float(xp.min(h))
    return Bounds(
        convective=float(xp.min(h / (speed + flow + 1e-300))),
        viscous=0.5 * least**2 / viscosity if viscosity > 0 else math.inf,
        diffusive=0.5 * float(xp.min(h / speed)) / diffusion if diffusion > 0 else math.inf,
        force=float(xp.min(xp.sqrt(h / (push + 1e-300)))),
    )
