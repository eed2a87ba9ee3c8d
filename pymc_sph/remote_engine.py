"""The engine of the force form over workers: in each, the engine that this process would use."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from numpy.typing import NDArray

from pymc_sph.checks import SettingsError
from pymc_sph.engines import BLOCK_ROWS, Engine, NotRandom
from pymc_sph.graph import LogpGraph, SharedData
from pymc_sph.workers import Recipe, Workers, check_executor

Array = NDArray[np.float64]
Part = tuple[Array, Array, NDArray[np.bool_]]


def compile_remote(
    compile_engine: Callable[..., Engine],
    engine: str,
    graph: LogpGraph,
    point: Array,
    cores: int,
    executor: Any,
) -> RemoteEngine:
    """Compile an engine here, and have the workers compile the same one.

    Parameters
    ----------
    compile_engine : callable
        Takes ``engine`` and ``threads``, and compiles.
    engine : str
        The engine asked for.
    graph, point, cores, executor
        As in `RemoteEngine`.

    Raises
    ------
    SettingsError
        The log density draws random numbers, or the executor is none.
    """
    if graph.random:
        raise SettingsError(
            "cores and executor: the log density draws random numbers (pm.Minibatch), and all "
            "rows of a batch must see the same ones, so that it is evaluated in this process: "
            "leave cores=1 and executor=None, or give the model its whole data"
        )
    check_executor(executor)
    local = compile_engine(engine=engine, threads=1)
    make = partial(compile_engine, engine=local.name, threads=1)
    return RemoteEngine(make, local, graph, point, cores=cores, executor=executor)


class RemoteEngine(NotRandom):
    """A compiled engine in each of several workers.

    The workers get the graph and compile it, with one thread each. The loop engine's rows are
    independent; those of the vectorised one go to a worker in whole blocks, as they are evaluated
    here; a single row is evaluated in this process. So the numbers are those of this process, on
    machines whose processors are of one kind.

    Parameters
    ----------
    make : callable
        Compiles the engine; called in every worker.
    local : Engine
        The engine of this process, with one thread.
    graph : LogpGraph
        Graph that it evaluates.
    point : (d,)
        A point where a row's cost is measured.
    cores, executor
        As in `Workers`.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        local: Engine,
        graph: LogpGraph,
        point: Array,
        *,
        cores: int = 1,
        executor: Any = None,
    ) -> None:
        self.name = local.name
        self._local = local
        self._data = SharedData(graph.outputs)
        self._lock = threading.RLock()
        self._rehearsed: dict[bytes, Part] = {}
        began = time.perf_counter()
        local(point[None])  # compiled and called before
        seconds = time.perf_counter() - began
        grain = 1 if local.name == "loop" else BLOCK_ROWS
        recipe = Recipe(make, grain, shareable=True)
        self._workers = Workers(recipe, local, cores, executor, row_seconds=seconds)

    def __call__(self, theta: Array) -> tuple[Array, Array | None, NDArray[np.bool_]]:
        """Evaluate a batch."""
        with self._lock:
            self._follow_data()
            known = self._rehearsed.get(theta.tobytes())
            if known is not None:
                logp, grad, failed = known
                return logp.copy(), grad.copy(), failed.copy()
            if len(theta) <= 1:  # no worker would be faster
                return self._local(theta)
            return self._evaluate(theta)

    @property
    def rehearsal(self) -> Callable[[], Callable[[list[Array]], list[Any]]] | None:
        """Begins a rehearsal, see `rehearse`, where the rows of a batch are independent."""
        return self._begin_rehearsal if self.name == "loop" else None

    def ahead(self, batches: Sequence[Array]) -> None:
        """Begin with batches that are about to be asked for."""
        with self._lock:
            self._follow_data()
            self._workers.ahead(batches)

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row in this process and let errors out."""
        self._local.evaluate_one(theta)

    def release(self) -> None:
        """End the processes; they start again when needed."""
        with self._lock:
            self._rehearsed = {}
            self._workers.release()

    def _evaluate(self, theta: Array) -> Part:
        logp, grad, failed = zip(*self._workers(theta), strict=True)
        return np.concatenate(logp), np.concatenate(grad), np.concatenate(failed)

    def _begin_rehearsal(self) -> Callable[[list[Array]], list[Any]]:
        with self._lock:
            self._follow_data()
            self._rehearsed = {}
        return self._rehearse

    def _rehearse(self, rows: list[Array]) -> list[Any]:
        """Evaluate single rows (1, d) in one batch, and keep them: log density and gradient."""
        with self._lock:
            logp, grad, failed = self._evaluate(np.concatenate(rows))
        ones = [slice(k, k + 1) for k in range(len(rows))]
        for row, one in zip(rows, ones, strict=True):
            self._rehearsed[row.tobytes()] = logp[one], grad[one], failed[one]
        return [(logp[one].copy(), grad[one].copy()) for one in ones]

    def _follow_data(self) -> None:
        if self._data.changed():  # pm.set_data must be honoured, and a worker has a copy
            self._rehearsed = {}
            self._workers.renew()
