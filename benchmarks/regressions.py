"""Regressions on simulated data: logistic, and one as badly conditioned as the diamonds study's."""

from __future__ import annotations

import numpy as np
import pymc as pm

DIAMONDS_LIKE = (26, 5_000)
"""Unknowns and observations of `badly_conditioned`."""


def logistic(n: int, d: int = 25, seed: int = 25) -> pm.Model:
    """Logistic regression with an intercept, d - 1 correlated predictors, N(0, 2.5^2) priors."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(d - 1) + 0.15 * rng.normal(size=(d - 1, d - 1))
    design = np.column_stack([np.ones(n), rng.normal(size=(n, d - 1)) @ mixing])
    beta = rng.normal(0, 0.5, d) / np.sqrt(np.linalg.norm(mixing))
    y = (rng.random(n) < 1 / (1 + np.exp(-design @ beta))).astype("int64")
    with pm.Model() as model:
        coefficients = pm.Normal("beta", 0, 2.5, shape=d)
        pm.Bernoulli("y", logit_p=design @ coefficients, observed=y)
    return model


def badly_conditioned(seed: int = 26) -> pm.Model:
    """Linear regression whose predictors are powers and products of a few correlated sizes.

    Shaped like posteriordb's ``diamonds``: 24 predictors, centred as brms does, d = 26 with the
    intercept and the noise sd, n = 5,000.
    """
    d, n = DIAMONDS_LIKE
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)  # the carat of a stone
    grades = np.column_stack([np.digitize(rng.normal(size=n), np.linspace(-1, 1, 4))] * 1)
    grade = (grades[:, 0] - 2.0) / 2
    lengths = size[:, None] + 0.04 * rng.normal(size=(n, 3))
    powers = [grade, grade**2, grade**3, grade**4]
    columns = [size, *lengths.T, *powers, *(size * p for p in powers)]
    columns += [x * p for x in lengths.T for p in powers]
    design = np.column_stack(columns)[:, : d - 2]
    design = design - design.mean(0)
    y = 8 + design @ rng.normal(0, 0.3, d - 2) + rng.normal(0, 0.15, n)
    with pm.Model() as model:
        intercept = pm.StudentT("intercept", 3, 8, 10)
        b = pm.Normal("b", 0, 1, shape=d - 2)
        sigma = pm.HalfStudentT("sigma", 3, 10)
        pm.Normal("y", intercept + design @ b, sigma, observed=y)
    return model
