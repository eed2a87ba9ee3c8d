"""Errors of the PyMC side: each names the variable at fault and says what to do about it."""

from __future__ import annotations

from pymc.exceptions import SamplingError
from pymc.variational.opvi import ParametrizationError


class DiscreteVariableError(ParametrizationError):
    """The model has discrete free variables, for which there is no gradient."""


class NoFreeVariablesError(ValueError):
    """The model has no free variables, so there is nothing to fit."""


class GradientError(NotImplementedError):
    """The gradient of the log density cannot be built; the message names the Op."""


class BackendError(ValueError):
    """The backend asked for does not exist, or its package is not installed."""


class InitialPointError(SamplingError):
    """No starting point with a finite log density and gradient was found."""


class MismatchError(ValueError):
    """An approximation does not fit the model it is used with; the message names the variable."""
