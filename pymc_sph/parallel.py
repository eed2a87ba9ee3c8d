"""A costly log density without gradient, evaluated over workers; free of PyMC.

What is made for rows is called row by row, and what is made for batches in blocks of a fixed number
of rows, whoever evaluates them, so that the numbers do not depend on the number of workers. A row
that raises costs that row alone.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from numpy.typing import ArrayLike, NDArray

from pymc_sph.checks import described
from pymc_sph.links import see
from pymc_sph.workers import Recipe, Workers

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

BLOCK = 8
"""Rows per call of a function that is made for batches."""


@dataclass(frozen=True)
class Values:
    """Log densities of a batch.

    Attributes
    ----------
    logp : (n,)
        Values; -inf in rows that raised.
    failed : (n,) bool
        Rows that raised.
    error : str
        The first error, empty if there is none.
    """

    logp: Array
    failed: NDArray[np.bool_]
    error: str


class BatchFunction(Protocol):
    """Log densities of any batch (n, d)."""

    grain: ClassVar[int]
    """It may be cut at multiples of so many rows."""

    def __call__(self, theta: Array) -> Values:
        """Evaluate a batch."""


@dataclass(frozen=True)
class ByRows:
    """A function of batches from one of a row (d,) that may raise."""

    grain: ClassVar[int] = 1
    function: Callable[[Array], Any]

    def __call__(self, theta: Array) -> Values:
        """Evaluate a batch, row by row."""
        logp, failed, error = np.full(len(theta), -np.inf), np.zeros(len(theta), bool), ""
        for k, row in enumerate(theta):
            try:
                logp[k] = self.function(row)
            except Exception as err:
                failed[k] = True
                error = error or described(err)
        return Values(logp, failed, error)


@dataclass(frozen=True)
class ByBlocks:
    """A function of batches from one that is made for them, (n, d) -> (n,), and may raise."""

    grain: ClassVar[int] = BLOCK
    function: Callable[[Array], Any]

    def __call__(self, theta: Array) -> Values:
        """Evaluate a batch in blocks, and a block that raises row by row."""
        return _join([self._block(theta[i : i + BLOCK]) for i in range(0, len(theta), BLOCK)])

    def _block(self, theta: Array) -> Values:
        try:
            logp = np.array(self.function(theta), dtype="float64").reshape(len(theta))
        except Exception:
            return ByRows(lambda row: np.reshape(self.function(row[None]), ()))(theta)
        return Values(logp, np.zeros(len(theta), bool), "")


def _join(parts: list[Values]) -> Values:
    if not parts:
        return Values(np.empty(0), np.empty(0, bool), "")
    return Values(
        np.concatenate([part.logp for part in parts]),
        np.concatenate([part.failed for part in parts]),
        next((part.error for part in parts if part.error), ""),
    )


class Parallel:
    """A function of batches on several workers, which logs the first error.

    Parameters
    ----------
    make : callable
        Makes the function of batches; called once here and in every worker.
    cores, executor
        As in `Workers`; without them it evaluates in this process.

    Attributes
    ----------
    local : callable
        The function of this process.
    n_failed : int
        Rows so far that raised.
    """

    def __init__(
        self, make: Callable[[], BatchFunction], cores: int = 1, executor: Any = None
    ) -> None:
        self.n_failed = 0
        self.local: Any = make()
        self._workers = Workers(Recipe(make, self.local.grain), self.local, cores, executor)

    @property
    def ahead(self) -> Callable[[Sequence[Array]], None] | None:
        """See `Workers.ahead`; None where there are no workers."""
        return self._workers.ahead if self._workers.elsewhere else None

    def renew(self) -> None:
        """Let the workers make the function anew."""
        self._workers.renew()

    def release(self) -> None:
        """End the processes; they start again when needed."""
        self._workers.release()

    def __call__(self, theta: ArrayLike) -> Values:
        """Evaluate a batch (K, d)."""
        theta = np.ascontiguousarray(theta, dtype="float64")
        values = _join(self._workers(theta)) if self._workers.elsewhere else self.local(theta)
        if values.error and not self.n_failed:
            logger.warning(
                "The log density raised an error; such probes are set aside and counted. "
                "The first error: %s.%s",
                values.error,
                see("the-log-density-raised-an-error"),
            )
        self.n_failed += int(values.failed.sum())
        return values
