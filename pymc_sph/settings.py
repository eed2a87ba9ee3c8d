"""Settings of a fit: what the user may choose, every value checked where it is given."""

from __future__ import annotations

import dataclasses
import difflib
import itertools

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymc_sph.checks import CheckedSettings, SettingsError, finite_real, shown
from pymc_sph.fluid import pressure_step, resolution
from pymc_sph.fluid.schedule import Temperature

FULL_TENSOR_MAX_DIM = 30
"""Largest dimension with full smoothing tensors by default; they cost O(N d^2) numbers."""
HOT = 4.0
"""Temperature of the fluids that start hot by default."""
PROBE = 1024.0
"""Highest temperature of the probes for more modes by default: 32 sds of a mode away."""
TOLERANCE = {"force": 0.01, "pressure": 0.005}
"""Nats of KL(q || p) that are good enough by default; without gradients the noise hides more."""
PATHS = 8
"""Paths of the start by default, in the force form."""
PER_MODE = 2
"""Least number of particles per mode by default."""


@dataclass(frozen=True)
class Settings(CheckedSettings):
    """Settings of the variational fluid.

    Parameters
    ----------
    formulation : {"auto", "force", "pressure"}
        "force" moves the particles by the gradient of the log density, "pressure" by its values
        alone. "auto" is "force" where there is a gradient.
    fluids : int
        Number of independent fluids.
    particles : int, optional
        Particles per fluid, N. Chosen from the dimension by default.
    probes : int, optional
        Probes per step and fluid, K, an even number. Chosen from the dimension by default.
    tensor : {"auto", "full", "diagonal"}
        Smoothing tensor of a particle; "auto" is full up to 30 dimensions.
    temperature : float, sequence of float, callable, or "auto"
        Temperature c^2 at the first step, one for all fluids or one each; it falls geometrically
        to 1. A callable gives the temperature at each step, counted from 0, and should come to 1.
        The highest of them is also that of the probes that look for more modes before the fluids
        start; at 1 none go out then, and 32 at the end. "auto" starts every other fluid at 4, the
        rest at 1, and probes at 1,024.
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
    tol : float, optional
        Nats of the ELBO that count as progress between two windows, and of KL(q || p) that are
        good enough. By default .01, in the pressure form .005.
    paths : int, optional
        L-BFGS or (pressure form) CMA-ES paths of the start; the best of them start the fluids. By
        default 8, in the pressure form one per fluid: without gradients a path costs more.
    draws : int
        Draws from q of the final check: shares of the fluids, evidence, ESS, Pareto k. About
        three quarters as many come from beyond q. Where a Gaussian comes close to the posterior, a
        quarter of all these is looked at first, and is enough if it leaves no doubt.
    full_data : bool
        For models with ``pm.Minibatch``: whether the final check, the evidence and the verdict
        are made on the whole data. That evaluates it at about 1.75 times `draws` points.

    Raises
    ------
    SettingsError
        For a value outside its range; the message names the setting.
    """

    formulation: str = "auto"
    fluids: int = 4
    particles: int | None = None
    probes: int | None = None
    tensor: str = "auto"
    temperature: float | Sequence[float] | Callable[[int], float] | str = "auto"
    cooling: int = 30
    dt: float = 1.0
    damping: float = 0.5
    viscosity: float = 0.1
    tensor_rate: float = 1.0
    mass_rate: float = 0.2
    frame_rate: float = 0.1
    trust: float = 0.05
    window: int = 10
    tol: float | None = None
    paths: int | None = None
    draws: int = 4000
    full_data: bool = False

    def __post_init__(self) -> None:
        """Check every setting, and keep it as a plain Python value."""
        for name in ("fluids", "window"):
            self._integer(name, 1)
        if self.paths is not None:
            self._integer("paths", 1)
        self._integer("cooling", 0)
        self._integer("draws", 100)
        if not isinstance(self.full_data, bool):
            raise SettingsError(f"full_data={shown(self.full_data)}: give True or False")
        if self.particles is not None:
            self._integer("particles", 1)
        if self.probes is not None:
            self._integer("probes", 2)
            if self.probes % 2:
                raise SettingsError(
                    f"probes={self.probes}: probes come in antithetic pairs, give an even number"
                )
        forms = ("auto", "force", "pressure")
        if not isinstance(self.formulation, str) or self.formulation not in forms:
            raise SettingsError(
                f"formulation={shown(self.formulation)}: choose one of 'auto', 'force', 'pressure'"
            )
        if not isinstance(self.tensor, str) or self.tensor not in ("auto", "full", "diagonal"):
            raise SettingsError(
                f"tensor={shown(self.tensor)}: choose one of 'auto', 'full', 'diagonal'"
            )
        for name in ("dt", "trust"):
            self._real(name, above=0.0)
        if self.tol is not None:
            self._real("tol", above=0.0)
        for name in ("tensor_rate", "mass_rate", "frame_rate"):
            self._real(name, least=0.0, most=2.0)
        self._real("damping", above=0.0, most=1.0)
        self._real("viscosity", least=0.0, most=1.0)
        self._temperature()

    def _temperature(self) -> None:
        value: Any = self.temperature
        if isinstance(value, str) and value == "auto":
            return
        given = f"temperature={shown(value)}"
        if callable(value):
            _temperature(f"temperature(0)={shown(value(0))}", value(0))
            return
        if not _is_sequence(value):
            self._keep("temperature", _temperature(given, value))
            return
        values = tuple(itertools.islice(value, self.fluids + 1))  # it may be endless
        if len(values) != self.fluids:
            raise SettingsError(
                f"{given}: give one number, or one for each of the {self.fluids} fluids"
            )
        self._keep("temperature", tuple(_temperature(given, t) for t in values))

    def in_form(self, formulation: str) -> Settings:
        """Return the settings with the formulation that the target turned out to need."""
        paths = self.paths or (self.fluids if formulation == "pressure" else PATHS)
        return dataclasses.replace(self, formulation=formulation, paths=paths)

    def tolerance(self) -> float:
        """Return `tol`, or its default for the formulation."""
        return self.tol or TOLERANCE["pressure" if self.formulation == "pressure" else "force"]

    def temperatures(self) -> tuple[Temperature, ...]:
        """Temperature of the first step of each fluid, or of every step."""
        value: Any = self.temperature
        if isinstance(value, str):
            return tuple(1.0 if i % 2 else HOT for i in range(self.fluids))
        return value if isinstance(value, tuple) else (value,) * self.fluids

    def probe_temperature(self) -> float:
        """Temperature of the probes that look for more modes; 1 for none."""
        if isinstance(self.temperature, str):
            return PROBE
        return max(t(0) if callable(t) else t for t in self.temperatures())

    def full_tensor(self, dim: int) -> bool:
        """Whether smoothing tensors are full factors in this dimension."""
        return dim <= FULL_TENSOR_MAX_DIM if self.tensor == "auto" else self.tensor == "full"

    def sizes(self, dim: int, modes: int = 1) -> tuple[int, int]:
        """Particles and probes of each fluid in this dimension, with this many modes to hold."""
        if self.formulation == "pressure":
            default = pressure_step.default_sizes(dim)
            return self.particles or default[0], self.probes or default[1]
        particles = self.particles or max(resolution.default_particles(dim), PER_MODE * modes)
        return particles, self.probes or resolution.default_probes(dim, particles)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for JSON."""
        values = dataclasses.asdict(self)
        if isinstance(self.temperature, tuple):
            values["temperature"] = list(self.temperature)
        elif callable(self.temperature):
            values["temperature"] = shown(self.temperature)
        return values


def make_settings(
    values: Mapping[str, Any], others: Sequence[str] = (), kind: type[Any] = Settings
) -> Any:
    """Make settings from keyword arguments; an error for an unknown one suggests the nearest.

    Parameters
    ----------
    values : mapping
        Fields of `kind`.
    others : sequence of str
        Other names that the caller takes, one of which may have been meant.
    kind : type
        `Settings`, or the settings of another scheme.

    Raises
    ------
    SettingsError
    """
    names = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in names:
            known = [*names, *others]
            # a part of a name first: `core`, by its letters, is as close to `score` as to `cores`
            whole = [x for x in known if x.startswith(name) or name in x.split("_")]
            near = (whole if len(name) > 2 else []) or difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            besides = f"; other arguments are {', '.join(others)}" if others else ""
            raise SettingsError(
                f"unknown setting {name!r}.{hint} The settings are {', '.join(names)}{besides}"
            )
    return kind(**values)


def _is_sequence(value: Any) -> bool:
    """Whether `value` holds items in an order: not text, and not a scalar array."""
    if isinstance(value, (str, bytes, bytearray, Mapping, set, frozenset)):
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1


def _temperature(given: str, value: Any) -> float:
    """One temperature as a float; `given` begins the error's message."""
    number = finite_real(value)
    if number is None or number < 1.0:
        raise SettingsError(
            f"{given}: give 'auto', a number, a number for each fluid, or a function of "
            "the step; temperatures are finite and at least 1"
        )
    return number
