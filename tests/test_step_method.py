"""The Metropolis step against closed forms, with proposals that are poor on purpose."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pymc.exceptions import SamplingError
from scipy.stats import norm

from pymc_sph import FluidApproximation, FluidMetropolis, MismatchError, idata
from pymc_sph.fluid.state import Fluid
from pymc_sph.mixture import FluidMixture

SAMPLE = {
    "chains": 4,
    "tune": 200,
    "progressbar": False,
    "compute_convergence_checks": False,
    "cores": 1,
}


def gaussian_q(model, mean, sd):
    """An approximation N(mean, diag(sd^2)), whatever the model's posterior is."""
    mean, sd = np.atleast_1d(mean).astype(float), np.atleast_1d(sd).astype(float)
    d = len(mean)
    fluid = Fluid(
        z=np.zeros((1, d)),
        u=np.zeros((1, d)),
        A=np.eye(d)[None],
        log_m=np.zeros(1),
        mu=mean,
        L=np.diag(sd),
    )
    approx = FluidApproximation(model)
    approx.update(FluidMixture((fluid,), np.zeros(1)))
    return approx


def chains(data, name, group="posterior"):
    return idata.group(data, group)[name].values


def assert_mean(draws, exact, z=4.5):
    """The mean of draws (chains, n) is right within the error by batch means."""
    batches = draws.reshape(draws.shape[0] * 25, -1).mean(axis=1)
    error = batches.std(ddof=1) / np.sqrt(len(batches))
    assert abs(batches.mean() - exact) < z * error
    return error


# --- one block of continuous variables


@pytest.fixture(scope="module")
def two_modes():
    """x in two modes of weights .2 and .8, and a scale; a proposal that is shifted and wide."""
    with pm.Model() as model:
        pm.NormalMixture("x", [0.2, 0.8], mu=[-2.0, 2.0], sigma=[0.5, 0.7])
        pm.LogNormal("s", 0.3, 0.6)
    approx = gaussian_q(model, [-0.5, -0.2], [3.0, 1.1])
    with model:
        data = pm.sample(4000, step=FluidMetropolis(approx), random_seed=1, **SAMPLE)
    return model, approx, data


def two_modes_densities(x, log_s):
    """Log p and log q, unconstrained space."""
    log_p = np.log(0.2 * norm.pdf(x, -2, 0.5) + 0.8 * norm.pdf(x, 2, 0.7))
    log_q = norm.logpdf(x, -0.5, 3) + norm.logpdf(log_s, -0.2, 1.1)
    return log_p + norm.logpdf(log_s, 0.3, 0.6), log_q


def test_moments_and_mode_weights_are_exact(two_modes):
    data = two_modes[2]
    x, log_s = chains(data, "x"), np.log(chains(data, "s"))
    error = assert_mean((x > 0).astype(float), 0.8 * norm.sf(0, 2, 0.7) + 0.2 * norm.sf(0, -2, 0.5))
    assert error < 0.01  # the test would see a wrong weight
    assert_mean(x, 0.8 * 2 - 0.2 * 2)
    assert_mean(x**2, 0.8 * (4 + 0.49) + 0.2 * (4 + 0.25))
    assert_mean(log_s, 0.3)
    assert_mean((log_s - 0.3) ** 2, 0.36)


def test_statistics_of_the_chain(two_modes):
    data = two_modes[2]
    stats = {k: chains(data, k, "sample_stats") for k in ("accept", "accepted", "log_weight", "lp")}
    x, log_s = chains(data, "x"), np.log(chains(data, "s"))
    assert stats["accepted"].dtype == bool
    # mean and error of (accepted - accept), a sequence of martingale differences
    gap = stats["accepted"] - stats["accept"]
    assert abs(gap.mean()) < 4.5 * gap.std() / np.sqrt(gap.size)
    moved = np.diff(x, axis=1) != 0
    np.testing.assert_array_equal(moved, stats["accepted"][:, 1:])
    log_p, log_q = two_modes_densities(x, log_s)
    np.testing.assert_allclose(stats["lp"], log_p, atol=1e-8)
    np.testing.assert_allclose(stats["log_weight"], log_p - log_q, atol=1e-8)
    # the acceptance rate of independence Metropolis by brute force: E min(1, w(y) / w(x))
    rng, n = np.random.default_rng(7), 100_000
    x = np.where(rng.random(n) < 0.2, rng.normal(-2, 0.5, n), rng.normal(2, 0.7, n))
    log_p, log_q = two_modes_densities(x, rng.normal(0.3, 0.6, n))
    new_p, new_q = two_modes_densities(rng.normal(-0.5, 3, n), rng.normal(-0.2, 1.1, n))
    accept = np.exp(np.minimum((new_p - new_q) - (log_p - log_q), 0))
    batches = stats["accept"].reshape(100, -1).mean(axis=1)
    error = np.hypot(batches.std() / 10, accept.std() / np.sqrt(n))
    assert abs(stats["accept"].mean() - accept.mean()) < 4.5 * error


