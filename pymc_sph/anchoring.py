"""Where a fit on minibatches puts its anchor, and what its end is checked with; free of PyMC."""

from __future__ import annotations

import dataclasses

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pymc_sph.fluid.step import LogDensity
from pymc_sph.result import FULL_DATA, MINIBATCHES, FitResult
from pymc_sph.start import Gaussian, find_starts
from pymc_sph.verdict import NOISY

ROUNDS = 20
"""Largest number of moves of the anchor."""
NEAR = 0.3
"""Length of a move, in sds of the posterior, after which the anchor stays."""
CHECKS = 16
"""Batches that the final check averages."""


class Batches(Protocol):
    """What this needs of a `MinibatchEngine`."""

    anchor: Any

    def new_batch(self) -> None:
        """Draw a new batch."""

    def drop_anchor(self, point: np.ndarray) -> Any:
        """Move the anchor to a point (d,)."""

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return what the present batch was drawn with."""

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Return to the batch of `generators`."""

    def whole(self, theta: np.ndarray) -> Any:
        """Evaluate points (K, d) by the whole data."""


def find_anchor(
    target: LogDensity, batches: Batches, points: np.ndarray, seed: tuple[int, ...]
) -> None:
    """Put the anchor where the posterior of the whole data is: one evaluation of it per move.

    The first anchor is the best start on one batch, which lies about sqrt(n / b) sds off. From an
    anchor, the best start with its control variates on another batch is some sqrt(b / d) times
    closer, and becomes the next.

    Parameters
    ----------
    target : callable
        Log density and gradient on the present batch, in unconstrained space.
    batches : MinibatchEngine
        What draws the batches.
    points : (P, d)
        Dispersed starting points.
    seed : tuple of int
        Seed of the ELBO estimates.
    """
    starts, _ = find_starts(target, points, seed)
    for _ in range(ROUNDS if starts else 0):
        now: Gaussian = starts[0]
        batches.drop_anchor(now.mu)
        if batches.anchor is None:
            return
        batches.new_batch()
        starts, _ = find_starts(target, now.mu[None], seed)
        if not starts:
            return
        move = float(np.max(np.abs(np.linalg.solve(starts[0].L, starts[0].mu - now.mu))))
        if move < NEAR:
            return


class Averaged:
    """The mean of a log density, and of its gradient, over `CHECKS` batches: always the same ones.

    All draws of a check then meet one function, whose noise is that of a larger batch.

    Attributes
    ----------
    noise : float
        Standard error, from the batches chosen, of the mean log density of the most points that
        were evaluated at once, the draws of q, nats; by so much the evidence may be off.
    """

    def __init__(self, target: LogDensity, batches: Batches) -> None:
        self.noise, self._most = np.nan, 0
        self._target, self._batches = target, batches
        self._states = []
        for _ in range(CHECKS):
            batches.new_batch()
            self._states.append(batches.generators())

    def __call__(self, theta: np.ndarray) -> tuple[np.ndarray, Any]:
        """Evaluate points (K, d)."""
        logp, grad = np.empty((CHECKS, len(theta))), 0.0
        for values, state in zip(logp, self._states, strict=True):
            self._batches.set_generators(state)
            values[:], part = self._target(theta)
            grad = grad + part / CHECKS
        mean = logp.mean(axis=0)
        used = np.isfinite(mean)
        if used.sum() > self._most:
            self._most = int(used.sum())
            self.noise = float(np.std(logp[:, used].mean(axis=1), ddof=1) / np.sqrt(CHECKS))
        return mean, grad


def check_with(target: Any, full_data: bool) -> LogDensity:
    """Return what the final check of a fit evaluates: the target itself, unless it has batches."""
    batches: Batches | None = target.batches
    if batches is None:
        return target  # type: ignore[no-any-return]
    whole = batches.whole
    return (lambda theta: whole(theta)[:2]) if full_data else Averaged(target, batches)


def marked(result: FitResult, check: LogDensity, target: Any) -> FitResult:
    """Say in a result what its evidence and verdict rest on; `check` as of `check_with`."""
    if target.batches is not None and not isinstance(check, Averaged):
        return dataclasses.replace(result, evidence_of=FULL_DATA)
    if not target.random:
        return result
    noise = check.noise if isinstance(check, Averaged) else np.nan
    reason = f"{NOISY.reason}. What {CHECKS} batches show: {result.verdict.reason}"
    return dataclasses.replace(
        result,
        evidence_of=MINIBATCHES,
        log_evidence_se=float(np.hypot(result.log_evidence_se, noise)),
        verdict=dataclasses.replace(NOISY, reason=reason),
    )
