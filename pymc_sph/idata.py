"""Draws as InferenceData (PyMC 5, ArviZ 0.x) or DataTree (PyMC 6, ArviZ 1.x)."""

from __future__ import annotations

import json
import sys

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pymc.backends import arviz as converters
from pymc.backends.arviz import (
    coords_and_dims_for_inferencedata,
    dict_to_dataset_drop_incompatible_coords,
    find_constants,
    find_observations,
)
from pymc.stats import compute_log_likelihood, compute_log_prior

from pymc_sph.version import VERSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pymc_sph.result import FitResult
    from pymc_sph.schemes import AnySettings

# PyMC's own converter decides, not the installed ArviZ: arviz 1.x still has `InferenceData`, a
# shim that warns, and arviz_base can stand beside ArviZ 0.x.
PYMC_5 = hasattr(converters, "InferenceDataConverter")
"""Whether results are InferenceData (PyMC 5), not DataTree (PyMC 6)."""

KWARGS = ("coords", "dims", "log_likelihood", "log_prior")
"""Keywords of `pymc.to_inference_data` that draws take as well."""


def to_container(
    posterior: Mapping[str, NDArray],
    sample_stats: Mapping[str, NDArray],
    model: Any,
    *,
    unconstrained: Mapping[str, NDArray] | None = None,
    attrs: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    log_likelihood: bool | Sequence[str] = False,
    log_prior: bool | Sequence[str] = False,
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
    others : mapping, optional
        Further groups, name to Dataset.
    coords, dims : mapping, optional
        Additional or overriding coordinates, and dimensions of variables.
    log_likelihood, log_prior : bool or sequence of str
        Add these groups, for all variables or some.

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
    out = _assemble(groups | dict(others or {}))
    for wanted, compute in (
        (log_likelihood, compute_log_likelihood),
        (log_prior, compute_log_prior),
    ):
        if wanted:
            var_names = None if wanted is True else list(wanted)
            compute(out, var_names=var_names, model=model, progressbar=False)
    return out


def check_kwargs(method: str, given: Iterable[str]) -> None:
    """Raise for a keyword that `to_container` does not take, in the name of `method`.

    Raises
    ------
    TypeError
    """
    for name in given:
        if name not in KWARGS:
            raise TypeError(
                f"{method}() got an unexpected keyword argument {name!r}. Of the arguments of "
                f"pymc.to_inference_data it takes {', '.join(KWARGS)}; other groups can be added "
                "to the result"
            )


def fit_attrs(
    result: FitResult | None,
    status: str,
    settings: AnySettings,
    sampling_time: float,
    compile_time: float,
) -> dict[str, Any]:
    """Attributes of the groups of draws: what was fitted, how, and what came of it.

    Parameters
    ----------
    result : FitResult or None
        The finished fit; None if it ended without one.
    status : str
        How the fit ended.
    settings : Settings or CollocatedSettings
        Settings of the fit.
    sampling_time, compile_time : float
        Seconds spent on start, steps and check; on compilation.
    """
    attrs = {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "pymc_sph",
        "inference_library_version": VERSION,
        "inference_library_settings": json.dumps(settings.as_dict()),
        "sampling_time": sampling_time,
        "compile_time": compile_time,
        "tuning_steps": 0,
        "status": status,
    }
    if result is None:
        return attrs
    figures = ("formulation", "n_steps", "n_evaluations", "n_nonfinite", "n_failed",
               "elbo", "log_evidence",
               "log_evidence_se", "evidence_of", "pareto_k", "importance_ess", "r_hat")  # fmt: skip
    attrs |= {name: getattr(result, name) for name in figures}
    attrs["verdict"] = result.verdict.grade
    attrs["verdict_reason"] = f"{result.verdict.reason}. {result.verdict.advice}".strip()
    return attrs


def netcdf_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the types that a netCDF file can hold: numbers and text."""
    out = {}
    for name, value in attrs.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        out[name] = value if number else str(value)
    return out


def group_names(data: Any) -> list[str]:
    """Names of the groups of InferenceData or DataTree."""
    return list(data.groups() if PYMC_5 else data.children)


def group(data: Any, name: str) -> Any:
    """One group of InferenceData or DataTree, as an xarray Dataset."""
    return data[name] if PYMC_5 else data[name].to_dataset()


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
