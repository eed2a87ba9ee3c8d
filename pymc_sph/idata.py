"""Draws as InferenceData (PyMC 5, ArviZ 0.x) or DataTree (PyMC 6, ArviZ 1.x)."""

from __future__ import annotations

import sys

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm

from pymc.backends import arviz as converters
from pymc.backends.arviz import (
    coords_and_dims_for_inferencedata,
    dict_to_dataset_drop_incompatible_coords,
    find_constants,
    find_observations,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# PyMC's own converter decides, not the installed ArviZ: arviz 1.x still has `InferenceData`, a
# shim that warns, and arviz_base can stand beside ArviZ 0.x.
PYMC_5 = hasattr(converters, "InferenceDataConverter")
"""Whether results are InferenceData (PyMC 5), not DataTree (PyMC 6)."""


def to_container(
    posterior: Mapping[str, NDArray],
    sample_stats: Mapping[str, NDArray],
    model: Any,
    *,
    unconstrained: Mapping[str, NDArray] | None = None,
    attrs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    log_likelihood: bool = False,
) -> Any:
    """Collect draws and the model's data in the container of the installed PyMC.

    Parameters
    ----------
    posterior : mapping
        Variable name to draws (chains, draws, *shape).
    sample_stats : mapping
        Name to values (chains, draws).
    model : Model
        Gives coords, dims, observed and constant data.
    unconstrained : mapping, optional
        Value variables, as `posterior`; they become the group ``unconstrained_posterior``.
    attrs : mapping, optional
        Attributes of ``posterior`` and ``sample_stats``; `netcdf_attrs` is applied to them.
    coords, dims : mapping, optional
        Additional or overriding coordinates, and dimensions of variables.
    log_likelihood : bool
        Add the group ``log_likelihood``.

    Returns
    -------
    InferenceData or DataTree
    """
    model_coords, model_dims = coords_and_dims_for_inferencedata(model)
    coords = model_coords | dict(coords or {})
    all_dims: dict[str, Any] = model_dims | dict(dims or {})
    labels: dict[str, Any] = {
        "coords": coords,
        "dims": all_dims,
        "attrs": netcdf_attrs(attrs or {}),
    }
    groups = {
        "posterior": _dataset(posterior, **labels),
        "sample_stats": _dataset(sample_stats, **labels),
    }
    if unconstrained is not None:
        names = {v.name: rv.name for rv, v in model.rvs_to_values.items()}
        # a transform that keeps the shape keeps the meaning of the axes
        value_dims = {
            value: all_dims[names[value]]
            for value, x in unconstrained.items()
            if names[value] in all_dims and x.shape == posterior[names[value]].shape
        }
        groups["unconstrained_posterior"] = _dataset(
            unconstrained, **labels | {"dims": all_dims | value_dims}
        )
    data = {"observed_data": find_observations(model), "constant_data": find_constants(model)}
    for group, values in data.items():
        if values:
            groups[group] = _dataset(values, coords=coords, dims=all_dims, sample_dims=[])
    out = _assemble(groups)
    if log_likelihood:
        pm.compute_log_likelihood(out, model=model, progressbar=False)
    return out


def netcdf_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the types that a netCDF file can hold: numbers and text."""
    out = {}
    for name, value in attrs.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        out[name] = value if number else str(value)
    return out


def _dataset(
    values: Mapping[str, NDArray], *, sample_dims: list[str] | None = None, **kwargs: Any
) -> Any:
    """Name the axes of arrays; the keywords differ between ArviZ 0.x and 1.x."""
    library = {("library" if PYMC_5 else "inference_library"): sys.modules["pymc_sph"]}
    if sample_dims is not None:
        library["default_dims" if PYMC_5 else "sample_dims"] = sample_dims  # type: ignore[assignment]
    return dict_to_dataset_drop_incompatible_coords(dict(values), **library, **kwargs)


def _assemble(groups: Mapping[str, Any]) -> Any:
    if PYMC_5:
        from arviz import InferenceData

        return InferenceData(**groups)
    from xarray import DataTree

    return DataTree.from_dict({f"/{name}": data for name, data in groups.items()})