def test_same_seed_same_draws_on_any_number_of_cores(two_modes):
    model, approx, _ = two_modes
    step = FluidMetropolis(approx, model=model)
    quick = SAMPLE | {"chains": 2, "tune": 10}
    with model:
        one = pm.sample(100, step=step, random_seed=3, **quick)
        two = pm.sample(100, step=step, random_seed=3, **quick | {"cores": 2, "mp_ctx": "fork"})
        other = pm.sample(100, step=step, random_seed=4, **quick)
    np.testing.assert_array_equal(chains(one, "x"), chains(two, "x"))
    assert not np.array_equal(chains(one, "x"), chains(other, "x"))
    assert not np.array_equal(*chains(one, "x"))


@pytest.mark.slow  # every process imports PyMC and compiles the model
def test_spawned_processes_draw_the_same(two_modes):
    model, approx, _ = two_modes
    quick = SAMPLE | {"chains": 2, "tune": 10}
    with model:
        step = FluidMetropolis(approx)
        one = pm.sample(50, step=step, random_seed=3, **quick)
        two = pm.sample(50, step=step, random_seed=3, **quick | {"cores": 2, "mp_ctx": "spawn"})
    np.testing.assert_array_equal(chains(one, "x"), chains(two, "x"))


def test_a_pickled_step_goes_on_where_it_was(two_modes):
    model, approx, _ = two_modes
    step = FluidMetropolis(approx, model=model, rng=5)
    point = model.initial_point()
    for _ in range(10):
        point, _ = step.step(point)
    again = cloudpickle.loads(cloudpickle.dumps(step))
    other = FluidMetropolis(approx, model=model, rng=6)
    other.sampling_state = step.sampling_state
    assert [value.name for value in again.vars] == ["x", "s_log__"]
    for _ in range(100):
        one, stats = step.step(point)
        for copy in (again, other):
            same, same_stats = copy.step(point)
            assert same == one and same_stats == stats
        point = one


def test_a_start_far_outside_of_q_does_not_hold_the_chain():
    # at x = -100 log p - log q is about 5,200: no proposal could ever compete
    with pm.Model() as model:
        pm.Normal("x", 0, 1)
    approx = gaussian_q(model, 0.2, 0.7)
    step = FluidMetropolis(approx, model=model, rng=1)
    point, [stats] = step.step({"x": np.array(-100.0)})
    assert abs(point["x"]) < 5 and stats["accepted"] and stats["accept"] == 1
    far, [stats] = step.step({"x": np.array(-100.0)})  # but only once
    assert far["x"] == -100 and not stats["accepted"] and stats["accept"] < 1e-100


def test_proposals_outside_of_the_support_are_rejected():
    # truncation without a transform: q puts half of its mass where p is zero
    with pm.Model() as model:
        pm.HalfNormal("x", 1, default_transform=None)
    approx = gaussian_q(model, 0.0, 1.0)
    with model:
        data = pm.sample(4000, step=FluidMetropolis(approx), random_seed=2, **SAMPLE)
    x, accept = chains(data, "x"), chains(data, "accept", "sample_stats")
    assert (x > 0).all()
    assert_mean(x, np.sqrt(2 / np.pi))
    np.testing.assert_allclose(np.unique(accept.round(12)), [0, 1])
    assert_mean(accept, 0.5)


# --- beside other steps


PRIOR, PLACES, SCALES, NOISE, Y = 0.35, np.array([-1.0, 1.0]), np.array([0.6, 1.0]), 0.8, 0.4
"""A state k in {0, 1}, x given k, and y given x."""


def two_states():
    with pm.Model() as model:
        k = pm.Bernoulli("k", PRIOR)
        x = pm.Normal("x", pt.as_tensor(PLACES)[k], pt.as_tensor(SCALES)[k])
        pm.Normal("y", x, NOISE, observed=Y)
    return model


def two_states_exactly():
    """P(k = 1 | y), and means and variances of x given k and y."""
    evidence = np.array([1 - PRIOR, PRIOR]) * norm.pdf(Y, PLACES, np.hypot(SCALES, NOISE))
    variance = 1 / (1 / SCALES**2 + 1 / NOISE**2)
    return evidence[1] / evidence.sum(), variance * (PLACES / SCALES**2 + Y / NOISE**2), variance


