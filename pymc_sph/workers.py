"""Workers that evaluate a costly function of rows: processes of our own, or an executor; no PyMC.

A batch (K, d) is cut into chunks, each worth about `CHUNK_SECONDS` of work by what rows have cost
so far. The function gives the same numbers however a batch is cut at multiples of its grain, so
neither the chunks nor the number of workers matter to them.

A worker makes its function once, and keeps it by a token. With the processes of this module, forked
where the system can, the parent's function is there already. Any other worker asks for it: the
recipe is sent again, pickled, to those who answered that they do not know the token. A worker that
was started anew in place of a dead one asks in the same way.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
import uuid
import weakref

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from pymc_sph.checks import SettingsError, shown
from pymc_sph.interrupts import collect, held_interrupts, run_all, submit_all
from pymc_sph.process import graphs, ignored_warnings, one_blas_thread

Array = NDArray[np.float64]
Key = tuple[tuple[int, ...], bytes]

CHUNK_SECONDS = 0.05
"""Work per task. With .02 Dask took a fifth longer on a busy machine (10 ms a task or so); with .1
a batch of a few seconds would give too few tasks to many workers."""
KEPT = 8
"""Functions that a worker keeps; the one that was not used for longest is dropped."""
DASK_ERRORS = ("KilledWorker", "ClosedClientError")
"""Dask's errors for a task that three workers died of, and for a client that was closed."""
RECIPES = 64_000_000
"""Bytes of recipes on their way at a time, one at least: they hold the model's data."""


class LostWorkersError(BrokenExecutor):
    """A worker has died, and its executor takes no more work; the message says how to go on."""


@dataclass(frozen=True)
class Recipe:
    """How a worker comes by its function.

    Attributes
    ----------
    make : callable
        Makes the function, theta (K, d) -> anything; called once in a worker. Pickled by
        cloudpickle.
    grain : int
        Chunks are cut at multiples of so many rows.
    shareable : bool
        Whether the threads of a worker can share one function; else each makes its own.
    """

    make: Callable[[], Callable[[Array], Any]]
    grain: int = 1
    shareable: bool = False


@dataclass(frozen=True)
class _Made:
    """A function in a worker, and the BLAS libraries there are since it was made."""

    function: Callable[[Array], Any]
    blas: ThreadpoolController


def check_executor(value: Any) -> Any:
    """Return `value` if rows can be handed to it: None, an executor, or a Dask client.

    Raises
    ------
    SettingsError
    """
    if value is None or (callable(getattr(value, "submit", None)) and not isinstance(value, type)):
        return value
    raise SettingsError(
        f"executor={shown(value)}: give an executor, an object with a method `submit` as those of "
        "concurrent.futures, loky and mpi4py.futures have it, or a dask.distributed.Client"
    )


def _as_executor(value: Any) -> Executor | None:
    """Return an executor; a Dask client, whose own `submit` returns other futures, gives one."""
    value = check_executor(value)
    # pure: Dask would take two tasks with the same arguments for one, and hash these to know
    get = getattr(value, "get_executor", None)
    return value if get is None else get(pure=False)


