"""Draws for several chains from a mixture of fluids, plain or importance-corrected."""

from __future__ import annotations

import logging

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scipy.special import logsumexp

from pymc_sph.importance import psis, relative_ess
from pymc_sph.links import see
from pymc_sph.mixture import FluidMixture, apportion

logger = logging.getLogger(__name__)

POOR_ESS = 0.02
"""Relative importance ESS of the candidates below which corrected draws are no posterior."""
REDRAWS = 100
"""Times that draws where p is zero are drawn again."""
POOL = 5
"""Candidates per corrected draw: with fewer, resampling repeats many of them."""


@dataclass(frozen=True)
class Sample:
    """Draws with what is known about each.

    Attributes
    ----------
    theta : (n, d)
        Draws, in unconstrained space.
    fluid, particle : (n,) int
        Fluid and particle that each came from.
    lp, log_q : (n,)
        Log joint density of the model and log density of the pooled q, unconstrained space.
    """

    theta: np.ndarray
    fluid: np.ndarray
    particle: np.ndarray
    lp: np.ndarray
    log_q: np.ndarray

    def take(self, index: np.ndarray) -> Sample:
        """Return the draws with these indices."""
        return Sample(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def stats(self) -> dict[str, np.ndarray]:
        """Sample statistics by name; ``log_weight`` is ``lp - log_q``."""
        names = ("lp", "log_q", "fluid", "particle")
        return {n: getattr(self, n) for n in names} | {"log_weight": self.lp - self.log_q}


def draw_pooled(
    mixture: FluidMixture, logp: Callable, n: int, rng: np.random.Generator, void: float = 0.0
) -> Sample:
    """Draw n independent points from the pooled q, none where p is zero: a share `void` of q."""
    d = mixture.sample(n, rng)
    return _out_of_the_void(mixture, logp, d.theta, d.fluid, d.particle, rng, void)


def draw_by_share(
    mixture: FluidMixture, logp: Callable, n: int, rng: np.random.Generator, void: float = 0.0
) -> Sample:
    """Draw n points as `draw_pooled`, the fluids' numbers as close to their shares as can be."""
    parts = _draw_parts(mixture, apportion(np.exp(mixture.log_weights), n), rng)
    return _out_of_the_void(mixture, logp, *parts, rng, void)


def _out_of_the_void(
    mixture: FluidMixture,
    logp: Callable,
    theta: np.ndarray,
    fluid: np.ndarray,
    particle: np.ndarray,
    rng: np.random.Generator,
    void: float,
) -> Sample:
    """Replace draws where p is zero by new ones of the pooled q: rejection sampling.

    They must not come from the same fluid: without the void, a fluid that reaches far into it has
    a smaller share of q. ``log_q`` becomes that of q without the void.
    """
    lp = logp(theta)
    for _ in range(REDRAWS):
        rows = np.flatnonzero(lp == -np.inf)
        if not len(rows):
            break
        new = mixture.sample(len(rows), rng)
        theta[rows], fluid[rows], particle[rows] = new.theta, new.fluid, new.particle
        lp[rows] = logp(new.theta)
    return Sample(theta, fluid, particle, lp, mixture.log_density(theta) + _denser(void))


def _denser(void: float) -> float:
    """By how much log q grows where a share of it is left out."""
    return -float(np.log1p(-void)) if void < 1 else 0.0


def draw_particles(
    mixture: FluidMixture, logp: Callable, n: int, rng: np.random.Generator, void: float = 0.0
) -> Sample:
    """Draw n particles, each as often as its mass asks for, in random order.

    ``log_q`` is the smoothed density there, so ``log_weight`` corrects nothing: the particles are
    not draws from it, and where p is zero they stay.
    """
    sizes = [f.n_particles for f in mixture.fluids]
    fluid = np.repeat(np.arange(len(sizes)), sizes)
    particle = np.concatenate([np.arange(size) for size in sizes])
    theta = mixture.centres
    index = rng.permutation(systematic(np.exp(mixture.log_masses), n, rng))
    theta = theta[index]
    log_q = mixture.log_density(theta) + _denser(void)
    return Sample(theta, fluid[index], particle[index], logp(theta), log_q)


def draw_corrected(
    mixture: FluidMixture, logp: Callable, n: int, rng: np.random.Generator, void: float = 0.0
) -> Sample:
    """Draw n points from the posterior, by importance resampling of draws from the fluids.

    Every fluid proposes at least half an equal part of the candidates, so that one with a small
    share by mistake can still be heard. Candidates are weighted by p over the mixture that they
    came from, in which the fluids count by their numbers of candidates (the balance heuristic of
    Veach and Guibas), and the weights are Pareto-smoothed.
    """
    n_fluids = len(mixture.fluids)
    counts = apportion(0.5 * np.exp(mixture.log_weights) + 0.5 / n_fluids, POOL * n)
    theta, fluid, particle = _draw_parts(mixture, counts, rng)
    log_q = np.stack([mixture.log_density(theta, i) for i in range(n_fluids)])
    pooled = logsumexp(log_q + mixture.log_weights[:, None], axis=0)
    proposal = logsumexp(log_q + np.log(counts / counts.sum())[:, None], axis=0)
    sample = Sample(theta, fluid, particle, logp(theta), pooled + _denser(void))
    log_weights, k = psis(sample.lp - proposal)
    if not np.isfinite(log_weights).any():
        raise FloatingPointError(
            "log p is not finite at any draw of the fluids, so there is nothing to resample. "
            "The fit has failed: see approx.verdict, and check the model's support."
        )
    ess = relative_ess(log_weights)
    if ess < POOR_ESS:
        logger.warning(
            "A few of the candidates carry the importance weights: ESS %.3f, Pareto k %.2f. "
            "If the data or the model have changed since the fit, fit again.%s",
            ess,
            k,
            see("the-data-have-changed-since-the-fit"),
        )
    return sample.take(systematic(np.exp(log_weights), n, rng))


def _draw_parts(
    mixture: FluidMixture, counts: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, fluids and particles of ``counts[i]`` draws from fluid i."""
    parts = [mixture.sample(int(n), rng, fluid=i) for i, n in enumerate(counts)]
    theta, fluid, particle = zip(*((p.theta, p.fluid, p.particle) for p in parts), strict=True)
    return np.concatenate(theta), np.concatenate(fluid), np.concatenate(particle)


def systematic(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw indices (n,) systematically: i appears floor or ceil of n weights[i] times."""
    edges = np.cumsum(weights)
    index = np.searchsorted(edges / edges[-1], (rng.random() + np.arange(n)) / n, side="right")
    return np.minimum(index, len(weights) - 1)


def deal(fluid: np.ndarray, chains: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Deal draws to chains: chain i gets those of fluid i, and what is over fills the rest.

    Parameters
    ----------
    fluid : (chains * draws,) int
        Fluid that each draw came from.

    Returns
    -------
    (chains, draws) int
        Indices of the draws, each once, in random order within a chain.
    """
    shuffled = rng.permutation(chains * draws)
    own = [shuffled[fluid[shuffled] == i] for i in range(chains)]
    over = np.concatenate([rows[draws:] for rows in own])
    out, start = [], 0
    for rows in own:
        lacking = draws - len(rows[:draws])
        filled = np.concatenate([rows[:draws], over[start : start + lacking]])
        out.append(rng.permutation(filled))
        start += lacking
    return np.stack(out)
