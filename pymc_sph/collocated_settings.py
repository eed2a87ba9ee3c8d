"""Settings of the paper's scheme, and how one of its fluids is placed at its start."""

from __future__ import annotations

import dataclasses

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymc_sph.checks import CheckedSettings, SettingsError, finite_real, shown
from pymc_sph.fluid import external, integrators, momentum, radial_kernels, smoothing_length
from pymc_sph.fluid.collocated import Equations, begin
from pymc_sph.fluid.equation_of_state import (
    EquationOfState,
    Isothermal,
    Linear,
    Tait,
    reference_density,
)
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.relaxation import Relaxation, RestCheck
from pymc_sph.fluid.step import LogDensity
from pymc_sph.seeds import POSITIONS
from pymc_sph.start import Gaussian

CHOICES: dict[str, Collection[str]] = {
    "formulation": ("auto", "force", "pressure"),
    "eos": ("isothermal", "linear", "tait"),
    "kernel": radial_kernels.SHAPES,
    "smoothing": smoothing_length.RULES,
    "density": ("summation", "continuity"),
    "diffused": ("excess", "density"),
    "pressure_force": momentum.PRESSURE_FORCES,
    "external": external.FORMS,
    "integrator": integrators.INTEGRATORS,
    "draws_from": ("density", "particles"),
}
"""Settings that are names, and the names they may be."""


