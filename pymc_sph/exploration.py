"""Hot probes of the space: paths from far out, to find modes that the start did not come near.

Points are drawn around the modes known so far as if the posterior were heated: from Gaussians whose
covariance is T times a mode's, at several temperatures T. L-BFGS cools each point down to a mode,
unless its gradient says that it belongs to a known one: where a Newton step with that mode's
covariance ends well inside it. Near Gaussian modes one gradient does for most points.
Points go out in rounds. If the first few find one mode only, they are the last; otherwise rounds
go on until there are enough, and the second half of all points has found nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.step import LogDensity
from pymc_sph.rehearsal import rehearse
from pymc_sph.start import (
    Gaussian,
    Path,
    best,
    elbo_noise,
    fit_gaussians,
    landings,
    lbfgs_path,
    offset,
)

ROUND = 32
"""Points per round."""
ROUNDS = 10_000
"""Largest number of rounds."""
GLANCE = 256
"""Gradients that are spent at least where one mode is known."""
EFFORT = (3_000, 1_000)
"""Gradients, and gradients per squared dimension, that are spent at least on several modes."""
PRECISION = 1e-6
"""Relative gain of a step of L-BFGS below which a path ends."""
DEPTH = 10.0
"""A mode further below the best one, in nats of the ELBO, carries no mass: e^-10 = 5e-5."""
CARRYING = 7.0
"""A mode no further below the best one makes it worth looking for more: e^-7 = 1e-3."""
BUDGET = (100_000, 2_000)
"""Gradients, and gradients per dimension, after which no further round begins."""
BARRIER = 2.0
"""Depth of a valley between two modes, in nats."""
LOOKS = 16
"""Points of a line that are looked at for a valley."""
INSIDE = 0.5
"""Squared Mahalanobis distance over d below which a point is well inside a mode's Gaussian."""
LADDER = (1.0, 0.8, 0.6, 0.4)
"""Temperatures of the probes, as powers of the highest one."""


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes
    ----------
    modes : tuple of Gaussian
        A Gaussian for each mode that may carry mass, the best first.
    unseen : float
        Estimated chance that one more path would have found a new mode (Good and Turing); 0 if
        no path went out.
    n_evaluations : int
        Gradients spent.

    References
    ----------
    Good (1953). The population frequencies of species and the estimation of population parameters.
    Biometrika 40.
    """

    modes: tuple[Gaussian, ...]
    unseen: float
    n_evaluations: int

    @property
    def calm(self) -> bool:
        """Whether the posterior is close to the Gaussian of the one mode that is known."""
        return calm(self.modes)

    @property
    def close(self) -> bool:
        """Whether the Gaussian of the one mode that is known comes close to the posterior."""
        return close(self.modes)


def calm(modes: Sequence[Gaussian]) -> bool:
    """Whether a posterior with these modes is close to a Gaussian: such a one needs less effort."""
    return len(modes) == 1 and modes[0].calm


def close(modes: Sequence[Gaussian]) -> bool:
    """Whether a posterior with these modes has one alone, whose Gaussian comes close to it."""
    return len(modes) == 1 and modes[0].close


def explore(
    target: LogDensity,
    starts: list[Gaussian],
    temperature: float,
    seed: tuple[int, ...],
    rounds: int = ROUNDS,
) -> Exploration:
    """Find modes by paths from hot probes.

    Parameters
    ----------
    target : callable
        Log density and gradient of a batch, in unconstrained space.
    starts : list of Gaussian
        What the start's own paths found, best first; at least one.
    temperature : float
        Highest temperature of the probes; at 1 no path goes out.
    seed : tuple of int
        Seed of the probes.
    rounds : int
        Largest number of rounds.
    """
    modes, spent = separate(target, starts)
    if temperature <= 1:
        return Exploration(tuple(modes), 0.0, spent)
    rng = stream(*seed)
    dim = len(modes[0].mu)
    noise = elbo_noise(rng, dim)
    hits = [0] * len(modes)
    latest = 0
    for done in range(1, rounds + 1):
        points = hot_probes(modes, temperature, rng)
        logp, grad = target(points)
        spent += ROUND
        finite = np.isfinite(logp) & np.isfinite(grad).all(axis=1)
        landed = landings(modes, points[finite], grad[finite], INSIDE)
        away = [point for point, mode in zip(points[finite], landed, strict=True) if mode is None]
        # one may end earlier afterwards, in a mode that another has found
        rehearse(target, [partial(cool, point=point, modes=list(modes)) for point in away])
        for point, mode in zip(points[finite], landed, strict=True):
            if mode is None:
                mode, used = follow(target, point, modes, noise)
                spent += used
            if mode is None:
                continue
            if mode == len(hits):
                hits.append(0)
                latest = done
            hits[mode] += 1
        settled = done >= 2 * latest and spent >= least_effort(modes)
        if settled or spent > BUDGET[0] + BUDGET[1] * dim:
            break
    unseen = hits.count(1) / max(sum(hits), ROUND)  # where few paths arrive, one hit says little
    top = best(modes).elbo
    # not >: of a number as large as 1e17 nothing is left to take off, and the best one must stay
    kept = sorted((m for m in modes if m.elbo >= top - DEPTH), key=lambda mode: -mode.elbo)
    return Exploration(tuple(kept), unseen, spent)


def least_effort(modes: list[Gaussian]) -> int:
    """Return the gradients worth spending: few if nothing speaks for several modes.

    A narrow mode is found by points that set out close to it, within its Apollonius sphere against
    a wider one: ever fewer do as the dimension grows.
    """
    top = best(modes).elbo
    several = sum(mode.elbo > top - CARRYING for mode in modes) > 1
    return EFFORT[0] + EFFORT[1] * len(modes[0].mu) ** 2 if several else GLANCE


def hot_probes(modes: list[Gaussian], temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Points (ROUND, d) to set out from.

    They lie around the modes in turn, at the temperatures of the ladder in turn. Where several
    modes are known, every other point comes from the normal distribution that has their mean and
    covariance: more of them are likely to lie where these do.
    """
    d = len(modes[0].mu)
    e = rng.standard_normal((ROUND, d))
    index = rng.integers(len(modes), size=ROUND)
    spread = np.sqrt(temperature ** np.resize(LADDER, ROUND))
    around = [modes[i].mu + s * (modes[i].L @ x) for i, s, x in zip(index, spread, e, strict=True)]
    if len(modes) > 1:
        places = np.stack([mode.mu for mode in modes])
        weights = rng.standard_normal((ROUND, len(modes))) / np.sqrt(len(modes) - 1)
        among = places.mean(axis=0) + weights @ (places - places.mean(axis=0))
        own = np.stack([modes[i].L @ x for i, x in zip(index, e, strict=True)])
        around[1::2] = (among + own)[1::2]
    return np.stack(around)


