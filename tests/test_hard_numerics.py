"""Hard log densities: the right posterior, a clear error, or an honest verdict; never a hang.

Each posterior has a closed form. Where a verdict is not "unreliable" it is held to that form.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from scipy import stats

from pymc_sph import GradientError, InitialPointError, StartError, UnreliableFitWarning

N = 300
"""Steps: enough for all of these, and a bound where a fit would never come to an end."""


def fit(model, draws=4000, n=N, **settings):
    """Approximation, and draws (draws, *shape) by name; the verdict is for the caller to judge."""
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableFitWarning)
        approx = pm.fit(
            n, method="sph", random_seed=3, progressbar=False, inf_kwargs={"threads": 1, **settings}
        )
        data = approx.sample(draws, random_seed=4)
    posterior = data["posterior"]
    return approx, {str(name): x.values[0] for name, x in posterior.data_vars.items()}


def weighted(approx, draws=1000):
    """Importance-corrected draws (chains * draws, *shape) by name."""
    posterior = approx.sample_chains(draws, random_seed=5)["posterior"]
    return {str(name): np.concatenate(list(x.values)) for name, x in posterior.data_vars.items()}


def matches(x, mean, sd, error=0.1):
    """Mean and sd of draws, as far as a reliable fit promises: `error` sds."""
    np.testing.assert_allclose((x.mean(axis=0) - mean) / sd, 0, atol=error)
    np.testing.assert_allclose(np.log(x.std(axis=0) / sd), 0, atol=error)


def test_no_density_on_half_the_space():
    """A half normal, cut out of a normal by a potential: no draw from the void."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, initval=1.0)
        pm.Potential("bound", pt.switch(x > 0, 0.0, -np.inf))
    approx, draws = fit(model)
    assert draws["x"].min() > 0
    assert approx.log_evidence == pytest.approx(np.log(0.5), abs=0.1)
    if approx.verdict.grade == "reliable":
        matches(draws["x"], *half_normal())
    else:  # then the weights mend it, or the verdict says that nothing does
        assert approx.verdict.grade in ("use the weights", "unreliable")
        assert approx.verdict.reason


def half_normal():
    return np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)


@pytest.mark.slow
def test_no_density_on_half_the_space_in_ten_dimensions():
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, shape=10, initval=np.ones(10))
        pm.Potential("bound", pt.switch(x[0] > 0, 0.0, -np.inf))
    approx, draws = fit(model)
    assert draws["x"][:, 0].min() > 0
    if approx.verdict.grade == "reliable":
        matches(draws["x"][:, 0], *half_normal())
        matches(draws["x"][:, 1:], 0, 1)
    assert approx.log_evidence == pytest.approx(np.log(0.5), abs=0.1)


def test_gradients_that_are_nan_in_a_region():
    """sqrt of a negative number under a switch: log p is fine everywhere, its gradient is not."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, shape=2, initval=[1.0, 1.0])
        root = pt.switch(x[0] > -0.5, pt.sqrt(x[0] + 0.5), 0.0)
        pm.Potential("nothing", 0.0 * root)
    approx, draws = fit(model)
    if approx.verdict.grade == "reliable":
        matches(draws["x"], 0, 1)
    else:
        assert approx.verdict.reason
    # the weights need values alone, and mend what the gradients do not show
    assert approx.log_evidence == pytest.approx(0, abs=0.1) or approx.verdict.grade == "unreliable"


@pytest.mark.parametrize("formulation", ["force", pytest.param("pressure", marks=pytest.mark.slow)])
def test_scales_from_1e_minus_8_to_1e8(formulation):
    scales = np.array([1e-8, 1e-4, 1.0, 1e4, 1e8])
    with pm.Model() as model:
        pm.Normal("x", 3 * scales, scales, shape=5)
    approx, draws = fit(model, formulation=formulation)
    assert np.isfinite(draws["x"]).all()
    if approx.verdict.grade == "reliable":
        matches(draws["x"], 3 * scales, scales)
        assert approx.log_evidence == pytest.approx(0, abs=0.05)
    elif approx.verdict.grade == "use the weights":
        matches(weighted(approx)["x"], 3 * scales, scales, error=0.25)
    # a start holds sds that differ by up to 1e8; these differ by 1e16
    assert formulation == "pressure" or approx.verdict.grade != "unreliable", approx.verdict


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_one_dimension_of_an_extreme_scale(scale):
    """A normal posterior of one parameter, far from its prior's mean in its own sds."""
    data = scale * np.array([4.0, 5.0, 6.0])
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 100 * scale)
        pm.Normal("y", mu, scale, observed=data)
    precision = 3 + 1e-4
    approx, draws = fit(model)
    assert approx.verdict.grade == "reliable", approx.verdict
    matches(draws["mu"], scale * 15 / precision, scale / np.sqrt(precision))


