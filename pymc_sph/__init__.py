"""Smoothed particle hydrodynamics as an inference method for PyMC.

Importing this package makes ``pm.fit(method="sph")`` work, and does little else: what it offers is
imported when it is first asked for (PEP 562).
"""

import importlib

from typing import TYPE_CHECKING, Any

from pymc_sph.registration import register, unregister
from pymc_sph.version import VERSION as __version__

if TYPE_CHECKING:
    from pymc_sph.approximation import FluidApproximation
    from pymc_sph.checks import SettingsError
    from pymc_sph.collocated_settings import CollocatedSettings
    from pymc_sph.density_fit import fit_density
    from pymc_sph.ensemble import StartError
    from pymc_sph.errors import (
        BackendError,
        DiscreteVariableError,
        GradientError,
        InitialPointError,
        MismatchError,
        NoFreeVariablesError,
    )
    from pymc_sph.files import FileError
    from pymc_sph.inference import SPH, UnreliableFitWarning
    from pymc_sph.model_comparison import compare_evidence
    from pymc_sph.one_call import fit
    from pymc_sph.result import FitResult
    from pymc_sph.saved_fit import load, resume
    from pymc_sph.settings import Settings
    from pymc_sph.step_method import FluidMetropolis
    from pymc_sph.target import compile_target
    from pymc_sph.verdict import Verdict
    from pymc_sph.workers import LostWorkersError

_PLACES = {
    "BackendError": "errors",
    "CollocatedSettings": "collocated_settings",
    "DiscreteVariableError": "errors",
    "FileError": "files",
    "FitResult": "result",
    "FluidApproximation": "approximation",
    "FluidMetropolis": "step_method",
    "GradientError": "errors",
    "InitialPointError": "errors",
    "LostWorkersError": "workers",
    "MismatchError": "errors",
    "NoFreeVariablesError": "errors",
    "SPH": "inference",
    "Settings": "settings",
    "SettingsError": "checks",
    "StartError": "ensemble",
    "UnreliableFitWarning": "inference",
    "Verdict": "verdict",
    "compare_evidence": "model_comparison",
    "compile_target": "target",
    "fit": "one_call",
    "fit_density": "density_fit",
    "load": "saved_fit",
    "resume": "saved_fit",
}
"""Module of every name that is imported when it is first asked for."""

__all__ = [
    "SPH",
    "BackendError",
    "CollocatedSettings",
    "DiscreteVariableError",
    "FileError",
    "FitResult",
    "FluidApproximation",
    "FluidMetropolis",
    "GradientError",
    "InitialPointError",
    "LostWorkersError",
    "MismatchError",
    "NoFreeVariablesError",
    "Settings",
    "SettingsError",
    "StartError",
    "UnreliableFitWarning",
    "Verdict",
    "__version__",
    "compare_evidence",
    "compile_target",
    "fit",
    "fit_density",
    "load",
    "register",
    "resume",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
