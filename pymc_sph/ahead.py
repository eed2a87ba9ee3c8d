"""Batches that are about to be asked for, told to a target whose workers can begin on them.

Fluids advance one after another, and so do the points of a path; what each of them asks the target
first does not depend on the others. With workers these batches go out together, and the code that
asks for them finds them evaluated, or on their way. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pymc_sph.fluid.step import LogDensity


class _AskedError(Exception):
    """Ends a step where it asks for its first batch."""


def announce_steps(target: LogDensity, steps: Iterable[Callable[[LogDensity], Any]]) -> None:
    """Announce the first batch that each of these functions of the target will ask for.

    To know it, the step is taken up to there: little work beside a costly target's.
    """
    if getattr(target, "ahead", None) is not None:
        announce(target, [theta for step in steps for theta in _first_batch(step)])


def announce(target: LogDensity, batches: Iterable[np.ndarray]) -> None:
    """Announce batches (K, d), if the target has workers."""
    ahead = getattr(target, "ahead", None)
    if ahead is not None:
        ahead([np.ascontiguousarray(theta, dtype="float64") for theta in batches])


def _first_batch(step: Callable[[LogDensity], Any]) -> list[np.ndarray]:
    asked: list[np.ndarray] = []

    def target(theta: np.ndarray) -> Any:
        asked.append(theta)
        raise _AskedError

    try:
        step(target)
    except _AskedError:
        pass
    return asked
