"""What a fit shares with its process: BLAS threads, PyTensor's graphs, filters of warnings."""

from __future__ import annotations

import os
import sys
import threading
import warnings

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController

_entry = threading.Lock()
_limits: Any = None
_users = 0
_graphs = threading.RLock()


def users_level() -> int:
    """Return the `stacklevel` by which a warning names the user's line, not one of PyMC or ours."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.split(".")[0] in ("pymc_sph", "pymc", "contextlib")


@contextmanager
def one_blas_thread(libraries: ThreadpoolController | None = None) -> Iterator[None]:
    """Keep BLAS at one thread, until the last of those who asked for it has left.

    To look for the libraries of the process takes 2 ms; whoever asks often gives those it knows.

    The number of threads belongs to the process. Fits that overlap in two threads must not each
    restore what they found: the first to end would take the limit from the other, and the last
    would leave it in place for good. (An OpenBLAS that runs on OpenMP has a number of its own for
    every thread of the program; there the first of them has the limit.)
    """
    global _limits, _users
    with _entry:
        if _users == 0:
            _take_control()
            found = libraries or ThreadpoolController()
            _limits = found.limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _entry:
            _users -= 1
            if _users == 0 and _limits is not None:
                _take_control()
                _limits.restore_original_limits()
                _limits = None
                _take_control()


def _take_control() -> None:
    """Let any thread set the number of threads next.

    threadpoolctl 3.8 listens to the first thread that has set it, and does nothing for others,
    without a word.
    """
    clear = getattr(OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


@contextmanager
def graphs() -> Iterator[None]:
    """Let one thread at a time build, rewrite and compile graphs.

    PyTensor and Numba change flags of the whole process and its filters of warnings meanwhile, and
    restore what they found.
    """
    with _graphs:
        yield


@contextmanager
def same_filters() -> Iterator[None]:
    """Restore the filters of warnings at the end, whatever was done to them.

    They belong to the process, so that only one thread at a time may change them, and none while
    a graph is compiled: of two threads that each restore what they found, the second would bring
    back what the first had set.
    """
    with _graphs, warnings.catch_warnings():
        yield


@contextmanager
def ignored_warnings(category: type[Warning], message: str = "") -> Iterator[None]:
    """Leave out warnings of a kind; see `warnings.filterwarnings`."""
    with same_filters():
        warnings.filterwarnings("ignore", message, category)
        yield


def _unlock() -> None:
    """Make the locks anew in a forked process: their owners are not there."""
    global _entry, _graphs
    _entry, _graphs = threading.Lock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
