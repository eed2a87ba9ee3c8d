"""Settings of a fit: what the user may choose, every value checked where it is given."""

from __future__ import annotations

import dataclasses
import math
import numbers

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pymc_sph.fluid import resolution

FULL_TENSOR_MAX_DIM = 30
"""Largest dimension with full smoothing tensors by default; they cost O(N d^2) numbers."""
HOT = 4.0
"""Temperature of the fluids that start hot by default."""


class SettingsError(ValueError):
    """A setting has no meaning; the message names it and says what is allowed."""


@dataclass(frozen=True)
class Settings:
    """Settings of the variational fluid.

    Parameters
    ----------
    fluids : int
        Number of independent fluids.
    particles : int, optional
        Particles per fluid, N. Chosen from the dimension by default.
    probes : int, optional
        Probes per step and fluid, K, an even number. Chosen from the dimension by default.
    tensor : {"auto", "full", "diagonal"}
        Smoothing tensor of a particle; "auto" is full up to 30 dimensions.
    temperature : float, sequence of float, or "auto"
        Temperature c^2 at the first step, one for all fluids or one each; it falls geometrically
        to 1. "auto" starts every other fluid at 4, the rest at 1.
    cooling : int
        Steps until the temperature is 1 (half of `n` if that is less).
    dt : float
        Time step, in the natural metric.
    damping : float
        Share of its velocity that a particle loses per step, in (0, 1].
    viscosity : float
        Share of a particle's velocity replaced by its neighbours' mean, in [0, 1].
    tensor_rate, mass_rate, frame_rate : float
        Step sizes of smoothing tensor, log masses and frame.
    trust : float
        Bound of half the squared length of a particle's step, in units of its kernel.
    window : int
        Steps over which the ELBO is averaged for the stopping rule.
    tol : float
        Nats of the ELBO that count as progress between two windows.
    paths : int
        L-BFGS paths of the start; the best of them start the fluids.
    draws : int
        Draws of the final check: shares of the fluids, evidence, ESS, Pareto k.

    Raises
    ------
    SettingsError
        For a value outside its range; the message names the setting.
    """

    fluids: int = 4
    particles: int | None = None
    probes: int | None = None
    tensor: str = "auto"
    temperature: float | Sequence[float] | str = "auto"
    cooling: int = 30
    dt: float = 1.0
    damping: float = 0.5
    viscosity: float = 0.1
    tensor_rate: float = 1.0
    mass_rate: float = 0.2
    frame_rate: float = 0.1
    trust: float = 0.05
    window: int = 10
    tol: float = 0.01
    paths: int = 8
    draws: int = 4000

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("fluids", "paths", "window"):
            self._integer(name, 1)
        self._integer("cooling", 0)
        self._integer("draws", 100)
        if self.particles is not None:
            self._integer("particles", 1)
        if self.probes is not None:
            self._integer("probes", 2)
            if self.probes % 2:
                raise SettingsError(
                    f"probes={self.probes}: probes come in antithetic pairs, give an even number"
                )
        if self.tensor not in ("auto", "full", "diagonal"):
            raise SettingsError(f"tensor={self.tensor!r}: choose one of 'auto', 'full', 'diagonal'")
        for name in ("dt", "trust", "tol"):
            self._real(name, above=0.0)
        for name in ("tensor_rate", "mass_rate", "frame_rate"):
            self._real(name, least=0.0, most=2.0)
        self._real("damping", above=0.0, most=1.0)
        self._real("viscosity", least=0.0, most=1.0)
        self.temperatures()

    def _integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise SettingsError(f"{name}={value!r}: give an integer of at least {least}")

    def _real(
        self,
        name: str,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> None:
        value = getattr(self, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, numbers.Real)
            or not (float(value) > above and least <= float(value) <= most)
            or not math.isfinite(value)
        ):
            low = f"above {above:g}" if above > least else f"of at least {least:g}"
            high = "" if most == math.inf else f" and at most {most:g}"
            raise SettingsError(f"{name}={value!r}: give a number {low}{high}")

    def temperatures(self) -> tuple[float, ...]:
        """Temperature of the first step of each fluid."""
        value: Any = self.temperature
        if isinstance(value, str):
            if value != "auto":
                raise SettingsError(
                    f"temperature={value!r}: give 'auto', a number, or a number for each fluid"
                )
            return tuple(1.0 if i % 2 else HOT for i in range(self.fluids))
        values = [value] * self.fluids if isinstance(value, numbers.Real) else list(value)
        if len(values) != self.fluids:
            raise SettingsError(
                f"temperature={value!r}: give one number, or one for each of the "
                f"{self.fluids} fluids"
            )
        for t in values:
            if (
                isinstance(t, bool)
                or not isinstance(t, numbers.Real)
                or not 1 <= float(t) < math.inf
            ):
                raise SettingsError(
                    f"temperature={value!r}: temperatures are finite and at least 1"
                )
        return tuple(float(t) for t in values)

    def full_tensor(self, dim: int) -> bool:
        """Whether smoothing tensors are full factors in this dimension."""
        return dim <= FULL_TENSOR_MAX_DIM if self.tensor == "auto" else self.tensor == "full"

    def sizes(self, dim: int) -> tuple[int, int]:
        """Particles and probes of each fluid in this dimension."""
        particles = self.particles or resolution.default_particles(dim)
        return particles, self.probes or resolution.default_probes(dim, particles)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        values = dataclasses.asdict(self)
        if not isinstance(self.temperature, (str, numbers.Real)):
            values["temperature"] = list(self.temperatures())
        return values
