"""Models of many kinds through pm.fit: each works, or says why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pymc as pm
import pytest

from scipy.special import betaln, comb, gammaln
from small_models import constrained

from pymc_sph import SPH, GradientError, NoFreeVariablesError, UnreliableFitWarning


def fit(model, draws=4000, **kwargs):
    """Approximation and draws by name, without the axis of the chain."""
    with model:
        approx = pm.fit(method="sph", random_seed=1, progressbar=False, **kwargs)
        posterior = approx.sample(draws, random_seed=2)["posterior"]
    return approx, {name: values.values[0] for name, values in posterior.data_vars.items()}


def test_discrete_observations():
    """Beta-binomial and gamma-Poisson: moments and evidence in closed form."""
    with pm.Model() as model:
        pm.Binomial("k", 10, pm.Beta("p", 1, 1), observed=[3, 4])
        pm.Poisson("c", pm.Gamma("rate", 1, 1), observed=[1, 2, 3])
    approx, draws = fit(model)
    # standard errors of the means: .0016 and .010
    assert draws["p"].mean() == pytest.approx(8 / 22, abs=0.01)
    assert draws["rate"].mean() == pytest.approx(7 / 4, abs=0.06)
    exact = np.log(comb(10, 3) * comb(10, 4)) + betaln(8, 14)
    exact += gammaln(7) - 7 * np.log(4) - gammaln([2, 3, 4]).sum()
    assert approx.log_evidence == pytest.approx(exact, abs=0.02)


@pytest.mark.filterwarnings("ignore:Data in y contains missing values")
def test_simplex_ordered_random_bounds_potential_and_imputed_data():
    _, draws = fit(constrained())
    # Dirichlet(1, 1, 1): means 1/3, sd .236; the potential makes `low` N(0, 1/3)
    np.testing.assert_allclose(draws["p"].mean(axis=0), 1 / 3, atol=0.025)
    assert draws["low"].mean() == pytest.approx(0, abs=0.06)
    assert draws["low"].std() == pytest.approx(np.sqrt(1 / 3), rel=0.08)
    within = (draws["u"] - draws["low"]) / 2  # uniform on (0, 1)
    assert within.min() > 0 and within.max() < 1 and within.mean() == pytest.approx(0.5, abs=0.03)
    assert draws["y_unobserved"].mean() == pytest.approx(1, abs=0.1)
    assert draws["y"].shape == (4000, 3) and (draws["y"][:, 0] == 0.1).all()
    np.testing.assert_array_equal(draws["y"][:, 1], draws["y_unobserved"][:, 0])
    # three ordered standard normals: the mean of the largest is 3 / (2 sqrt(pi))
    assert draws["o"][:, 2].mean() == pytest.approx(1.5 / np.sqrt(np.pi), abs=0.06)


def test_a_dimension_of_length_zero():
    with pm.Model(coords={"none": []}) as model:
        a = pm.Normal("a", dims="none")
        b = pm.Normal("b")
        pm.Deterministic("c", a * b, dims="none")
    _, draws = fit(model, 10)
    assert draws["a"].shape == draws["c"].shape == (10, 0) and draws["b"].shape == (10,)
    with pm.Model(coords={"none": []}) as empty:
        pm.Normal("a", dims="none")
    with pytest.raises(NoFreeVariablesError, match=r"no elements.* a have a dimension of length 0"):
        fit(empty)


def test_data_and_lengths_may_change_between_fits():
    with pm.Model(coords={"group": range(3)}) as model:
        group, y = pm.Data("group_of", [0, 1, 2]), pm.Data("y_data", [1.0, 2.0, 3.0])
        z = pm.Normal("z", 0, 1, dims="group")
        pm.Normal("y", z[group], 1, observed=y)
    inference = SPH(model, random_seed=1)
    first = inference.fit(progressbar=False)
    np.testing.assert_allclose(first.mixture.mean(), [0.5, 1, 1.5], atol=0.05)
    with model:
        pm.set_data({"y_data": [-1.0, -2.0, -3.0]})
    np.testing.assert_allclose(
        inference.fit(progressbar=False).mixture.mean(), [-0.5, -1, -1.5], atol=0.05
    )
    with model:
        model.set_dim("group", 4, range(4))
        pm.set_data({"group_of": [0, 1, 2, 3], "y_data": [4.0, 3.0, 2.0, 1.0]})
    grown = inference.fit(progressbar=False)
    np.testing.assert_allclose(grown.mixture.mean(), [2, 1.5, 1, 0.5], atol=0.05)
    assert grown.sample(5)["posterior"]["z"].shape == (1, 5, 4)
    assert first.mixture.dim == 3  # the approximation of the other model is left alone


def test_minibatches_fit_but_nothing_vouches_for_it():
    data = np.random.default_rng(3).normal(1, 1, 1000)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5)
        pm.Normal("y", mu, 1, observed=pm.Minibatch(data, batch_size=100), total_size=1000)
    with pytest.warns(UnreliableFitWarning, match="draws minibatches"):
        approx, draws = fit(model)
    assert approx.verdict.grade == "unreliable"
    # a batch's mean has the standard error .1
    assert draws["mu"].mean() == pytest.approx(data.mean(), abs=0.3)


def test_no_posterior():
    with pm.Model() as model:
        pm.Flat("anything")
    with pytest.raises(GradientError, match=r"not depend on the free variables anything.*proper"):
        fit(model)


def test_a_posterior_that_runs_away_is_unreliable_and_nothing_else_warns():
    with pm.Model() as model:  # as improper as the first, but log p has a gradient
        pm.Normal("y", 0, pm.HalfFlat("sigma"), observed=[0.0])
    with pytest.warns(UnreliableFitWarning):
        approx, _ = fit(model, 10, n=200)
    assert approx.verdict.grade == "unreliable"


@pytest.mark.slow
def test_single_precision():
    code = """
import numpy as np, pymc as pm, pymc_sph
with pm.Model() as model:
    b = pm.Normal("b", 0, 5, shape=2)
    pm.Normal("y", b[0] + b[1] * np.linspace(-1, 1, 20), 0.1, observed=np.linspace(-2, 2, 20))
    approx = pm.fit(method="sph", random_seed=1, progressbar=False)
    draws = approx.sample(2000, random_seed=2)
mean = draws["posterior"]["b"].values[0].mean(axis=0)
np.testing.assert_allclose(mean, [0, 2], atol=0.02)
assert draws["posterior"]["b"].dtype == "float32"
assert approx.sample_node(b, size=7).eval().shape == (7, 2)
assert np.isfinite(approx.set_size_and_deterministic(approx.logq, 3, False).eval()).all()
"""
    env = os.environ | {"PYTENSOR_FLAGS": os.environ.get("PYTENSOR_FLAGS", "") + ",floatX=float32"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
