"""Engines: compiled evaluators of a batch of log densities and gradients.

Two engines give the same numbers. `LoopEngine` calls the compiled scalar function in a compiled
loop over the rows; `VectorizedEngine` evaluates a batched graph. Both map ``(K, d)`` to ``(K,)``
and ``(K, d)``, and in both a row that fails leaves the other rows alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pytensor
import pytensor.tensor as pt

from numpy.typing import NDArray
from pymc.pytensorf import compile as pymc_compile
from pymc.pytensorf import find_rng_nodes, reseed_rngs
from pytensor.compile.mode import Mode
from pytensor.graph.replace import vectorize_graph

from pymc_sph.graph import LogpGraph
from pymc_sph.interrupts import run_all

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MIN_SECONDS_PER_THREAD = 5e-4
"""A thread is worth starting for at least this much work: waking it takes up to 0.1 ms."""

BLOCK_ROWS = 128
"""Rows per call of the vectorised graph. Fixed, so that results do not depend on anything else."""

_LOOP_SOURCE = """
def pymc_sph_loop(theta, start, stop, logp, grad, failed{shared}):
    for k in range(start, stop):
        try:
            out = scalar_function(theta[k]{shared})
            logp[k] = out[0].item()
            grad[k] = out[1]
        except Exception:
            logp[k] = -np.inf
            grad[k] = np.nan
            failed[k] = True
"""


class Engine(Protocol):
    """What `Target` needs from an engine."""

    name: str

    def __call__(self, theta: Array) -> tuple[Array, Array | None, NDArray[np.bool_]]:
        """Evaluate a batch: log density (K,), gradient (K, d), and which rows raised (K,)."""

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row ``(d,)`` and let errors out."""

    def reseed(self, seed: int) -> None:
        """Seed the random numbers in the graph, if there are any."""

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return the states of the random generators in the graph."""

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set the random generators in the graph to these states."""

    def release(self) -> None:
        """End threads and processes; they start again when needed."""


def exact_arithmetic() -> Any:
    """Return a context in which PyTensor has Numba compile without fast math.

    With it, PyTensor's default, sums may be taken in any order: code from PyTensor's cache and code
    that was just compiled differ in the last digit (seen with PyMC 6), and so would a fit from the
    same fit in another process.
    """
    return pytensor.config.change_flags(numba__fastmath=False)


class NotRandom:
    """What an engine does about random numbers that its graph never has."""

    def reseed(self, seed: int) -> None:
        """Do nothing: graphs with random numbers are never given to this engine."""

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return nothing: there are none."""
        return ()

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: there are none."""


