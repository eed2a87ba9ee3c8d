"""Smoothed particle hydrodynamics as an inference method for PyMC.

Importing this package makes ``pm.fit(method="sph")`` work.
"""

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
from pymc_sph.inference import SPH, UnreliableFitWarning
from pymc_sph.model_comparison import compare_evidence
from pymc_sph.one_call import fit
from pymc_sph.registration import register, unregister
from pymc_sph.result import FitResult
from pymc_sph.settings import Settings
from pymc_sph.step_method import FluidMetropolis
from pymc_sph.target import compile_target
from pymc_sph.verdict import Verdict
from pymc_sph.version import VERSION as __version__

__all__ = [
    "SPH",
    "BackendError",
    "CollocatedSettings",
    "DiscreteVariableError",
    "FitResult",
    "FluidApproximation",
    "FluidMetropolis",
    "GradientError",
    "InitialPointError",
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
    "register",
    "unregister",
]

register()