class Workers:
    """A function of rows on several workers.

    Parameters
    ----------
    recipe : Recipe
        How a worker makes the function.
    local : callable
        The function, made in this process.
    cores : int
        Processes of our own.
    executor : Executor or Dask client, optional
        Evaluates instead, `cores` or not: processes, threads, or another machine that can import
        pymc_sph.
    row_seconds : float, optional
        Cost of a row, if it is known.
    """

    def __init__(
        self,
        recipe: Recipe,
        local: Callable[[Array], Any],
        cores: int = 1,
        executor: Any = None,
        row_seconds: float | None = None,
    ) -> None:
        self._recipe = recipe
        self._local = local
        self._cores = cores
        self._executor = _as_executor(executor)
        self._pool: Executor | None = None
        self._lock = threading.RLock()  # one batch at a time has the workers, but for those ahead
        self._ahead: dict[Key, _Batch] = {}
        self._rows, self._seconds = (0, 0.0) if row_seconds is None else (1, row_seconds)
        self.renew()

    @property
    def elsewhere(self) -> bool:
        """Whether there are workers besides this process."""
        return self._executor is not None or self._cores > 1

    def renew(self) -> None:
        """Let every worker make its function anew, as the data in it have changed."""
        self._token = uuid.uuid4().hex
        self._payload: bytes | None = None
        functions = _functions(self._recipe.shareable)
        functions[self._token] = _Made(self._local, ThreadpoolController())
        weakref.finalize(self, functions.pop, self._token, None)
        self.release()

    def release(self) -> None:
        """End the processes, which start again when needed, and forget what is ahead."""
        with self._lock:
            self._forget()
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = None

    def ahead(self, batches: Sequence[Array]) -> None:
        """Begin with batches that are about to be asked for; those of an earlier call are dropped.

        So the workers have the rows of all fluids at once.
        """
        with self._under_way() as executor, held_interrupts():
            self._forget()
            for theta in batches:
                batch = self._cut(theta)
                calls = self._calls((chunk, None) for chunk in batch.chunks)
                batch.futures = submit_all(executor, _evaluate, calls, self._executor is None)
                self._ahead[_key(theta)] = batch

    def __call__(self, theta: Array) -> list[Any]:
        """Evaluate a batch (K, d): what the function gave for each chunk, in their order."""
        ours = self._executor is None
        with self._under_way() as executor:
            batch = self._ahead.pop(_key(theta), None)
            if batch is None:
                batch = self._cut(theta)
                calls = self._calls((chunk, None) for chunk in batch.chunks)
                answers = run_all(executor, _evaluate, calls, ours)
            else:
                answers = collect(batch.futures)
            unknown = [i for i, answer in enumerate(answers) if answer is None]
            while unknown:
                sent = self._recipes(batch.chunks, unknown)
                told = run_all(executor, _evaluate, sent, ours)
                for i, answer in zip(unknown, told, strict=True):
                    answers[i] = answer
                unknown = [i for i in unknown if answers[i] is None]
            self._rows += len(theta)
            self._seconds += sum(seconds for _, seconds in answers)
        return [part for part, _ in answers]

    def _cut(self, theta: Array) -> _Batch:
        """Cut a batch into chunks of about the same length."""
        grain, n = self._recipe.grain, len(theta)
        if not self._rows:
            rows = max(grain, 8)  # nothing is known of their cost yet
        else:
            row_seconds = max(self._seconds / self._rows, 1e-9)
            chunks = int(np.clip(np.ceil(n * row_seconds / CHUNK_SECONDS), 1, max(n, 1)))
            rows = grain * -(-n // (chunks * grain))
        return _Batch([theta[i : i + rows] for i in range(0, n, max(rows, 1))])

    def _calls(self, parts: Any) -> list[tuple[Any, ...]]:
        return [(self._token, self._recipe.shareable, *part) for part in parts]

    def _recipes(self, chunks: list[Array], unknown: list[int]) -> list[tuple[Any, ...]]:
        """Return calls for chunks whose workers did not know the function; the first tell them."""
        if self._payload is None:
            self._payload = cloudpickle.dumps(self._recipe.make)
        count = max(1, RECIPES // len(self._payload))
        payloads = [self._payload if k < count else None for k in range(len(unknown))]
        return self._calls(zip([chunks[i] for i in unknown], payloads, strict=True))

    def _forget(self) -> None:
        for batch in self._ahead.values():
            for future in batch.futures:
                future.cancel()
        self._ahead.clear()

    @contextmanager
    def _under_way(self) -> Iterator[Executor]:
        """Give the executor; if it turns out to be broken, raise an error that says what to do."""
        with self._lock:
            executor = self._executor or self._own_pool()
            try:
                yield executor
            except Exception as err:
                gone = isinstance(err, BrokenExecutor | CancelledError)
                if not gone and type(err).__name__ not in DASK_ERRORS:
                    raise
                self._give_up()
                raise self._lost(executor, err) from err

    def _give_up(self) -> None:
        """Forget a broken pool of our own, so that the next batch starts another."""
        self._forget()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _lost(self, executor: Executor, error: Exception) -> LostWorkersError:
        if self._executor is None:
            whose, how = f"the cores={self._cores} processes", "new processes take over in"
        else:
            whose = f"the {type(executor).__name__} given as `executor`"
            how = "with a new executor, set as `executor` of the SPH object, go on by"
        return LostWorkersError(
            f"A worker of {whose} has died: killed, out of memory or crashed in compiled code; or "
            f"the executor was shut down. Nothing of the steps before is lost: {how} `refine(n)`, "
            "or by `pymc_sph.resume(path, model, ...)` from a checkpoint. "
            f"({type(error).__name__}: {error})"
        )

    def _own_pool(self) -> Executor:
        if self._pool is None:
            context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
            pool = ProcessPoolExecutor(self._cores, context, initializer=_ignore_interrupts)
            weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
            self._pool = pool
            with held_interrupts(), ignored_warnings(DeprecationWarning):
                pool.submit(int)  # starts the processes, where they are forked
        return self._pool


class _Batch:
    """A batch cut into chunks, and what was submitted of it."""

    def __init__(self, chunks: list[Array]) -> None:
        self.chunks = chunks
        self.futures: list[Future[Any]] = []


def _key(theta: Array) -> Key:
    return theta.shape, theta.tobytes()


# --- in a worker

_local = threading.local()
_shared: OrderedDict[str, _Made] = OrderedDict()


def _functions(shareable: bool) -> OrderedDict[str, _Made]:
    """Functions that this process or, where they cannot be shared, this thread has made."""
    if shareable:
        return _shared
    if not hasattr(_local, "functions"):
        _local.functions = OrderedDict()
    return _local.functions


def _evaluate(
    token: str, shareable: bool, theta: Array, payload: bytes | None = None
) -> tuple[Any, float] | None:
    """Evaluate a chunk: what the function gives, and the seconds it took.

    None if the function is unknown and no recipe was sent.
    """
    made = _find(token, shareable, payload)
    if made is None:
        return None
    with one_blas_thread(made.blas):
        began = time.perf_counter()
        part = made.function(theta)
        return part, time.perf_counter() - began


def _find(token: str, shareable: bool, payload: bytes | None) -> _Made | None:
    functions = _functions(shareable)
    if token not in functions and payload is None:
        return None
    with graphs():  # of several threads one makes it, and the others find it
        if token not in functions:
            assert payload is not None
            with one_blas_thread():
                function = cloudpickle.loads(payload)()
            functions[token] = _Made(function, ThreadpoolController())
        functions.move_to_end(token)
        while len(functions) > KEPT:
            functions.popitem(last=False)
        return functions[token]


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which keeps the fit so far and still needs the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
