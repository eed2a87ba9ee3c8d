"""A fit under way: its steps, what is counted beside them, and its checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import time

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pymc_sph import anchoring, files
from pymc_sph import checkpoint as checkpointing
from pymc_sph.checkpoint import Checkpoint
from pymc_sph.checks import Callback, check_integer, shown
from pymc_sph.ensemble import Ensemble
from pymc_sph.errors import MismatchError
from pymc_sph.fingerprint import fingerprint
from pymc_sph.history import History
from pymc_sph.links import see
from pymc_sph.progress import progress
from pymc_sph.result import StepInfo
from pymc_sph.schemes import AnySettings
from pymc_sph.seeds import ANCHOR
from pymc_sph.target import Target

logger = logging.getLogger(__name__)


class UnderWay:
    """What `SPH` is made of between the start of a fit and its end.

    After every whole step `_ensemble` and `_marks` are replaced together, and nothing else says
    how far the fit has come: whatever ends it, in the middle of a step or of a callback, leaves
    the state after the last whole step.

    Attributes
    ----------
    hist : ndarray (n,)
        Minus the ELBO of every step of the runs so far, nats.
    checkpoint : Path or None
        Where checkpoints go.
    every : int
        Steps between two of them.
    """

    model: Any
    settings: AnySettings
    scheme: str
    start: Mapping[str, Any] | None
    state: Any
    approx: Any
    _options: tuple[Any, ...] | None

    def __init__(self) -> None:
        self.hist = np.empty(0)
        self.checkpoint: Path | None = None
        self.every = checkpointing.EVERY
        self._ensemble: Ensemble | None = None
        self._target: Target | None = None
        self._losses: list[float] = []
        self._past = History.of([])  # of a fit that was resumed
        self._steps: list[StepInfo] = []
        # after the last whole step: losses of this run, rows that raised, random generators, steps
        self._marks: tuple[int, int, Any, int] = (0, 0, (), 0)
        self._first = 0
        self._seconds = 0.0
        self._since: float | None = None
        self._failed_before = 0
        self._known: tuple[dict[str, Any], np.ndarray, float] | None = None
        self._written: Ensemble | None = None

    @abstractmethod
    def _hand_over(self, result: Any, status: str) -> None:
        """Give the approximation the fluids as they are."""

    def _take_checkpoint(self, changes: dict[str, Any]) -> None:
        if "checkpoint" in changes:
            path = changes.pop("checkpoint")
            self.checkpoint = None if path is None else files.check_path("checkpoint", path)
        if "every" in changes:
            self.every = check_integer("every", changes.pop("every"), 1)

    def _begin(self, target: Target, seed: int, n: int) -> None:
        """Place the fluids at their starts."""
        began = time.perf_counter()
        target.reseed(seed)
        before, self._failed_before = target.n_evaluations, target.n_failed
        settings = self.settings.in_form(target.formulation)
        assert settings.paths is not None  # in_form has decided
        points = target.initial_points(settings.paths, seed, self.start)
        if target.batches is not None:
            anchoring.find_anchor(target, target.batches, points, (seed, ANCHOR))
        ensemble = Ensemble.start(target, points, settings, seed, n)
        spent, failed = target.n_evaluations - before, target.n_failed - self._failed_before
        self._ensemble = dataclasses.replace(ensemble, n_evaluations=spent)
        self._losses, self._marks = [], (0, failed, target.generators(), 0)
        self._past, self._steps = History.of([]), []
        self._first, self._known, self._written = 0, None, None
        self._seconds = time.perf_counter() - began
        self.hist = np.empty(0)

    def _take_up(self, saved: Checkpoint, target: Target) -> None:
        """Put everything to where it was after the last step of a checkpoint."""
        ensemble = saved.ensemble
        if target.formulation != ensemble.settings.formulation:
            raise MismatchError(
                f"The checkpoint is of a fit in the {ensemble.settings.formulation} form, and the "
                f"model now takes the {target.formulation} form: an Op's gradient has changed. "
                "Resume it with the model of its fit, or start a new one."
            )
        target.set_generators(saved.generators)
        self._failed_before = target.n_failed - saved.n_failed
        self._ensemble, self._written = ensemble, ensemble
        self._losses, self.hist = list(saved.losses), saved.hist
        self._marks = (len(self._losses), saved.n_failed, saved.generators, 0)
        self._past, self._steps = saved.history, []
        self._first, self._seconds = saved.first, saved.seconds
        self._known = saved.fingerprint, saved.point, saved.logp
        self.approx.groups[0].include_transformed = saved.options["include_transformed"]

    def _take_steps(self, callbacks: Sequence[Callback], progressbar: bool, theme: Any) -> None:
        """Take the steps, each followed by the callbacks; minus the ELBOs go into `_losses`."""
        assert self._ensemble is not None and self._target is not None
        target, first, losses = self._target, self._first, self._losses
        scored = self.state[0] is None or bool(self.state[0])
        with progress(self._ensemble.n - first, progressbar, theme) as show:
            while not self._ensemble.done:
                if target.batches is not None:
                    target.batches.new_batch()
                after, info = self._ensemble.step(target)
                self._steps.append(info)
                if scored:
                    losses.append(-info.elbo)
                met = after.together is not None and self._ensemble.together is None
                failed = target.n_failed - self._failed_before
                marks = len(losses), failed, target.generators(), len(self._steps)
                # in one breath: a signal must not find one of them ahead of the other
                self._ensemble, self._marks = after, marks
                show(info, info.step - first)
                if callbacks:
                    self._hand_over(None, "running")
                    for callback in callbacks:
                        callback(self.approx, np.array(losses) if scored else None, info.step)
                if met or info.step % self.every == 0:
                    self._write()

    def _write(self, *, strict: bool = False) -> None:
        """Write a checkpoint of the last whole step, if one is wanted and not yet written.

        A fit does not end because its checkpoint cannot be written, unless it has not begun
        (`strict`).
        """
        assert self._ensemble is not None and self._target is not None
        if self.checkpoint is None or self._written is self._ensemble:
            return
        try:
            if self._known is None:
                point, logp = checkpointing.reference(self._ensemble, self._target)
                self._known = fingerprint(self.model), point, logp
            checkpointing.write(self.checkpoint, self._as_checkpoint())
            self._written = self._ensemble
        except Exception as err:
            if strict:
                raise
            message = "The checkpoint %s could not be written: %s.%s"
            logger.warning(message, self.checkpoint, err, see("checkpoints"))

    def _history(self) -> History:
        """Figures of every step so far."""
        del self._steps[self._marks[3] :]
        return self._past.followed_by(History.of(self._steps))

    def _as_checkpoint(self) -> Checkpoint:
        assert self._ensemble is not None and self._known is not None
        assert self._options is not None
        n_losses, n_failed, generators, _ = self._marks
        known, point, logp = self._known
        backend, kwargs = self._options[:2]
        return Checkpoint(
            ensemble=self._ensemble,
            settings=self.settings,
            scheme=self.scheme,
            fingerprint=known,
            point=point,
            logp=logp,
            hist=self.hist,
            losses=np.array(self._losses[:n_losses], dtype="float64"),
            history=self._history(),
            score=self.state[0],
            first=self._first,
            seconds=self._seconds + (time.perf_counter() - self._since if self._since else 0.0),
            n_failed=n_failed,
            generators=generators,
            options={
                "backend": backend,
                "compile_kwargs": None if kwargs is None else shown(kwargs),
                "every": self.every,
                "include_transformed": bool(self.approx.groups[0].include_transformed),
            },
        )