def cool(target: LogDensity, point: np.ndarray, modes: Sequence[Gaussian]) -> Path:
    """Run L-BFGS from a point, until it is well inside a known mode or at an end."""
    return lbfgs_path(target, point, PRECISION, until=modes, near=INSIDE)


def follow(
    target: LogDensity, point: np.ndarray, modes: list[Gaussian], noise: np.ndarray
) -> tuple[int | None, int]:
    """Follow one path to its mode, and add the mode to `modes` if it is new.

    Returns
    -------
    mode : int or None
        Its number; None if the path came to no place that may carry mass.
    n_evaluations : int
        Gradients spent.
    """
    path = cool(target, point, modes)
    end, spent = path.points[-1], path.n_evaluations
    if path.known is not None:
        return path.known, spent
    known, used = known_mode(target, end, modes)
    spent += used
    if known is not None:
        return known, spent
    gaussians, used = fit_gaussians(target, end[None], noise)
    found = max(gaussians, key=lambda g: g.elbo, default=None)
    if found is None or not found.elbo > best(modes).elbo - DEPTH:
        return None, spent + used
    modes.append(found)
    return len(modes) - 1, spent + used


def known_mode(
    target: LogDensity, point: np.ndarray, modes: list[Gaussian]
) -> tuple[int | None, int]:
    """Return the number of the mode that the end of a path belongs to, and the gradients spent.

    That is one whose Gaussian has the point well inside, or one that no barrier parts from it: on
    the straight line between them, log p falls nowhere far below the lower end. So the end of an
    unfinished path, a plateau or a funnel's neck are no modes of their own.
    """
    squares = np.array([offset(mode, point) for mode in modes])
    nearest = np.argsort(squares)
    if squares[nearest[0]] < INSIDE:
        return int(nearest[0]), 0
    share = np.linspace(0.0, 1.0, LOOKS)[:, None]
    for count, i in enumerate(nearest, 1):
        logp, _ = target(modes[i].mu + share * (point - modes[i].mu))
        if logp.min() > min(logp[0], logp[-1]) - BARRIER:  # false where one is not finite
            return int(i), count * LOOKS
    return None, len(modes) * LOOKS


def separate(target: LogDensity, starts: list[Gaussian]) -> tuple[list[Gaussian], int]:
    """Return starts in modes of their own, best first, and the gradients spent."""
    modes: list[Gaussian] = []
    spent = 0
    for start in apart(starts):
        if modes:
            known, used = known_mode(target, start.mu, modes)
            spent += used
            if known is not None:
                continue
        modes.append(start)
    return modes, spent


def near(starts: list[Gaussian]) -> list[Gaussian]:
    """Return the starts, best first, without those too far below the best one in ELBO.

    That is further than a fluid can be expected to climb, 10 nats and one per dimension: such a
    start would spend a fluid on a mode that carries no mass.
    """
    top = best(starts).elbo
    kept = [s for s in starts if s.elbo >= top - DEPTH - len(s.mu)]  # not >: see `explore`
    return sorted(kept, key=lambda start: -start.elbo)


def apart(starts: list[Gaussian]) -> list[Gaussian]:
    """Return the starts, best first, without those in the same place as a better one."""
    out: list[Gaussian] = []
    for start in near(starts):
        if all(distance(start, other) > 1.0 for other in out):
            out.append(start)
    return out


def distance(one: Gaussian, other: Gaussian) -> float:
    """Squared Mahalanobis distance of two Gaussians' means over d, by the wider of the two."""
    gap = one.mu - other.mu
    squares = [np.sum(np.linalg.solve(g.L, gap) ** 2) for g in (one, other)]
    return float(min(squares)) / len(gap)
