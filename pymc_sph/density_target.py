"""A log density that is a Python function, made a target of the engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError
from pymc_sph.parallel import ByBlocks, Parallel

LogDensityFunction = Callable[[np.ndarray], Any]
"""theta (K, d) -> (log density (K,), gradient (K, d)), or the log density alone."""


class DensityTarget:
    """What the engine calls for a user's function.

    Parameters
    ----------
    function : callable
        theta (K, d) -> (log density (K,), gradient (K, d)), or the log density alone.
    point : (1, d)
        With "auto", the function is called there, to see which of the two it returns.
    formulation : {"auto", "force", "pressure"}
        Form that is asked for.
    cores, executor
        Workers of the pressure form; see `Parallel`.

    Attributes
    ----------
    formulation : {"force", "pressure"}
        Form that is used.
    n_evaluations : int
        Rows so far.

    Raises
    ------
    SettingsError
        Workers for a function with gradient, which is called with whole batches.
    """

    def __init__(
        self,
        function: LogDensityFunction,
        point: np.ndarray,
        formulation: str,
        cores: int = 1,
        executor: Executor | None = None,
    ) -> None:
        self.n_evaluations = 0
        if formulation == "auto":
            self.n_evaluations = 1
            formulation = "force" if isinstance(function(point), tuple) else "pressure"
        self.formulation = formulation
        self._function = function
        self._values: Parallel | None = None
        if formulation == "pressure":
            self._values = Parallel(lambda: ByBlocks(_values_of(function)), cores, executor)
        elif cores != 1 or executor is not None:
            raise SettingsError(
                "cores and executor: a function with gradient gets whole batches, and is called "
                "in this process; use formulation='pressure', or spread the batch inside of it"
            )

    @property
    def n_failed(self) -> int:
        """Rows so far that raised an error, in the pressure form."""
        return self._values.n_failed if self._values is not None else 0

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray, Any]:
        """Log density (K,) and gradient (K, d), or None for it in the pressure form."""
        self.n_evaluations += len(theta)
        if self._values is None:
            logp, grad = self._function(theta)
            return logp, grad
        return self._values(theta).logp, None

    def release(self) -> None:
        """End the processes, if there are any."""
        if self._values is not None:
            self._values.release()


def _values_of(function: LogDensityFunction) -> LogDensityFunction:
    """Return the function without the gradient, if it returns one."""

    def values(theta: np.ndarray) -> Any:
        out = function(theta)
        return out[0] if isinstance(out, tuple) else out

    return values
