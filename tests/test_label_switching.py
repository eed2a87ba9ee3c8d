"""A mixture without an order of its components: every permutation is a mode of the same weight."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest

import pymc_sph  # noqa: F401 (registers the method)

SEED = 1  # of the fit; the figures of seeds 1 to 3 are in docs/results.md


@pytest.mark.slow
def test_six_permutations_share_the_posterior_equally():
    rng = np.random.default_rng(5)
    of = rng.choice(3, 150, p=[0.3, 0.45, 0.25])
    y = rng.normal(np.array([-3.0, 0.0, 4.0])[of], np.array([0.7, 1.0, 0.8])[of])
    with pm.Model():
        w = pm.Dirichlet("w", np.ones(3))
        mu = pm.Normal("mu", 0, 5, shape=3)
        sd = pm.HalfNormal("sd", 2, shape=3)
        pm.NormalMixture("y", w=w, mu=mu, sigma=sd, observed=y)
        approx = pm.fit(method="sph", random_seed=SEED, progressbar=False)
    draws = np.asarray(approx.sample(4000, random_seed=SEED)["posterior"]["mu"])[0]
    order, counts = np.unique(np.argsort(draws, axis=1), axis=0, return_counts=True)
    assert len(order) == 6
    # standard error of a share .006
    np.testing.assert_allclose(counts / 4000, 1 / 6, atol=0.03)
    assert approx.verdict.grade == "reliable"