@pytest.fixture(scope="module")
def states():
    with pm.Model() as marginal:  # what a user would fit: k summed out
        x = pm.NormalMixture("x", [1 - PRIOR, PRIOR], PLACES, SCALES)
        pm.Normal("y", x, NOISE, observed=Y)
    model = two_states()
    approx = gaussian_q(marginal, 0.5, 1.2)
    with model:
        step = FluidMetropolis(approx)
        data = pm.sample(6000, step=step, random_seed=4, **SAMPLE)
    return approx, data


def test_the_law_beside_a_discrete_variable_is_exact(states):
    data = states[1]
    k, x = chains(data, "k").astype(float), chains(data, "x")
    share, mean, variance = two_states_exactly()
    error = assert_mean(k, share)
    assert error < 0.01
    for state in (0, 1):
        here = k == state
        # E[1(k = state) (x - mean)] = 0 and so on: no ratio of two random means
        assert_mean(here * (x - mean[state]), 0.0)
        assert_mean(here * ((x - mean[state]) ** 2 - variance[state]), 0.0)


def test_the_weight_of_the_current_point_follows_the_other_variables(states):
    step = FluidMetropolis(states[0], model=two_states(), rng=1)
    assert [value.name for value in step.vars] == ["x"]
    point, _ = step.step({"x": np.array(0.0), "k": np.array(0)})
    for k in (0, 1, 1, 0):
        # a stale weight would be that of the other k
        point, [stats] = step.step(point | {"k": np.array(k)})
        log_p = np.log([1 - PRIOR, PRIOR][k]) + norm.logpdf(point["x"], PLACES[k], SCALES[k])
        log_p += norm.logpdf(Y, point["x"], NOISE)
        log_q = norm.logpdf(point["x"], 0.5, 1.2)
        np.testing.assert_allclose(stats["log_weight"], log_p - log_q, atol=1e-9)
        assert point["k"] == k and "model_logp" not in stats


def test_new_data_between_two_runs_are_seen():
    with pm.Model():
        shift = pm.Data("shift", 0.0)
        x = pm.Normal("x", 0, 1)
        pm.Normal("y", x + shift, 1, observed=0.0)
        approx = pm.fit(method="sph", random_seed=1, progressbar=False)
        step = FluidMetropolis(approx)
        pm.sample(50, step=step, random_seed=1, **SAMPLE)
        pm.set_data({"shift": 1.0})
        data = pm.sample(2000, step=step, random_seed=1, **SAMPLE)
    assert_mean(chains(data, "x"), -0.5)
    np.testing.assert_allclose(
        chains(data, "lp", "sample_stats"),
        norm.logpdf(chains(data, "x")) + norm.logpdf(0, chains(data, "x") + 1, 1),
        atol=1e-8,
    )


# --- errors


def test_errors_name_the_variable(two_modes):
    approx = two_modes[1]
    with pytest.raises(TypeError, match="the approximation that pm"):
        FluidMetropolis("sph", model=two_modes[0])
    with pytest.raises(RuntimeError, match="Nothing has been fitted yet"):
        FluidMetropolis(FluidApproximation(two_modes[0]))
    with pm.Model():
        pm.Normal("x", 0, 1, shape=2)
        pm.Normal("s", 0, 1)
        with pytest.raises(MismatchError) as caught:
            FluidMetropolis(approx)
    message = str(caught.value)
    assert "x has the shape (2,) instead of ()" in message
    assert "s_log__ is missing" in message and "The model has x, s." in message
    with pm.Model():
        pm.Poisson("x", 1)
        pm.LogNormal("s", 0, 1)
        with pytest.raises(MismatchError, match="x is discrete"):
            FluidMetropolis(approx)


def test_a_random_density_is_refused():
    with pm.Model() as model:
        x = pm.Normal("x", 0, 1)
        batch = pm.Minibatch(np.arange(100.0), batch_size=10)
        pm.Normal("y", x, 1, observed=batch, total_size=100)
    with pytest.raises(MismatchError, match="Minibatch"):
        FluidMetropolis(gaussian_q(model, 0, 1), model=model)


def test_a_proposal_that_never_hits_the_support_gives_up():
    with pm.Model() as model:
        pm.HalfNormal("x", 1, default_transform=None)
    step = FluidMetropolis(gaussian_q(model, -50.0, 0.5), model=model, rng=1)
    with pytest.raises(SamplingError, match="fit again"):
        for _ in range(1000):
            step.step({"x": np.array(1.0)})
