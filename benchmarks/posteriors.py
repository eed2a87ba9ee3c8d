"""Every posterior of the comparison in ``peers.py``: its model and its reference summary."""

from __future__ import annotations

import sys

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import hierarchical
import numpy as np
import posteriordb_models
import pymc as pm
import pytensor.tensor as pt
import regressions

from summaries import Summary

Array = np.ndarray


@dataclass(frozen=True)
class Posterior:
    """A posterior to fit.

    Parameters
    ----------
    name : str
        On the command line and in tables; posteriordb's names without the data set's.
    build : callable
        Returns the model.
    reference : callable
        Returns the summary that draws are judged by.
    gradient : bool
        Whether the log density has one.
    """

    name: str
    build: Callable[[], pm.Model]
    reference: Callable[[], Summary]
    gradient: bool = True


# --- ten modes: the posterior is known in closed form

MODES, MODES_SEED, PRIOR_SD = 10, 10, 15.0


def ten_modes_parts() -> tuple[Array, Array, Array]:
    """Weights (10,), centres (10, 2) and sds (10,): weights 1 : 2 : ... : 10, far apart."""
    rng = np.random.default_rng(MODES_SEED)
    weights = np.arange(1.0, MODES + 1)
    sds = np.linspace(0.5, 1.5, MODES)
    centres = rng.uniform(-15, 15, (MODES, 2))
    for i in range(1, MODES):
        while np.linalg.norm(centres[:i] - centres[i], axis=1).min() < 7.0:
            centres[i] = rng.uniform(-15, 15, 2)
    return weights / weights.sum(), centres, sds


def ten_modes() -> pm.Model:
    """Ten normal modes in the plane, under a prior that the Potential divides out.

    The prior is there for methods that start from draws of it.
    """
    weights, centres, sds = ten_modes_parts()
    constant = np.log(weights / (2 * np.pi * sds**2))
    with pm.Model() as model:
        x = pm.Normal("x", 0, PRIOR_SD, shape=2)
        squares = ((x[None, :] - centres) ** 2).sum(axis=1) / sds**2
        mixture = pt.logsumexp(constant - 0.5 * squares)
        prior = -(x**2).sum() / (2 * PRIOR_SD**2) - 2 * np.log(PRIOR_SD) - np.log(2 * np.pi)
        pm.Potential("modes", mixture - prior)
    return model


def ten_modes_reference() -> Summary:
    """Exact moments; quantiles of 10^6 exact draws."""
    weights, centres, sds = ten_modes_parts()
    rng = np.random.default_rng(0)
    mode = rng.choice(MODES, size=1_000_000, p=weights)
    draws = centres[mode] + sds[mode, None] * rng.standard_normal((len(mode), 2))
    sampled = Summary.from_draws({"x": draws})
    mean = weights @ centres
    variance = weights @ (sds[:, None] ** 2 + (centres - mean) ** 2)
    return Summary({"x": mean}, {"x": np.sqrt(variance)}, sampled.quantiles)


# --- hares and lynxes: a black box


def predator_prey_model() -> pm.Model:
    """Return the model of ``examples/black_box.py``; failed solutions count as very unlikely.

    `pymc.sample_smc` cannot do with an error, and both methods get the same density.
    """
    import black_box
    import predator_prey

    black_box.simulate = predator_prey.tolerant
    return black_box.build()


def predator_prey_reference() -> Summary:
    """Return the summary of a long Metropolis run, see ``predator_prey.py``."""
    import predator_prey

    return Summary.load(predator_prey.REFERENCE)


QUICK = ("nes",)


def _all() -> dict[str, Posterior]:
    found = [
        Posterior(
            name.split("-")[1],
            partial(posteriordb_models.build, name),
            partial(posteriordb_models.reference, name),
        )
        for name in posteriordb_models.ALL
    ]
    for module in (regressions, hierarchical):
        found += [
            Posterior(name, partial(module.build, name), partial(module.load_reference, name))
            for name in module.MODELS
        ]
    found += [
        Posterior("ten_modes", ten_modes, ten_modes_reference),
        Posterior("predator_prey", predator_prey_model, predator_prey_reference, gradient=False),
    ]
    return {posterior.name: posterior for posterior in found}


POSTERIORS = _all()
"""Name: posterior."""