def improper_in_one_direction():
    with pm.Model() as model:
        a, b = pm.Flat("a"), pm.Flat("b")
        pm.Normal("y", a + b, 1, observed=[0.5, 1.0])
    return model


def improper_beyond_a_slope():
    with pm.Model() as model:
        x = pm.Flat("x", initval=0.0)
        pm.Potential("slope", -pt.log1p(pt.exp(x)))  # flat to the left
    return model


def unbounded():
    with pm.Model() as model:
        x = pm.Flat("x", initval=1.0)
        pm.Potential("rising", x**2)
    return model


def unbounded_at_a_point():
    """Two data and a scale each: the density is infinite where one scale is 0."""
    with pm.Model() as model:
        mu = pm.Flat("mu", initval=0.3)
        sigma = pm.HalfFlat("sigma", shape=2, initval=[1.0, 1.0])
        pm.Normal("y", mu, sigma, observed=[0.0, 1.0])
    return model


@pytest.mark.parametrize(
    "make", [improper_in_one_direction, improper_beyond_a_slope, unbounded_at_a_point]
)
def test_no_posterior_is_unreliable_and_says_why(make):
    with warnings.catch_warnings():
        # an overflow on the way to infinity would be one more message, that helps nobody
        warnings.simplefilter("error")
        approx, _ = fit(make(), 20, n=60)
    assert approx.verdict.grade == "unreliable", approx.verdict
    assert approx.verdict.reason and approx.verdict.advice


def test_a_log_density_that_rises_without_bound_has_no_start():
    """It reaches 1e308 at once, where no sum of it is finite; else the verdict would tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            approx, _ = fit(unbounded(), 20, n=60)
        except StartError as err:
            assert "finite" in str(err)
        else:
            assert approx.verdict.grade == "unreliable", approx.verdict


@pytest.mark.parametrize("correlation", [1 - 1e-6, 1 - 1e-12])
def test_parameters_that_are_almost_perfectly_correlated(correlation):
    """Sum and difference are independent; their sds differ by a factor of up to 1.4e6."""
    difference = np.sqrt(2 * (1 - correlation))
    with pm.Model() as model:
        x = pm.Flat("x", shape=2, initval=[0.3, 0.2])
        pm.Normal("mean", (x[0] + x[1]) / 2, 1, observed=1.0)
        pm.Normal("difference", x[0] - x[1], difference, observed=0.0)
    approx, draws = fit(model)
    assert approx.verdict.grade == "reliable", approx.verdict
    matches(draws["x"].mean(axis=1), 1, 1)
    matches(draws["x"][:, 0] - draws["x"][:, 1], 0, difference)


def test_a_parameter_twice():
    """Only the sum is known beyond the prior: exact, degenerate to one part in 1e8."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1, shape=2)
        pm.Normal("y", x[0] + x[1], 1e-8, observed=0.5)
    approx, draws = fit(model)
    if approx.verdict.grade == "reliable":
        np.testing.assert_allclose(draws["x"].sum(axis=1), 0.5, atol=1e-7)
        matches(draws["x"][:, 0] - draws["x"][:, 1], 0, np.sqrt(2))
    elif approx.verdict.grade == "use the weights":
        draws = weighted(approx)
        np.testing.assert_allclose(draws["x"].sum(axis=1), 0.5, atol=1e-7)
        matches(draws["x"][:, 0] - draws["x"][:, 1], 0, np.sqrt(2), error=0.25)
    assert approx.verdict.reason


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1e-6, 1e-6), (1e6, 2e6)])
def test_a_bounded_variable_without_data(bounds):
    """Constant log p: the uniform distribution itself."""
    with pm.Model() as model:
        pm.Uniform("x", *bounds)
    approx, draws = fit(model)
    assert draws["x"].min() >= bounds[0] and draws["x"].max() <= bounds[1]
    assert approx.verdict.grade == "reliable", approx.verdict
    width = bounds[1] - bounds[0]
    matches(draws["x"], np.mean(bounds), width / np.sqrt(12))
    assert stats.kstest(draws["x"], stats.uniform(bounds[0], width).cdf).statistic < 0.03
    assert approx.log_evidence == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("offset", [-1e7, 1e7, -1e12])
