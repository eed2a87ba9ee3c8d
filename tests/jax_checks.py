"""Checks of ``backend="jax"``, on eight simulated devices; `test_jax` runs them in a process.

JAX does not enter the process of the other tests: it warns of every fork after that, and reads the
number of devices once.
"""

from __future__ import annotations

import dataclasses
import os

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from fluids import ill_conditioned, random_fluid
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from small_models import constrained, eight_schools, gaussian_process

import pymc_sph
import pymc_sph.jax_engine

from pymc_sph import BackendError, compile_target
from pymc_sph.fluid.compiled import Stepper
from pymc_sph.fluid.density import draw_noise
from pymc_sph.fluid.state import Fluid, namespace
from pymc_sph.fluid.step import Rates, step
from pymc_sph.mixture import FluidMixture, pooled_field

MIXED = [(Rates(temperature=3.0), "hot"), (Rates(), "cold"), (Rates(dt=0.5, tensor=0.5), "slow")]


class Bent:
    """A Gaussian with a place where p is zero and one where it is unknown, for NumPy and for JAX.

    `rows` keeps the shapes in which the compiled target was called.
    """

    def __init__(self, d, holes):
        self.mean, cov = ill_conditioned(d, 10.0)
        self.precision, self.holes, self.rows = np.linalg.inv(cov), holes, []

    def arguments(self, mesh):
        return self.mean, self.precision

    def __call__(self, theta, mean=None, precision=None):
        xp = namespace(theta)
        mean, precision = (self.mean, self.precision) if mean is None else (mean, precision)
        self.rows.append(theta.shape[0])
        gap = theta - mean
        pulled = gap @ precision
        logp, first = -0.5 * xp.sum(gap * pulled, axis=1), gap[:, 0]
        if self.holes:
            logp = xp.where(first > 1.5, xp.nan, xp.where(first < -1.5, -xp.inf, logp))
        return logp, -pulled


