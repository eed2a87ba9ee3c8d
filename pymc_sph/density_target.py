"""A log density that is a Python function, made a target of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pymc_sph.checks import SettingsError, shown
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
        executor: Any = None,
    ) -> None:
        self.n_evaluations = 0
        if formulation == "auto":
            self.n_evaluations = 1
            formulation = "force" if _gives_gradient(function, point) else "pressure"
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

    @property
    def ahead(self) -> Callable[[Sequence[np.ndarray]], None] | None:
        """See `Workers.ahead`; None where there are no workers."""
        return None if self._values is None else self._values.ahead

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray, Any]:
        """Log density (K,) and gradient (K, d), or None for it in the pressure form."""
        self.n_evaluations += len(theta)
        if self._values is None:
            return _checked(self._function(theta), theta)
        return self._values(theta).logp, None

    def release(self) -> None:
        """End the processes, if there are any."""
        if self._values is not None:
            self._values.release()


def _gives_gradient(function: LogDensityFunction, point: np.ndarray) -> bool:
    """Whether the function returns a pair; one that raises at the point counts as returning none.

    With a gradient an error passes on anyway, at the first batch; without, it costs the point.
    """
    try:
        return isinstance(function(point), tuple)
    except Exception:
        return False


def _checked(out: Any, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a function with gradient gave for theta (K, d), as arrays of the right shape."""
    shapes = "theta (K, d) -> (log density (K,), gradient (K, d))"
    if not isinstance(out, tuple) or len(out) != 2:
        given = f"{len(out)} values" if isinstance(out, tuple) else shown(out)
        raise SettingsError(f"logp_and_grad returned {given}: in the force form give {shapes}")
    logp, grad = (np.asarray(part, dtype="float64") for part in out)
    if logp.shape != theta.shape[:1] or grad.shape != theta.shape:
        raise SettingsError(
            f"logp_and_grad returned shapes {logp.shape} and {grad.shape} for theta "
            f"{theta.shape}: give {shapes}"
        )
    return logp, grad


def _values_of(function: LogDensityFunction) -> LogDensityFunction:
    """Return the function without the gradient, if it returns one."""

    def values(theta: np.ndarray) -> Any:
        out = function(theta)
        return out[0] if isinstance(out, tuple) else out

    return values