class LoopEngine(NotRandom):
    """The compiled scalar function in a compiled loop over rows, shared among threads.

    Rows are independent, so the numbers do not depend on the number of threads.
    """

    name = "loop"

    def __init__(self, graph: LogpGraph, mode: Mode, threads: int, **compile_kwargs: Any) -> None:
        with exact_arithmetic():
            self._function = pytensor.function(
                [graph.x], [graph.logp, graph.grad], mode=mode, **compile_kwargs
            )
        # Containers, not values: pm.set_data after compiling must be honoured.
        self._shared = self._function.input_storage[1:]
        self._loop = _compile_loop(self._function.vm.jit_fn, len(self._shared))
        self._threads = threads
        self._pool = _Pool(threads)
        self._compiled = False
        self._row_seconds: float | None = None

    def __call__(self, theta: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Evaluate a batch."""
        n = len(theta)
        logp, grad, failed = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=bool)
        shared = tuple(container.storage[0] for container in self._shared)

        def run(start: int, stop: int) -> None:
            self._loop(theta, start, stop, logp, grad, failed, *shared)

        workers = self._workers(n)
        began = time.perf_counter()
        if workers == 1:
            run(0, n)
        else:
            edges = np.linspace(0, n, workers + 1).astype(int)
            self._pool.map(run, list(itertools.pairwise(edges)))
        if n:
            self._clock(workers * (time.perf_counter() - began) / n)
        return logp, grad, failed

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row and let errors out."""
        self._function(theta)

    def release(self) -> None:
        """End the threads."""
        self._pool.release()

    def _workers(self, n: int) -> int:
        if self._threads == 1 or self._row_seconds is None:
            return 1
        return int(np.clip(n * self._row_seconds / MIN_SECONDS_PER_THREAD, 1, self._threads))

    def _clock(self, row_seconds: float) -> None:
        """Keep the smallest cost of a row seen, after a first call, which compiles the loop."""
        if not self._compiled:
            self._compiled = True
        elif self._row_seconds is None or row_seconds < self._row_seconds:
            self._row_seconds = row_seconds


class VectorizedEngine:
    """The batched graph, called on blocks of rows.

    A graph with random numbers is called once per batch, so that all rows see the same numbers.
    When a block raises (a matrix that is not positive definite), its rows are evaluated one by one.
    """

    name = "vectorized"

    def __init__(self, graph: LogpGraph, mode: Mode, **compile_kwargs: Any) -> None:
        batch = pt.matrix("theta", dtype="float64", shape=(None, graph.x.type.shape[0]))
        logp, grad = vectorize_graph([graph.logp, graph.grad], {graph.x: batch})
        if logp.ndim == 0:  # does not depend on the parameters
            logp = pt.broadcast_to(logp, (batch.shape[0],))
        if grad.ndim == 1:
            grad = pt.broadcast_to(grad, batch.shape)
        # PyMC's compile makes the graph draw new random numbers at every call.
        with exact_arithmetic():
            self._function = pymc_compile([batch], [logp, grad], mode=mode, **compile_kwargs)
        self._rngs = find_rng_nodes([graph.logp, graph.grad])
        self._lock = threading.Lock()  # a compiled function serves one thread at a time

    def __call__(self, theta: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Evaluate a batch."""
        with self._lock:
            return self._blocks(theta)

    def _blocks(self, theta: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        n = len(theta)
        logp, grad, failed = np.empty(n), np.empty(theta.shape), np.zeros(n, dtype=bool)
        size = max(n, 1) if self._rngs else BLOCK_ROWS
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            try:
                logp[rows], grad[rows] = self._block(theta[rows])
            except Exception:
                for k in range(rows.start, rows.stop):
                    logp[k], grad[k], failed[k] = self._row(theta[k])
        return logp, grad, failed

    def evaluate_one(self, theta: Array) -> None:
        """Evaluate one row and let errors out."""
        self._function(theta[None, :])

    def reseed(self, seed: int) -> None:
        """Seed the random numbers of the graph."""
        if self._rngs:
            reseed_rngs(self._random(), seed)

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return the states of the random generators in the graph."""
        return tuple(s.get_value(borrow=True).bit_generator.state for s in self._random())

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set the random generators in the graph to these states."""
        for shared, state in zip(self._random(), states, strict=True):
            bits = type(shared.get_value(borrow=True).bit_generator)()
            bits.state = dict(state)
            shared.set_value(np.random.Generator(bits), borrow=True)

    def release(self) -> None:
        """Do nothing: there are no threads."""

    def _random(self) -> list[Any]:
        """Shared random generators of the function, in its order."""
        if not self._rngs:
            return []
        return [s for s in self._function.get_shared() if s in find_rng_nodes([s])]

    def _block(self, theta: Array) -> tuple[Array, Array]:
        logp, grad = self._function(theta)
        return np.asarray(logp), np.asarray(grad)

    def _row(self, theta: Array) -> tuple[float, Array, bool]:
        try:
            logp, grad = self._block(theta[None, :])
        except Exception:
            return -np.inf, np.full(theta.shape, np.nan), True
        return float(logp[0]), grad[0], False


class _Pool:
    """A thread pool that starts when first needed, and again in a forked process."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._pid = -1
        self._lock = threading.Lock()
        self._users = 0

    def map(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> None:
        with self._lock:
            if self._executor is None or self._pid != os.getpid():
                self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="pymc_sph")
                self._pid, self._users = os.getpid(), 0
            self._users += 1
            executor = self._executor
        try:
            run_all(executor, function, calls, ours=True)
        finally:
            with self._lock:
                self._users -= 1

    def release(self) -> None:
        """End the threads, unless a batch of another thread of the program is under way."""
        with self._lock:
            if self._executor is not None and self._pid == os.getpid() and not self._users:
                self._executor.shutdown(wait=True)
                self._executor = None


def _compile_loop(scalar_function: Any, n_shared: int) -> Callable[..., None]:
    """Compile the loop over rows; on disk in PyTensor's numba cache where that works."""
    import numba

    shared = "".join(f", shared{i}" for i in range(n_shared))
    source = _LOOP_SOURCE.format(shared=shared)
    # Numba cannot restore a function without a module from its cache.
    env = {"__name__": __name__, "np": np, "scalar_function": scalar_function}
    try:
        from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS, compile_numba_function_src

        key = CACHED_SRC_FUNCTIONS.get(scalar_function.py_func)
    except (ImportError, AttributeError):  # a PyTensor whose cache works differently
        key = None
    if key is None:
        local: dict[str, Any] = {}
        exec(source, env, local)
        return numba.njit(nogil=True)(local["pymc_sph_loop"])
    # The key of the scalar function names its graph and constants, so it names the loop as well.
    function = compile_numba_function_src(
        source, "pymc_sph_loop", global_env=env, cache_key=f"{key}_pymc_sph_loop_{n_shared}"
    )
    return numba.njit(nogil=True, cache=True)(function)
