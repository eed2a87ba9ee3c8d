"""What a fit went through, step by step, and its fluids, as plain arrays and as an xarray Dataset.

The Dataset is the group ``fluid`` of the draws' container: with it the pictures of `pymc_sph.plots`
need neither the model nor the approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pymc_sph.fluid.state import Fluid
from pymc_sph.mixture import FluidMixture

if TYPE_CHECKING:
    from pymc_sph.result import FitResult, StepInfo


@dataclass(frozen=True)
class History:
    """Figures of every step of a fit of F fluids in n steps.

    Attributes
    ----------
    elbo, ess : (n,)
        ELBO (nats) and relative importance ESS: of the best fluid, and once the fluids have met,
        of the pooled q.
    temperature : (n,)
        Highest temperature of the step.
    fluid_elbo : (n, F)
        ELBO of every fluid, nats; once they have met, its part in that of the pooled q (the mean
        of log p - log q under the fluid), NaN for a fluid that rests.
    together : (n,) bool
        Whether the fluids had met.
    """

    elbo: np.ndarray
    ess: np.ndarray
    temperature: np.ndarray
    fluid_elbo: np.ndarray
    together: np.ndarray

    @classmethod
    def of(cls, steps: Sequence[StepInfo]) -> History:
        """Collect the figures of steps."""
        return cls(
            elbo=np.array([s.elbo for s in steps]),
            ess=np.array([s.ess for s in steps]),
            temperature=np.array([s.temperature for s in steps]),
            fluid_elbo=np.array([s.elbos for s in steps]) if steps else np.empty((0, 0)),
            together=np.array([s.together for s in steps], dtype=bool),
        )

    def followed_by(self, later: History) -> History:
        """Return the figures of these steps and of later ones of the same fluids."""
        if not len(self.elbo) or not len(later.elbo):
            return self if len(self.elbo) else later
        names = self.__dataclass_fields__
        parts = {name: (getattr(self, name), getattr(later, name)) for name in names}
        return History(**{name: np.concatenate(pair) for name, pair in parts.items()})


def to_dataset(
    history: History,
    result: FitResult | None,
    mixture: FluidMixture | None = None,
    labels: Sequence[str] = (),
) -> xr.Dataset:
    """History of a fit, and its particles if a mixture is given.

    Parameters
    ----------
    history : History
        Figures of the steps.
    result : FitResult or None
        Gives the shares of the fluids, and the attributes ``log_evidence``, ``log_evidence_se``.
    mixture : FluidMixture, optional
        Adds, for all particles of all fluids: ``position`` (particle, coordinate), ``mass``
        (particle), which sums to 1, ``particle_fluid`` (particle), ``tensor`` (particle,
        coordinate[, coordinate_bis]), and ``frame`` (fluid, coordinate, coordinate_bis). The
        kernel of a particle is normal in unconstrained space, with its position for a mean, and
        frame @ tensor (its diagonal for a diagonal tensor) as a factor of its covariance.
    labels : sequence of str
        Names of the coordinates of the unconstrained space.
    """
    n_fluids = history.fluid_elbo.shape[1]
    if result is not None:
        n_fluids = len(result.mixture.fluids)
    elbos = history.fluid_elbo if len(history.elbo) else np.empty((0, n_fluids))
    values: dict[str, Any] = {
        "elbo": ("step", history.elbo),
        "ess": ("step", history.ess),
        "temperature": ("step", history.temperature),
        "together": ("step", history.together.astype("int8")),
        "fluid_elbo": (("step", "fluid"), elbos),
    }
    coords: dict[str, Any] = {
        "step": np.arange(1, len(history.elbo) + 1),
        "fluid": np.arange(n_fluids),
    }
    attrs = {}
    if result is not None:
        values["share"] = ("fluid", np.exp(result.mixture.log_weights))
        attrs = {name: getattr(result, name) for name in ("log_evidence", "log_evidence_se")}
    if mixture is not None:
        coords["fluid"] = np.arange(len(mixture.fluids))
        arrays = pack(mixture)
        axes = ("particle", "coordinate", "coordinate_bis")
        values |= {
            "position": (axes[:2], arrays["histogram"]),
            "mass": ("particle", arrays["weights"]),
            "particle_fluid": ("particle", arrays["fluid"]),
            "tensor": (axes[: arrays["tensors"].ndim], arrays["tensors"]),
            "frame": (("fluid", *axes[1:]), arrays["frames"]),
        }
        coords |= {"particle": np.arange(len(arrays["weights"]))}
        coords |= {axis: list(labels) for axis in axes[1:]}
    return xr.Dataset(values, coords=coords, attrs=attrs)


def mixture_of(data: xr.Dataset) -> FluidMixture:
    """Rebuild the mixture that `to_dataset` wrote; particles that it left out have no mass."""
    owner, mass = data["particle_fluid"].values, data["mass"].values
    fluids, shares = [], []
    for i, frame in enumerate(data["frame"].values):
        own = owner == i
        z = np.linalg.solve(frame, data["position"].values[own].T).T
        share = mass[own].sum()
        with np.errstate(divide="ignore"):
            log_m = np.log(mass[own] / share) if share > 0 else np.full(len(z), -np.log(len(z)))
        A = data["tensor"].values[own]
        fluids.append(Fluid(z, np.zeros_like(z), A, log_m, np.zeros(z.shape[1]), frame))
        shares.append(share)
    with np.errstate(divide="ignore"):
        return FluidMixture(tuple(fluids), np.log(shares))


def history_of(data: xr.Dataset) -> History:
    """Read the figures of the steps that `to_dataset` wrote."""
    names = ("elbo", "ess", "temperature", "fluid_elbo")
    return History(
        **{name: data[name].values for name in names}, together=data["together"].values > 0
    )


def pack(mixture: FluidMixture) -> dict[str, np.ndarray]:
    """Arrays of all particles of all fluids, in the order of the fluids.

    Returns
    -------
    dict
        ``histogram`` (n, d), kernel means in unconstrained space; ``tensors`` (n, d, d) or
        (n, d); ``frames`` (F, d, d); ``weights`` (n,), which sum to 1; ``fluid`` (n,), index of
        each particle's fluid.
    """
    fluids = mixture.fluids
    shares = np.exp(mixture.log_weights)
    weights = np.concatenate([w * np.exp(f.log_m) for w, f in zip(shares, fluids, strict=True)])
    return {
        "histogram": np.concatenate([f.mu + f.z @ f.L.T for f in fluids]),
        "tensors": np.concatenate([f.A for f in fluids]),
        "frames": np.stack([f.L for f in fluids]),
        "weights": weights / weights.sum(),
        "fluid": np.repeat(np.arange(len(fluids)), [len(f.z) for f in fluids]),
    }