def scene(d, full, n, k):
    """A fluid with light particles, and the noise and rates of twelve steps."""
    rng = np.random.default_rng(d)
    fluid = random_fluid(rng, n=n, d=d, full=full)
    log_m = 3.0 * rng.standard_normal(n)
    fluid = dataclasses.replace(fluid, log_m=log_m - np.log(np.exp(log_m).sum()))
    noises = [draw_noise(np.random.default_rng([d, t]), k, d) for t in range(12)]
    return fluid, [(noise, MIXED[t // 4][0]) for t, noise in enumerate(noises)]


def assert_close(fluid, seen, other, seen_other):
    for field in dataclasses.fields(Fluid):
        one, two = getattr(fluid, field.name), getattr(other, field.name)
        assert two.dtype == "float64"
        np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-8, err_msg=field.name)
    one, two = dataclasses.astuple(seen), dataclasses.astuple(seen_other)
    np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-8)
    assert seen.n_nonfinite == seen_other.n_nonfinite


def assert_same(one, other):
    for field in dataclasses.fields(Fluid):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def walk(stepper, fluid, steps, k, forget=False):
    """Take all steps one by one."""
    out = []
    for t, (_, rates) in enumerate(steps):
        ahead = steps[t:]
        fluid, seen = stepper.take((0,), fluid, rates, k, lambda most, ahead=ahead: ahead[:most])
        out.append((fluid, seen))
        if forget:
            stepper.forget()
    return out


@pytest.fixture(scope="module")
def small():
    target = Bent(3, holes=True)
    return target, Stepper(target, target.arguments, jax.devices())


@pytest.mark.parametrize("case", ["d=3, full, holes", "d=40, diagonal"])
def test_every_step_is_numpys(case, small):
    full = case.startswith("d=3")
    d, n, k = (3, 16, 64) if full else (40, 32, 256)
    target = small[0] if full else Bent(d, holes=False)
    stepper = small[1] if full else Stepper(target, target.arguments, jax.devices())
    fluid, steps = scene(d, full, n, k)
    target.rows.clear()
    compiled = walk(stepper, fluid, steps, k)
    assert len(jax.devices()) == 8 and set(target.rows) == {k // 8}  # each device has its probes
    holes = splits = 0
    for (noise, rates), (after, seen) in zip(steps, compiled, strict=True):
        before = fluid
        fluid, own = step(fluid, noise, target, rates)
        assert_close(fluid, own, after, seen)
        holes += own.n_nonfinite
        splits += np.max(np.abs(fluid.log_m - before.log_m)) > 1.5  # by exchange at most 1
    assert (holes > 0) == full and splits > 0


def test_steps_in_the_density_of_all_fluids_are_numpys(small):
    target, stepper = small
    fluid, [(noise, rates), *_] = scene(3, True, 16, 64)
    other = scene(3, True, 8, 64)[0]
    field = pooled_field(FluidMixture((fluid, other), np.log([0.3, 0.7])))
    rates = dataclasses.replace(rates, frame=0.0)
    own = step(fluid, noise, target, rates, field)
    assert_close(*own, *stepper.once(fluid, noise, rates, field))


def test_no_bit_depends_on_how_many_steps_a_call_takes(small):
    _, stepper = small
    stepper._seconds = 1e-9  # or a slow machine would take them one by one
    fluid, steps = scene(3, True, 16, 64)
    for (one, seen), (two, again) in zip(
        walk(stepper, fluid, steps, 64), walk(stepper, fluid, steps, 64, forget=True), strict=True
    ):
        assert_same(one, two)
        assert seen == again


def test_steps_taken_ahead_are_dropped_when_rates_or_data_change(small):
    target, stepper = small
    fluid, steps = scene(3, True, 16, 64)
    walk(stepper, fluid, steps[:2], 64)  # more are taken ahead
    noise, slow = steps[0][0], Rates(dt=0.3)
    after, seen = stepper.take((0,), fluid, slow, 64, lambda most: [(noise, slow)])
    assert_close(*step(fluid, noise, target, slow), after, seen)
    walk(stepper, fluid, steps[:1], 64)
    before = target.mean
    try:
        target.mean = before + 0.5
        after, seen = stepper.take((0,), fluid, slow, 64, lambda most: [(noise, slow)])
        assert_close(*step(fluid, noise, target, slow), after, seen)
    finally:
        target.mean = before


@pytest.mark.filterwarnings("ignore:Data in y contains missing values")
@pytest.mark.parametrize("build", [constrained, gaussian_process])
def test_rows_are_those_of_the_default_backend(build):
    model = build()
    usual = compile_target(model, compile_kwargs={"mode": "FAST_COMPILE"})
    target = compile_target(model, backend="jax")
    assert target.engine == "jax"
    theta = 0.5 * np.random.default_rng(0).standard_normal((16, target.dim))
    theta[5] = np.nan  # one row leaves the others alone
    with jax.enable_x64(False):  # what the process has chosen for JAX does not matter
        logp, grad = target(theta)
    assert np.isnan(logp[5])
    rows = np.arange(16) != 5
    own, own_grad = usual(theta)
    np.testing.assert_allclose(logp[rows], own[rows], rtol=1e-11)
    np.testing.assert_allclose(grad[rows], own_grad[rows], rtol=1e-9, atol=1e-11)


def test_an_invalid_parameter_and_data_that_change():
    with pm.Model() as model:
        s = pm.Normal("s", 0, 1)
        y = pm.Data("y_data", [0.3, -0.2])
        count = pm.Data("count", np.array(2, dtype="int64"))
        pm.Normal("y", 0, s, observed=y)
        pm.Potential("zeros", pt.sum(pt.zeros(count) + s))  # a number that is a shape
    target, theta = compile_target(model, backend="jax"), np.array([[0.5], [-1.0], [0.7]])

    def expected(y, count):
        s = theta[[0, 2], 0]
        prior = -0.5 * s**2 + count * s - 0.5 * np.log(2 * np.pi)
        like = -0.5 * (np.array(y)[:, None] / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)
        return prior + like.sum(axis=0)

    for data, n in (([0.3, -0.2], 2), ([1.0, 2.0, 3.0], 5)):
        with model:
            pm.set_data({"y_data": data, "count": np.array(n, dtype="int64")})
        logp, _ = target(theta)
        assert logp[1] == -np.inf
        np.testing.assert_allclose(logp[[0, 2]], expected(data, n), rtol=1e-12)


def test_large_data_are_taken_in_blocks_of_rows(monkeypatch):
    from pymc_sph import jax_engine

    x = np.random.default_rng(3).standard_normal((500, 2))
    with pm.Model() as model:
        b = pm.Normal("b", shape=2)
        pm.Bernoulli("y", logit_p=x @ b, observed=(x[:, 0] > 0).astype(int))
    theta = np.random.default_rng(4).standard_normal((16, 2))
    whole = compile_target(model, compile_kwargs={"mode": "FAST_COMPILE"})(theta)
    # some rows of 500 numbers
    monkeypatch.setattr(jax_engine, "BLOCK_BYTES", {"cpu": 3 * 500 * 8})
    for one, two in zip(whole, compile_target(model, backend="jax")(theta), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-12)


def test_a_whole_fit_comes_to_the_same_posterior(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)  # all simulated devices
    few = {"fluids": 2, "particles": 16, "probes": 64}
    fits = []
    for backend in (None, "jax"):
        with pm.Model():
            tau = pm.HalfCauchy("tau", 5)
            pm.Normal("y", pm.Normal("mu", 0, 5), tau, observed=[3.0, -1.0, 4.0, 1.0])
            method = pymc_sph.SPH(random_seed=1, **few)
            fits.append(pm.fit(method=method, backend=backend, progressbar=False))
    assert method._target.engine == "jax"
    usual, fit = fits
    assert fit.result.status == "converged"
    assert fit.result.log_evidence == pytest.approx(usual.result.log_evidence, abs=0.01)
    sd = np.sqrt(np.diag(usual.result.mixture.cov()))
    gap = fit.result.mixture.mean() - usual.result.mixture.mean()
    assert np.max(np.abs(gap) / sd) < 0.02
    np.testing.assert_allclose(np.sqrt(np.diag(fit.result.mixture.cov())), sd, rtol=0.03)


class Triple(Op):
    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(3 * inputs[0])

    def grad(self, inputs, gradients):
        return [3.0 * gradients[0]]

    def pullback(self, inputs, outputs, gradients):
        return [3.0 * gradients[0]]


def test_models_that_jax_cannot_run():
    with pm.Model() as model:
        pm.Potential("likelihood", -(Triple()(pm.Normal("x")) ** 2))
    with pytest.raises(BackendError, match=r"(?s)Triple.*backend=None"):
        compile_target(model, backend="jax")
    with pm.Model() as noisy:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, observed=pm.Minibatch(np.arange(9.0), batch_size=3), total_size=9)
    with pytest.raises(BackendError, match=r"pm.Minibatch.*backend=None"):
        compile_target(noisy, backend="jax")
    with pytest.raises(BackendError, match=r"engine='loop'.*leave it out"):
        compile_target(eight_schools(), backend="jax", engine="loop")


def test_without_a_gradient_the_values_are_jaxs():
    model = eight_schools()
    target = compile_target(model, backend="jax", formulation="pressure")
    assert target.engine == "jax" and target.stepper is None
    theta = np.zeros((2, target.dim))
    logp, grad = target(theta)
    assert grad is None
    np.testing.assert_allclose(logp, compile_target(model)(theta)[0], rtol=1e-12)