def test_a_log_density_far_from_zero(offset):
    """A constant drops out; evidence moves by it, as far as float64 holds the difference."""
    with pm.Model() as model:
        x = pm.Normal("x", 2, 3, shape=2)
        pm.Potential("constant", pt.as_tensor(offset))
        pm.Normal("y", x, 3, observed=[0.0, 0.0])
    approx, draws = fit(model)
    if abs(offset) < 1e10:
        assert approx.verdict.grade == "reliable", approx.verdict
        exact = offset + stats.norm(2, np.sqrt(18)).logpdf(0) * 2
        assert approx.log_evidence == pytest.approx(exact, abs=0.05)
    if approx.verdict.grade == "reliable":
        matches(draws["x"], 1, 3 / np.sqrt(2))


def test_a_million_data():
    """Log p about -1.4e6 from data, and an sd of .001."""
    data = np.random.default_rng(0).normal(5, 1, 1_000_000)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 100)
        pm.Normal("y", mu, 1, observed=data)
    approx, draws = fit(model)
    assert approx.verdict.grade == "reliable", approx.verdict
    matches(draws["mu"], data.mean(), 1e-3)


def test_nan_in_data_names_the_variable():
    """PyMC imputes NaN in `observed=array` and refuses it in pm.Data; not what is set later."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 1)
        data = pm.Data("measured", [1.0, 2.0])
        pm.Normal("good", mu, 1, observed=[0.3])
        pm.Normal("y", mu, 1, observed=data)
    data.set_value(np.array([1.0, np.nan]))
    with pytest.raises(InitialPointError, match=r"because of: y \(log p = nan\)"):
        fit(model)


def test_nan_in_a_predictor_names_the_variable():
    with pm.Model() as model:
        b = pm.Normal("b", 0, 1)
        pm.Normal("y", b * np.array([1.0, np.nan]), 1, observed=[1.0, 2.0])
    with pytest.raises(InitialPointError, match=r"\by \(log p = nan\)"):
        fit(model)


def test_infinite_data_name_the_variable():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 1)
        pm.Normal("y", mu, 1, observed=[1.0, np.inf])
    with pytest.raises(InitialPointError, match=r"\by \(log p = -inf\)"):
        fit(model)


def test_nothing_depends_on_the_parameter():
    with pm.Model() as model:
        pm.Flat("x")
        pm.Normal("y", 0, 1, observed=[1.0])
    with pytest.raises(GradientError, match="not depend on the free variables x"):
        fit(model)


SINGLE = """
import warnings
import numpy as np, pymc as pm, pymc_sph
def fit(model):
    with model, warnings.catch_warnings():
        warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)
        approx = pm.fit(200, method="sph", random_seed=1, progressbar=False)
        draws = approx.sample(2000, random_seed=2)
    return approx, {k: v.values[0] for k, v in draws["posterior"].data_vars.items()}
with pm.Model() as scales:
    pm.Normal("x", np.array([0.0, 0.0]), np.array([1e-3, 1e3]), shape=2)
with pm.Model() as simplex:
    pm.Dirichlet("p", np.array([2.0, 3.0, 5.0]))
    pm.HalfNormal("s", 1.0)
with pm.Model() as far:  # float32 holds sums of 1e7 to the nearest 1: nothing can be told
    x = pm.Normal("x", 0.0, 1.0)
    pm.Potential("constant", x * 0 - 1e8)
approx, draws = fit(scales)
assert draws["x"].dtype == "float32" and np.isfinite(draws["x"]).all()
assert approx.verdict.grade == "reliable", approx.verdict
sd = draws["x"].astype(float).std(axis=0)
np.testing.assert_allclose(sd, [1e-3, 1e3], rtol=.1)
approx, draws = fit(simplex)
np.testing.assert_allclose(draws["p"].sum(axis=1), 1, atol=1e-5)
assert approx.verdict.grade == "reliable", approx.verdict
np.testing.assert_allclose(draws["p"].mean(axis=0), [.2, .3, .5], atol=.02)
approx, draws = fit(far)
good = approx.verdict.grade == "reliable"
sd = float(draws["x"].std())
assert not good or abs(np.log(sd)) < .1, (approx.verdict, sd)
print(approx.verdict)
"""


@pytest.mark.slow
def test_models_in_single_precision():
    flags = os.environ.get("PYTENSOR_FLAGS", "") + ",floatX=float32"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SINGLE],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTENSOR_FLAGS": flags.lstrip(",")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
