"""Ctrl-C, held back where Python could not bear it: around executors and forks."""

from __future__ import annotations

import contextlib
import signal
import threading

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from typing import Any

from pymc_sph.process import ignored_warnings

PATIENCE = 0.1
"""Seconds after which an interrupt is let through at the latest."""


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back, and let it through at the end; yields a function that does so before.

    An executor takes locks by Python code. An interrupt in there can leave one locked for good, and
    its threads with it; one that comes around a fork is lost, or ends a process that has just
    started. Only the main thread is ever interrupted.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield lambda: None  # there is no handler that could be given back, or it is not ours
        return
    caught: list[int] = []

    def hold(number: int, frame: Any) -> None:
        caught.append(number)

    def let_through() -> None:
        if caught:
            caught.clear()
            signal.signal(signal.SIGINT, before)
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.signal(signal.SIGINT, hold)

    signal.signal(signal.SIGINT, hold)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, before)
        if caught:
            signal.raise_signal(signal.SIGINT)


def submit_all(
    executor: Executor, function: Callable[..., Any], calls: list[tuple[Any, ...]], ours: bool
) -> list[Future[Any]]:
    """Submit a function with each of these arguments; call it with interrupts held.

    An executor that is not `ours` may warn: Python 3.12 does of forking a process with threads, as
    PyMC's samplers do, and Dask of large data. Ours has its processes already, or needs none, and
    does not have to wait until no other thread compiles (see `process.same_filters`).
    """
    with contextlib.ExitStack() as stack:
        if not ours:
            stack.enter_context(ignored_warnings(DeprecationWarning))
            stack.enter_context(ignored_warnings(UserWarning, "Sending large graph"))
        try:
            return [executor.submit(function, *call) for call in calls]
        except RuntimeError as err:  # shut down, or its loop closed
            raise err if isinstance(err, BrokenExecutor) else BrokenExecutor(str(err)) from err


def collect(futures: list[Future[Any]]) -> list[Any]:
    """Wait for futures; their results in their order.

    Ctrl-C comes through meanwhile, and what has not begun is cancelled.
    """
    with held_interrupts() as let_through:
        return _collect(futures, let_through)


def run_all(
    executor: Executor, function: Callable[..., Any], calls: list[tuple[Any, ...]], ours: bool
) -> list[Any]:
    """Call a function with each of these arguments on an executor; results in their order.

    Ctrl-C comes through while it waits, and what has not begun is cancelled. See `submit_all`.
    """
    with held_interrupts() as let_through:
        return _collect(submit_all(executor, function, calls, ours), let_through)


def _collect(futures: list[Future[Any]], let_through: Callable[[], None]) -> list[Any]:
    try:
        while wait(futures, PATIENCE).not_done:
            let_through()
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise
