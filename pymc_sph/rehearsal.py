"""Paths followed side by side where there are workers, before they are followed one by one.

What a path asks of the target does not depend on other paths, or hardly: each is a sequence of
single rows, for which many workers are no help. So all paths are first rehearsed in threads that
hand their rows to the calling thread, which evaluates those of all paths in one batch. The target
keeps them, and the code that then follows the paths one after another finds every row it asks for:
it counts what it counts, and decides what it decides, as without workers.
"""

from __future__ import annotations

import contextlib
import threading

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from pymc_sph.fluid.step import LogDensity

Job = Callable[[LogDensity], Any]


class _StoppedError(Exception):
    """Ends a job whose rows nobody evaluates any more."""


def rehearse(target: LogDensity, jobs: Sequence[Job]) -> None:
    """Run functions of the target in lockstep, if the target has workers; what they return is lost.

    So is what they raise: it is raised again where they run in earnest.
    """
    begin = getattr(target, "rehearsal", None)
    if begin is None or len(jobs) < 2:
        return
    evaluate = begin()
    asked: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    actors = [_Actor(i, job, asked) for i, job in enumerate(jobs)]
    try:
        for actor in actors:
            actor.start()
        running = set(range(len(actors)))
        while running:
            rows: dict[int, np.ndarray] = {}
            while len(rows) < len(running):
                i, theta = asked.get()
                if theta is None:
                    running.remove(i)
                else:
                    rows[i] = theta
            if rows:
                for i, answer in zip(rows, evaluate(list(rows.values())), strict=True):
                    actors[i].answers.put(answer)
    finally:
        for actor in actors:
            actor.answers.put(None)
        for actor in actors:
            if actor.ident is not None:
                actor.join()


class _Actor(threading.Thread):
    """A job in a thread; `asked` gets its rows, with its number, and None at its end."""

    def __init__(self, number: int, job: Job, asked: SimpleQueue[tuple[int, Any]]) -> None:
        super().__init__(name=f"pymc_sph path {number}", daemon=True)
        self.answers: SimpleQueue[Any] = SimpleQueue()
        self._number, self._job, self._asked = number, job, asked

    def run(self) -> None:
        """Run the job."""
        try:
            with contextlib.suppress(Exception):
                self._job(self._target)
        finally:
            self._asked.put((self._number, None))

    def _target(self, theta: np.ndarray) -> Any:
        self._asked.put((self._number, theta))
        answer = self.answers.get()
        if answer is None:
            raise _StoppedError
        return answer
