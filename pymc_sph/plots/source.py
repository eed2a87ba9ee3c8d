"""What a picture is drawn from: a fit, or the container of its draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pymc_sph.graph import coordinate_labels
from pymc_sph.history import History, history_of, mixture_of
from pymc_sph.idata import group, group_names
from pymc_sph.mixture import FluidMixture

GROUP = "fluid"
"""Group of the draws' container that holds the history and, on request, the particles."""


@dataclass(frozen=True)
class Source:
    """The density q with the names of its coordinates.

    Attributes
    ----------
    mixture : FluidMixture
        The density q.
    labels : tuple of str
        Names of the unconstrained coordinates, such as ``tau_log__`` and ``z[3]``.
    model : Model or None
        Gives the constrained variables; None where there is none.
    """

    mixture: FluidMixture
    labels: tuple[str, ...]
    model: Any = None

    @property
    def masses(self) -> np.ndarray:
        """Masses (n,) of the particles of all fluids; they sum to 1."""
        return np.exp(self.mixture.log_masses)


def source_of(data: Any) -> Source:
    """Find the density q in a fit, or in the container of its draws.

    Raises
    ------
    TypeError
        If `data` is neither.
    ValueError
        If it is a container without particles, or a fit that has not begun.
    """
    if hasattr(data, "mixture"):
        if data.mixture is None:
            raise ValueError("Nothing has been fitted yet: call fit() first.")
        model = getattr(data, "model", None)
        if model is None:  # of fit_density
            labels = tuple(f"theta[{i}]" for i in range(data.mixture.dim))
        else:
            labels = tuple(coordinate_labels(model, model.initial_point(0)))
        return Source(data.mixture, labels, model)
    found = _dataset(data)
    if "position" not in found:
        raise ValueError(
            "The draws do not hold the particles: draw them by approx.sample(..., "
            "include_transformed=True), or give the approximation."
        )
    return Source(mixture_of(found), tuple(str(name) for name in found["coordinate"].values))


def history_and_evidence(data: Any) -> tuple[History, float | None, float]:
    """History of a fit, its log evidence (None before it has finished) and standard error.

    Raises
    ------
    TypeError, ValueError
        As in `source_of`; or if the fit has taken no step.
    """
    evidence: float | None
    if hasattr(data, "history"):
        history, result = data.history, data.result
        evidence = None if result is None else result.log_evidence
        error = 0.0 if result is None else result.log_evidence_se
    else:
        found = _dataset(data)
        history = history_of(found)
        evidence, error = found.attrs.get("log_evidence"), found.attrs.get("log_evidence_se", 0.0)
    if not len(history.elbo):
        raise ValueError("The fit has taken no step yet, so there is no history to draw.")
    return history, evidence, error


def _dataset(data: Any) -> xr.Dataset:
    if not hasattr(data, "groups"):
        raise TypeError(
            f"data={type(data).__name__}: give what pm.fit(method='sph') returns, or its draws "
            "(InferenceData or DataTree)"
        )
    names = group_names(data)
    if GROUP not in names:
        raise ValueError(
            f"The draws have no group {GROUP!r}: they do not come from pymc_sph. "
            f"Their groups are {', '.join(names)}."
        )
    found: xr.Dataset = group(data, GROUP)
    return found
