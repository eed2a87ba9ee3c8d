"""PyMC models without a gradient: the form chosen, rows over processes, errors, and accuracy."""

from __future__ import annotations

import logging

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pymc as pm
import pytest
import reference_models
import small_models

from gradient_blocker import block_gradient

import pymc_sph

from pymc_sph import SPH, GradientError, compile_target

FAST = {"mode": "FAST_COMPILE"}


def target_of(model, **kwargs):
    return compile_target(model, compile_kwargs=FAST, **kwargs)


@pytest.mark.filterwarnings("ignore:Data in y contains missing values")
@pytest.mark.parametrize("build", [small_models.eight_schools, small_models.constrained])
@pytest.mark.parametrize("cores", [1, 2])
def test_values_are_pymcs_and_there_is_no_gradient(build, cores):
    model = build()
    theta = np.random.default_rng(0).standard_normal((11, len(target_of(model).labels)))
    exact = model.compile_logp()
    block_gradient(model)
    target = target_of(model, cores=cores)
    logp, grad = target(theta)
    assert (target.formulation, target.engine, grad) == ("pressure", "rows", None)
    expected = [exact(small_models.as_point(model, row)) for row in theta]
    np.testing.assert_allclose(logp, expected, rtol=1e-9, atol=1e-9)
    assert target.n_evaluations == 11 and target.n_failed == 0
    target.release()


def test_the_form_is_force_where_there_is_a_gradient():
    model = small_models.eight_schools()
    assert target_of(model).formulation == "force"
    assert target_of(model, formulation="pressure").formulation == "pressure"


def test_force_without_gradient_names_the_op_and_the_way_out():
    model = small_models.eight_schools()
    block_gradient(model)
    with pytest.raises(GradientError, match=r"Identity[\s\S]*formulation='pressure'"):
        SPH(model, formulation="force").fit(1, progressbar=False)


def test_a_random_density_is_refused():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        batch = pm.Minibatch(np.arange(50.0), batch_size=10)
        pm.Normal("y", mu, 1, observed=batch, total_size=50)
    with pytest.raises(GradientError, match="Minibatch"):
        target_of(model, formulation="pressure")


def test_workers_see_new_data():
    model = small_models.eight_schools()
    block_gradient(model)
    target = target_of(model, cores=2)
    theta = np.random.default_rng(1).standard_normal((10, target.dim))
    before = target(theta)[0]
    with model:
        pm.set_data({"error": np.full(8, 3.0)})
    after = target(theta)[0]
    np.testing.assert_array_equal(after, target_of(model)(theta)[0])
    assert (after != before).all()
    target.release()


def too_far(x):
    """What a simulator might do where its parameters make no sense."""
    if x[0] > 1.5:
        raise FloatingPointError("step size underflow")


@pytest.fixture(scope="module")
def fits():
    """One fit of a black box that raises, by one process, by two, and by threads."""
    out = []
    with ThreadPoolExecutor(2) as threads:
        for workers in ({}, {"cores": 2}, {"executor": threads}):
            exact = reference_models.conjugate_regression(d=2)
            block_gradient(exact.model, too_far)
            method = SPH(exact.model, random_seed=1, fluids=2, paths=2, draws=500, **workers)
            approx = method.fit(60, progressbar=False, compile_kwargs=FAST)
            out.append((exact, approx))
    return out


def test_results_do_not_depend_on_the_workers(fits):
    (_, one), *others = fits
    for _, other in others:
        assert one.elbo == other.elbo and one.result.n_failed == other.result.n_failed
        np.testing.assert_array_equal(one.result.mixture.mean(), other.result.mixture.mean())


def test_errors_cost_their_probes_alone_and_are_counted(fits):
    exact, approx = fits[0]
    attrs = approx.sample(10, random_seed=0)["posterior"].attrs
    assert attrs["formulation"] == "pressure"
    assert 0 < attrs["n_failed"] < attrs["n_evaluations"] / 2
    # the part of the posterior that never raises is fitted
    sd = np.sqrt(np.diag(exact.cov))
    assert exact.mean[0] + 3 * sd[0] < 1.5
    np.testing.assert_allclose(approx.result.mixture.mean(), exact.mean, atol=0.1 * sd.max())


def test_the_first_error_is_logged_once(caplog):
    exact = reference_models.conjugate_regression(d=2)
    block_gradient(exact.model, too_far)
    with caplog.at_level(logging.INFO, "pymc_sph"):
        SPH(exact.model, random_seed=1, fluids=1, paths=2, draws=500).fit(
            5, progressbar=False, compile_kwargs=FAST
        )
    messages = [record.getMessage() for record in caplog.records]
    assert sum("step size underflow" in message for message in messages) == 1
    assert sum("pressure form" in message and "Identity" in message for message in messages) == 1
    assert sum("Verdict" in message and "(pressure form)" in message for message in messages) == 1


def test_every_evaluation_is_counted():
    exact = reference_models.conjugate_regression(d=2)
    op = block_gradient(exact.model)
    method = SPH(exact.model, random_seed=1, fluids=1, paths=2, draws=500)
    approx = method.fit(5, progressbar=False, compile_kwargs=FAST)
    assert approx.result.n_evaluations == op.calls
    approx = method.refine(3, progressbar=False)  # the first check's evaluations count on
    assert approx.result.n_evaluations == op.calls


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")  # cut off on purpose
def test_draws_have_the_models_variables():
    model = small_models.eight_schools()
    op = block_gradient(model)
    idata = pymc_sph.fit(
        20, 2, model=model, random_seed=1, n=20, progressbar=False, compile_kwargs=FAST
    )
    posterior = idata["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "school")
    expected = posterior["mu"] + posterior["tau"] * posterior["z"]
    np.testing.assert_allclose(posterior["theta"], expected)
    assert op.calls > 0 and posterior.attrs["n_steps"] <= 20


def test_the_start_is_a_draw_from_the_prior_where_it_is_proper():
    with pm.Model() as model:
        pm.Normal("far", 1e4, 1e-3, shape=2)
        pm.Normal("wide", 0, 1e5)
    block_gradient(model)
    points = target_of(model).initial_points(6, 0)
    assert np.abs(points[:, :2] - 1e4).max() < 0.01
    assert np.abs(points[:, 2]).max() > 1e3


@pytest.mark.parametrize(
    "name",
    [
        "kidiq-kidscore_momiq",
        pytest.param("eight_schools-eight_schools_noncentered", marks=pytest.mark.slow),
        pytest.param("nes2000-nes", marks=pytest.mark.slow),
        pytest.param("mesquite-mesquite", marks=pytest.mark.slow),
    ],
)
def test_reference_posterior(name):
    """The bars of the issue; tolerances as in test_posteriors."""
    model, reference = reference_models.load(name)
    block_gradient(model)
    with model:
        approx = pm.fit(method="sph", random_seed=1, progressbar=False)
        posterior = approx.sample(4_000, random_seed=1)["posterior"]
    errors = reference.errors({key: posterior[key].values for key in posterior.data_vars})
    assert errors["max_mean"] <= 0.10, errors["mean"]
    assert errors["max_log_sd"] <= 0.10, errors["log_sd"]
    assert approx.result.n_evaluations <= 4 * 60_000
    assert approx.verdict.grade != "unreliable", str(approx.verdict)
