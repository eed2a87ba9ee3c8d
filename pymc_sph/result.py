"""What a fit hands out: the figures of a step, and the finished result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pymc_sph.mixture import FluidMixture
from pymc_sph.verdict import Verdict

ALL_DATA, MINIBATCHES, FULL_DATA = "model", "minibatches", "full data"
"""What an evidence may be of: the model's log density; batches of rows, that is, an estimate; all
rows of the data of a model that was fitted on batches."""


@dataclass(frozen=True)
class StepInfo:
    """What one step of the ensemble saw; fluids that have stopped count with their last figures.

    Attributes
    ----------
    step : int
        Steps taken, this one included.
    elbo, ess : float
        Best fluid's ELBO (nats) and its relative importance ESS, over the probes of the step.
    temperature : float
        Highest temperature of the step.
    elbos : (F,)
        ELBO of every fluid, nats.
    n_evaluations, n_nonfinite : int
        Gradients or log densities spent so far, the start included; probes set aside so far.
    together : bool
        Whether the fluids had met.
    """

    step: int
    elbo: float
    ess: float
    temperature: float
    elbos: np.ndarray
    n_evaluations: int
    n_nonfinite: int
    together: bool = False


@dataclass(frozen=True)
class FitResult:
    """A finished fit.

    Attributes
    ----------
    mixture : FluidMixture
        The approximation q.
    elbo : float
        ELBO of q, nats; of q without the places where log p is not finite, if it has any.
    fluid_elbo : (F,)
        ELBO of each fluid alone, before they met, nats.
    log_evidence, log_evidence_se : float
        Log evidence by Pareto-smoothed importance sampling from q, and its standard error, nats.
    pareto_k, importance_ess : float
        Pareto k of the weights of draws from q, and relative ESS of the smoothed weights.
    r_hat : float
        Worst r_hat over the agreeing fluids before they met, in unconstrained space.
    status : str
        "converged", "max_steps", "interrupted" or "non_finite".
    n_steps, n_evaluations, n_nonfinite : int
        Steps, evaluations of the log density, and probes and draws where it was not finite.
    verdict : Verdict
        How far to trust it.
    formulation : {"force", "pressure"}
        Whether gradients were used, or values alone.
    n_failed : int
        Evaluations that raised an error.
    void : float
        Share of q where p is zero. No draw is taken from there, and all figures are those of q
        without it, whose log density is larger by -log(1 - void).
    evidence_of : {"model", "minibatches", "full data"}
        What the ELBO, the evidence, Pareto k, ESS and the verdict rest on: the log density of an
        ordinary model; the mean of that of some batches of a model with ``pm.Minibatch``, an
        estimate; or that of its whole data (`full_data` of the settings).
    """

    mixture: FluidMixture
    elbo: float
    fluid_elbo: np.ndarray
    log_evidence: float
    log_evidence_se: float
    pareto_k: float
    importance_ess: float
    r_hat: float
    status: str
    n_steps: int
    n_evaluations: int
    n_nonfinite: int
    verdict: Verdict
    formulation: str = "force"
    n_failed: int = 0
    void: float = 0.0
    evidence_of: str = ALL_DATA
