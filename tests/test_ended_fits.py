"""How a fit may end before its time: stopped, interrupted, by an error, or with no step at all."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest

import pymc_sph

from pymc_sph import SPH, SettingsError
from pymc_sph.ensemble import Ensemble

Y = 1 + 0.3 * np.random.default_rng(0).standard_normal(30)


@pytest.fixture(scope="module")
def inference():
    """Compiled once; fit() starts anew every time."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 5)
        pm.Normal("y", mu, pm.HalfNormal("sigma"), observed=Y)
    return SPH(model, random_seed=1)


def at_step(n, error):
    """A callback that raises at step n."""

    def callback(approx, losses, i):
        if i == n:
            raise error

    return callback


def draws(approx, name="sigma"):
    return approx.sample(5, random_seed=0)["posterior"][name].values


def test_an_interrupted_fit_is_kept_and_labelled(inference):
    approx = inference.fit(callbacks=[at_step(2, KeyboardInterrupt())], progressbar=False)
    assert approx.status == "interrupted" and approx.verdict.grade != "reliable"
    assert len(approx.hist) == 2
    assert draws(approx).shape == (1, 5)


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), MemoryError("mine"), SystemExit(3)])
def test_an_error_passes_on_and_the_fluids_are_kept(inference, error):
    with pytest.raises(type(error)) as caught:
        inference.fit(callbacks=[at_step(3, error)], progressbar=False)
    assert caught.value is error
    approx = inference.approx
    assert approx.status == "failed" and approx.attrs["status"] == "failed"
    assert len(inference.hist) == len(approx.hist) == 3
    # whatever raised was not in the way of the check, but the process is on its way out
    assert (approx.result is None) == isinstance(error, SystemExit)
    assert np.isfinite(draws(approx)).all()


def test_a_fit_goes_on_after_an_error(inference):
    broken = [at_step(3, ZeroDivisionError("mine"))]
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        inference.fit(callbacks=broken, progressbar=False)
    assert any("step 3" in note and "refine" in note for note in caught.value.__notes__)
    approx = inference.refine(2, progressbar=False)  # of steps 4 and 5
    assert len(approx.hist) == 5 and approx.result.n_steps == 5 and approx.status == "max_steps"


@pytest.mark.parametrize("error", [RuntimeError("mine"), MemoryError()])
def test_an_error_of_the_target_is_not_hidden_by_the_check_it_spoils(inference, error, monkeypatch):
    inference.fit(1, progressbar=False)  # compiles
    target = inference._target
    whole = type(target).__call__

    def failing(self, theta):
        if inference._ensemble is not None and inference._ensemble.n_steps >= 4:
            raise error
        return whole(self, theta)

    inference._ensemble = None
    monkeypatch.setattr(type(target), "__call__", failing)
    with pytest.raises(type(error)) as caught:
        inference.fit(progressbar=False)
    assert caught.value is error and caught.value.__context__ is None
    monkeypatch.undo()
    approx = inference.approx
    assert approx.status == "failed" and approx.verdict is None and np.isnan(approx.elbo)
    assert len(approx.hist) == 4
    mean = inference._ensemble.mixture().mean()
    np.testing.assert_array_equal(approx.mixture.mean(), mean)  # of the last whole step
    assert np.isfinite(draws(approx)).all()


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("check"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_error_of_the_check_leaves_the_fluids(inference, error, status, monkeypatch):
    def finish(*arguments):
        raise error

    monkeypatch.setattr(Ensemble, "finish", finish)
    with pytest.raises(type(error)) as caught:
        inference.fit(2, progressbar=False)
    assert caught.value is error
    assert inference.approx.status == status and inference.approx.verdict is None
    assert len(inference.approx.hist) == 2
    assert "elbo" not in inference.approx.attrs
    assert draws(inference.approx).shape == (1, 5)


def test_no_step_leaves_the_fluids_at_their_starts(inference):
    approx = inference.fit(0, progressbar=False)
    assert len(approx.hist) == 0 and approx.result.n_steps == 0
    assert approx.status == "max_steps" and approx.verdict is not None
    for simulation, fluid in zip(
        inference._ensemble.simulations, approx.mixture.fluids, strict=True
    ):
        # they have met, which settles the masses; all else is as it was
        np.testing.assert_array_equal(simulation.fluid.z, fluid.z)
        np.testing.assert_array_equal(simulation.fluid.A, fluid.A)
        assert (fluid.u == 0).all()
    # near enough to the posterior, which is close to a Gaussian
    assert approx.mixture.mean()[0] == pytest.approx(Y.mean(), abs=0.2)
    assert approx.elbo <= approx.log_evidence + 3 * approx.log_evidence_se
    assert draws(approx).shape == (1, 5)
    assert inference.refine(0, progressbar=False) is approx and len(approx.hist) == 0
    inference.refine(2, progressbar=False)
    assert len(approx.hist) == 2


def test_no_step_does_not_warn_however_bad_the_start():
    with pm.Model():
        pm.Normal("x", 0, pm.math.exp(pm.Normal("log_sd", 0, 3)), shape=9)  # Neal's funnel
        approx = pm.fit(0, method="sph", random_seed=1, progressbar=False)
    assert approx.verdict.grade == "unreliable"


@pytest.mark.parametrize("n", [-1, 2.5, float("nan"), float("inf"), "10", None, True, 10**400])
def test_n_is_a_number_of_steps(inference, n):
    for method in (inference.fit, inference.refine):
        with pytest.raises(SettingsError, match=r"^n=.*: give an integer of at least 0"):
            method(n)
    with inference.model, pytest.raises(SettingsError, match=r"^n="):
        pymc_sph.fit(n=n)
    with pytest.raises(SettingsError, match=r"^n="):
        pymc_sph.fit_density(lambda x: (-(x**2).sum(1), -2 * x), 2, n=n)


def test_a_model_that_has_grown_is_compiled_anew():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 1)
        method = pymc_sph.SPH(random_seed=1, fluids=1)
        approx = method.fit(progressbar=False)
        step = pymc_sph.FluidMetropolis(approx)
        assert step is not None and approx._target.serves(model)
        pm.Normal("late", mu, 0.5, observed=2.0)
        assert not approx._target.serves(model)
        again = method.fit(progressbar=False)
    # normal prior and one observation: mean 2 / 1.25
    assert again.mixture.mean()[0] == pytest.approx(1.6, abs=0.02)


def test_points_have_the_dimension_that_is_given():
    with pytest.raises(SettingsError, match=r"points of shape \(4, 3\): give an array \(P, 2\)"):
        pymc_sph.fit_density(lambda x: (-(x**2).sum(1), -2 * x), 2, points=np.zeros((4, 3)))
