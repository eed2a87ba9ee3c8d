"""A costly log density, evaluated over processes; free of PyMC.

A batch is cut into blocks of a fixed number of rows, whoever evaluates them, so that the numbers
do not depend on the number of workers. A row that raises costs that row alone.

A worker makes its function once, and keeps it by a token. With the processes of this module, forked
where the system can, the parent's function is there already. Any other worker asks for it: the
recipe is sent again, pickled, to those who answered that they do not know the token.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
import uuid
import weakref

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from numpy.typing import NDArray

from pymc_sph.checks import described
from pymc_sph.interrupts import held_interrupts, run_all
from pymc_sph.links import see
from pymc_sph.process import ignored_warnings

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

BLOCK = 8
"""Rows per task."""
KEPT = 8
"""Functions that a worker keeps; the one that was not used for longest is dropped."""

_local = threading.local()  # per thread: compiled functions are not safe to share


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


BlockFunction = Callable[[Array], Values]


@dataclass(frozen=True)
class ByRows:
    """A function of blocks (n, d) from one of a row (d,) that may raise."""

    function: Callable[[Array], Any]

    def __call__(self, theta: Array) -> Values:
        """Evaluate a block, row by row."""
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
    """A function of blocks from one that is made for batches, (n, d) -> (n,)."""

    function: Callable[[Array], Any]

    def __call__(self, theta: Array) -> Values:
        """Evaluate a block at once, or row by row if it raises."""
        try:
            logp = np.array(self.function(theta), dtype="float64").reshape(len(theta))
        except Exception:
            return ByRows(lambda row: np.reshape(self.function(row[None]), ()))(theta)
        return Values(logp, np.zeros(len(theta), bool), "")


class Parallel:
    """A function of blocks on several workers.

    Parameters
    ----------
    make : callable
        Makes the function of blocks; called once in every worker. Pickled by cloudpickle for
        workers that were not forked from this process.
    cores : int
        Processes of its own; 1 evaluates in this process.
    executor : concurrent.futures.Executor, optional
        Evaluates instead: processes, threads, or another machine that can import pymc_sph.

    Attributes
    ----------
    n_failed : int
        Rows so far that raised.
    """

    def __init__(
        self, make: Callable[[], BlockFunction], cores: int = 1, executor: Executor | None = None
    ) -> None:
        self.n_failed = 0
        self._make = make
        self._cores = cores
        self._executor = executor
        self._pool: Executor | None = None
        self.renew()

    def renew(self) -> None:
        """Make the function anew, here and in the workers."""
        self._token = uuid.uuid4().hex
        self._payload: bytes | None = None
        self.local: Any = self._make()
        _functions()[self._token] = self.local
        weakref.finalize(self, _functions().pop, self._token, None)
        self.release()

    def release(self) -> None:
        """End the processes; they start again when needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __call__(self, theta: Array) -> Values:
        """Evaluate a batch (K, d)."""
        blocks = [theta[i : i + BLOCK] for i in range(0, len(theta), BLOCK)]
        if self._executor is None and self._cores == 1:
            parts = [self.local(block) for block in blocks]
        else:
            parts = self._map(self._executor or self._own_pool(), blocks)
        if not parts:
            return Values(np.empty(0), np.empty(0, bool), "")
        error = next((part.error for part in parts if part.error), "")
        if error and not self.n_failed:
            logger.warning(
                "The log density raised an error; such probes are set aside and counted. "
                "The first error: %s.%s",
                error,
                see("the-log-density-raised-an-error"),
            )
        failed = np.concatenate([part.failed for part in parts])
        self.n_failed += int(failed.sum())
        return Values(np.concatenate([part.logp for part in parts]), failed, error)

    def _map(self, executor: Executor, blocks: list[Array]) -> list[Values]:
        parts = run_all(executor, _evaluate, [(self._token, block) for block in blocks])
        unknown = [i for i, part in enumerate(parts) if part is None]
        if unknown:
            if self._payload is None:
                self._payload = cloudpickle.dumps(self._make)
            calls = [(self._token, blocks[i], self._payload) for i in unknown]
            for i, part in zip(unknown, run_all(executor, _evaluate, calls), strict=True):
                parts[i] = part
        return parts

    def _own_pool(self) -> Executor:
        if self._pool is None:
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            pool = ProcessPoolExecutor(self._cores, context, initializer=_ignore_interrupts)
            weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
            self._pool = pool
            with held_interrupts(), ignored_warnings(DeprecationWarning):
                pool.submit(int)  # starts the processes, where they are forked
        return self._pool


def _functions() -> OrderedDict[str, BlockFunction]:
    """Functions that this thread has made, by token."""
    if not hasattr(_local, "functions"):
        _local.functions = OrderedDict()
    return _local.functions


def _evaluate(token: str, theta: Array, payload: bytes | None = None) -> Values | None:
    """Evaluate a block in a worker; None if the function is unknown and no recipe was sent."""
    functions = _functions()
    if token not in functions:
        if payload is None:
            return None
        functions[token] = cloudpickle.loads(payload)()
    functions.move_to_end(token)
    while len(functions) > KEPT:
        functions.popitem(last=False)
    return functions[token](theta)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which keeps the fit so far and still needs the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
