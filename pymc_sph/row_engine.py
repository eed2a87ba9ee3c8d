"""The engine of the pressure form: a compiled log density, row by row, over processes."""

from __future__ import annotations

import threading

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytensor

from numpy.typing import NDArray
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Variable

from pymc_sph.engines import NotRandom
from pymc_sph.graph import LogpGraph, SharedData
from pymc_sph.parallel import ByRows, Parallel
from pymc_sph.process import graphs, ignored_warnings

Array = NDArray[np.float64]


class RowEngine(NotRandom):
    """The compiled log density of one point, called row by row.

    An Op without gradient is mostly an Op that runs outside of PyTensor, through its `perform`.
    A row that raises counts as a row without density.

    Parameters
    ----------
    graph : LogpGraph
        Graph of the log density; its gradient is not used.
    mode : Mode
        PyTensor's mode.
    cores : int
        Processes that share the rows.
    executor : Executor or Dask client, optional
        Shares them instead.
    **compile_kwargs
        Arguments of `pytensor.function`.
    """

    name = "rows"

    def __init__(
        self,
        graph: LogpGraph,
        mode: Mode,
        cores: int = 1,
        executor: Any = None,
        **compile_kwargs: Any,
    ) -> None:
        self._data = SharedData(graph.outputs)
        compile_ = partial(_compile, graph.x, graph.logp, mode, compile_kwargs)
        self._rows = Parallel(compile_, cores, executor)
        self._lock = threading.RLock()  # a compiled function serves one thread at a time

    def __call__(self, theta: Array) -> tuple[Array, None, NDArray[np.bool_]]:
        """Evaluate a batch; the gradient is None."""
        with self._lock:
            self._follow_data()
            values = self._rows(theta)
        return values.logp, None, values.failed

    @property
    def ahead(self) -> Callable[[Sequence[Array]], None] | None:
        """Begins with batches that are about to be asked for; None where there are no workers."""
        return None if self._rows.ahead is None else self._begin

    def _begin(self, batches: Sequence[Array]) -> None:
        with self._lock:
            self._follow_data()
            if self._rows.ahead is not None:
                self._rows.ahead(batches)

    def _follow_data(self) -> None:
        if self._data.changed():  # pm.set_data must be honoured, and a worker has a copy
            self._rows.renew()

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row and let errors out."""
        self._rows.local.function(theta)

    def release(self) -> None:
        """End the processes; they start again when needed."""
        with self._lock:
            self._rows.release()


def _compile(x: Variable, logp: Variable, mode: Mode, kwargs: dict[str, Any]) -> ByRows:
    """Compile the log density; runs once in every worker."""
    # the C code was this package's choice, and models with large matrices seldom come here
    with graphs(), ignored_warnings(UserWarning, "PyTensor could not link to a BLAS"):
        return ByRows(pytensor.function([x], logp, mode=mode, **kwargs))