@dataclass(frozen=True)
class CollocatedSettings(CheckedSettings):
    """Settings of SPH as the paper writes it, ``scheme="collocated"``.

    The paper is Huang 2024, "Variational inference via SPH" (arXiv 2407.09186).

    Each fluid lives in the frame of its start, a Gaussian of unit covariance there. Lengths, times
    and densities below are in that frame. The defaults rest at p, as N grows and h falls: an
    isothermal gas in the field alpha grad log p with alpha = c^2. Other combinations are the
    paper's literal forms; where p is not their equilibrium, it says so here.

    Parameters
    ----------
    formulation : {"auto", "force", "pressure"}
        Whether the target's gradient is used: "pressure" makes do with its values, and asks for
        an `external` that does too. "auto" is "force" where there is a gradient.
    fluids : int
        Number of independent fluids.
    particles : int, optional
        Particles per fluid, N; 256 up to 3 dimensions, else 128, by default.
    eos : {"isothermal", "linear", "tait"}
        P = c^2 rho; P = c^2 (rho - rho0), which cuts off the tails below rho0; or
        P = B ((rho / rho0)^gamma - 1), whose equilibrium is not p.
    c2 : float
        Square of the sound speed c, at rho0 for Tait.
    rho0 : float, optional
        Reference density; (4 pi)^(-d / 2), a unit Gaussian's mean density, by default.
    gamma : float
        Exponent of Tait's equation.
    kernel : {"gaussian", "cubic", "wendland2", "wendland4", "wendland6"}
        Smoothing kernel of the dynamics. The density that is returned has Gaussian kernels of the
        same variance h_i^2 per dimension: with a compact one log q would be -inf nearly everywhere.
    smoothing : {"constant", "nearest", "median"}
        Rule of the smoothing length h, the kernel's standard deviation: N^(-1 / (d + 4)); the
        distance to the k-th neighbour over sqrt(d); or SVGD's median heuristic.
    smoothing_scale : float
        Factor of that rule.
    neighbours : int
        k of the rule "nearest".
    density : {"summation", "continuity"}
        rho by the kernel sum, or by the continuity equation.
    diffusion : float
        delta of the continuity equation's density diffusion.
    diffused : {"excess", "density"}
        Diffuse log rho - (alpha / c^2) log p, or rho itself. The latter, delta-SPH's own form, is
        biased: it levels rho out, and the particles settle at a density linear in log p.
    pressure_force : {"symmetric", "plain"}
        The pair force that conserves momentum: at rest the particles follow p, and the density is
        wider by h^2. Or the SPH sum for grad P over rho: at rest the density follows p.
    external : {"force", "potential", "density_force", "pressure", "density_pressure"}
        The target: acceleration alpha grad log p; the same from values alone, by an SPH gradient;
        alpha grad p (equilibrium exp(alpha p / c^2), not p); external pressure -alpha log p
        (equilibrium linear in log p where positive, not p; its level is set so that a unit
        Gaussian's fluid has the mass 1); external pressure -alpha p (equilibrium p at
        alpha = c^2 with the right evidence, for which the ELBO of the start stands in).
    alpha : float, optional
        Amplification of the target; c^2 by default. The equilibrium is p^(alpha / c^2).
    viscosity : float
        nu of nu lap v + nu / 3 grad(div v).
    damping : float
        Rate gamma at which velocities decay: what brings the fluid to rest.
    integrator : {"verlet", "euler"}
        Velocity Verlet or symplectic Euler.
    dt : float, optional
        Constant time step; by default `courant` times the CFL bound.
    courant : float
        Courant number.
    temperature : float, or sequence of float
        Factor of c^2 at the first step, one for all fluids or one each; it falls geometrically
        to 1.
    cooling : int
        Steps until it is 1.
    kinetic_tol, change_tol : float
        The fluid is at rest once its kinetic energy per particle and dimension, and the root mean
        square of d log rho / dt, are below these...
    rest_steps : int
        ...for this many steps in a row.
    paths : int
        L-BFGS paths of the start; the best of them start the fluids.
    draws : int
        Draws of the final check: shares of the fluids, evidence, ESS, Pareto k.
    draws_from : {"density", "particles"}
        What `FluidApproximation.sample` returns: draws from the smoothed density, or the particles
        themselves, which lose variance with dimension. The figures of the fit, and
        ``sample_stats.log_q``, are those of the density in both cases.

    Raises
    ------
    SettingsError
        For a value outside its range; the message names the setting.
    """

    formulation: str = "auto"
    fluids: int = 4
    particles: int | None = None
    eos: str = "isothermal"
    c2: float = 1.0
    rho0: float | None = None
    gamma: float = 7.0
    kernel: str = "gaussian"
    smoothing: str = "constant"
    smoothing_scale: float = 1.0
    neighbours: int = 16
    density: str = "summation"
    diffusion: float = 0.0
    diffused: str = "excess"
    pressure_force: str = "symmetric"
    external: str = "force"
    alpha: float | None = None
    viscosity: float = 0.0
    damping: float = 1.0
    integrator: str = "verlet"
    dt: float | None = None
    courant: float = 0.6
    temperature: float | tuple[float, ...] = 1.0
    cooling: int = 100
    kinetic_tol: float = 1e-4
    change_tol: float = 0.01
    rest_steps: int = 10
    paths: int = 8
    draws: int = 4000
    draws_from: str = "density"

    def __post_init__(self) -> None:
        """Check every setting, and keep it as a plain Python value."""
        for name, names in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in names:
                listed = ", ".join(repr(n) for n in names)
                raise SettingsError(f"{name}={shown(value)}: choose one of {listed}")
        least = {"fluids": 1, "paths": 1, "neighbours": 1, "rest_steps": 1, "cooling": 0}
        for name, smallest in (least | {"draws": 100, "particles": 2}).items():
            if getattr(self, name) is not None:
                self._integer(name, smallest)
        for name in ("c2", "smoothing_scale", "courant", "kinetic_tol", "change_tol"):
            self._real(name, above=0.0)
        for name in ("rho0", "alpha", "dt"):
            if getattr(self, name) is not None:
                self._real(name, above=0.0)
        self._real("gamma", above=1.0)
        for name in ("diffusion", "viscosity", "damping"):
            self._real(name, least=0.0)
        self._keep("temperature", self._temperature())
        if self.formulation == "pressure" and self.external in external.GRADIENT:
            others = ", ".join(repr(f) for f in external.FORMS if f not in external.GRADIENT)
            raise SettingsError(
                f"external={self.external!r} needs the gradient of the log density, and there is "
                f"none: choose one of {others}"
            )
        if self.diffusion > 0 and self.density != "continuity":
            raise SettingsError(
                f"diffusion={self.diffusion!r}: only density='continuity' has a density diffusion"
            )

    def _temperature(self) -> float | tuple[float, ...]:
        """Check the temperature: one number, or one for each fluid."""
        value: Any = self.temperature
        single = finite_real(value)
        listed = isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1
        numbers = [finite_real(t) for t in value] if listed else [single]
        if (listed and len(numbers) != self.fluids) or any(t is None or t < 1 for t in numbers):
            raise SettingsError(
                f"temperature={shown(value)}: give a finite number of at least 1, or one for each "
                f"of the {self.fluids} fluids"
            )
        found = tuple(t for t in numbers if t is not None)
        return found if listed else found[0]

    def in_form(self, formulation: str) -> CollocatedSettings:
        """Return the settings with the formulation that the target turned out to need."""
        return dataclasses.replace(self, formulation=formulation)

    def temperatures(self) -> tuple[float, ...]:
        """Temperature of the first step of each fluid."""
        value = self.temperature
        return value if isinstance(value, tuple) else (value,) * self.fluids

    def probe_temperature(self) -> float:
        """Temperature of the probes that look for more modes: the paper's scheme has none."""
        return 1.0

    def full_tensor(self, dim: int) -> bool:
        """Whether smoothing tensors are full factors: never, the kernels are round."""
        return False

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        values = dataclasses.asdict(self) | {"scheme": "collocated"}
        if isinstance(self.temperature, tuple):
            values["temperature"] = list(self.temperature)
        return values

    def equation_of_state(self, dim: int) -> EquationOfState:
        """Equation of state of a fluid in `dim` dimensions."""
        rho0 = reference_density(dim) if self.rho0 is None else self.rho0
        if self.eos == "linear":
            return Linear(self.c2, rho0)
        return Tait(self.c2, rho0, self.gamma) if self.eos == "tait" else Isothermal(self.c2)

    def equations(self, dim: int, log_z: float = 0.0) -> Equations:
        """Equations that the settings stand for.

        Parameters
        ----------
        dim : int
            Dimension d.
        log_z : float
            Log evidence, as far as it is known.
        """
        same = ("kernel", "smoothing", "neighbours", "density", "diffusion", "diffused",
                "pressure_force", "external", "viscosity", "damping", "integrator", "dt",
                "courant")  # fmt: skip
        return Equations(
            eos=self.equation_of_state(dim),
            scale=self.smoothing_scale,
            alpha=self.c2 if self.alpha is None else self.alpha,
            log_z=log_z,
            **{name: getattr(self, name) for name in same},
        )

    def place(self, start: Gaussian, i: int, target: LogDensity, seed: int, n: int) -> Relaxation:
        """Put fluid i, at rest, at draws from its start; it may take n steps."""
        d = len(start.mu)
        particles = self.particles or (256 if d <= 3 else 128)
        z = stream(seed, POSITIONS, i).standard_normal((particles, d))
        level = start.elbo
        if self.external == "pressure":
            level += external.bound_level(d, self.c2 if self.alpha is None else self.alpha, self.c2)
        equations = self.equations(d, level)
        check = RestCheck(self.kinetic_tol, self.change_tol, self.rest_steps)
        hot = self.temperatures()[i]
        cooling = min(self.cooling, n // 2) if hot > 1 else 0
        return Relaxation(
            begin(z, start.mu, start.L, target, equations), equations, check, hot, cooling
        )
