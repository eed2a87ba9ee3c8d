"""SPH in pm.fit: the arguments, callbacks, seeds, errors; draws, containers and ArviZ."""

from __future__ import annotations

import json
import pickle

import arviz as az
import cloudpickle
import numpy as np
import pymc as pm
import pytest

import pymc_sph

from pymc_sph import SPH, SettingsError
from pymc_sph.idata import PYMC_5, group_names

X = np.linspace(-1, 1, 30)
Y = 1 + 2 * X + 0.3 * np.random.default_rng(0).standard_normal(30)


@pytest.fixture(scope="module")
def model():
    with pm.Model(coords={"row": np.arange(30), "coefficient": ["intercept", "slope"]}) as model:
        x = pm.Data("x", X, dims="row")
        beta = pm.Normal("beta", 0, 5, dims="coefficient")
        sigma = pm.HalfNormal("sigma", 1)
        mean = pm.Deterministic("mean", beta[0] + beta[1] * x, dims="row")
        pm.Normal("y", mean, sigma, observed=Y, dims="row")
    return model


@pytest.fixture(scope="module")
def inference(model):
    """Compiled once; fit() starts anew every time."""
    return SPH(model, random_seed=1)


@pytest.fixture(scope="module")
def approx(model):
    with model:
        return pm.fit(method="SPH", random_seed=1, progressbar=False)


@pytest.fixture
def idata(approx):
    return approx.sample(300, random_seed=2)


def variable(data, name, group="posterior"):
    return data[group][name].values


def groups(data):
    return set(group_names(data))


# --- pm.fit


def test_result_is_a_pymc_approximation(approx):
    assert isinstance(approx, pm.variational.opvi.Approximation)
    assert approx.status == "converged" and approx.verdict.grade == "reliable"
    assert approx.hist[-1] == pytest.approx(-approx.elbo, abs=0.2)
    # log Z >= ELBO, and close to it for a posterior this plain
    assert approx.elbo <= approx.log_evidence + 3 * approx.log_evidence_se
    assert approx.log_evidence - approx.elbo < 0.05


def test_same_seed_same_bits(approx, inference):
    again = pm.fit(method=inference, progressbar=False, model=inference.model)
    np.testing.assert_array_equal(again.hist, approx.hist)
    one, two = (variable(a.sample(50, random_seed=3), "beta") for a in (approx, again))
    np.testing.assert_array_equal(one, two)
    other = SPH(inference.model, random_seed=2)
    other._target, other._options = inference._target, inference._options
    assert not np.array_equal(other.fit(progressbar=False).hist[:5], approx.hist[:5])


def test_n_is_the_largest_number_of_steps_and_refine_goes_on(inference):
    approx = inference.fit(3, progressbar=False, tol=1e-9)
    assert len(approx.hist) == 3 and approx.status == "max_steps"
    inference.refine(4, progressbar=False)
    assert len(approx.hist) == 7 and approx.result.n_steps == 7
    inference.fit(1, progressbar=False, tol=0.01)
    assert len(inference.hist) == 1
    with pytest.raises(TypeError, match="fit"):
        SPH(inference.model).refine(1)


def test_callbacks_see_a_fluid_that_moves_and_may_stop_it(inference):
    seen = []

    def callback(approx, losses, i):
        seen.append((approx.params[0].get_value(), len(losses), i))
        if i == 3:
            raise StopIteration("enough")

    approx = inference.fit(callbacks=[callback], progressbar=False)
    assert [(n, i) for _, n, i in seen] == [(1, 1), (2, 2), (3, 3)]
    assert not np.array_equal(seen[0][0], seen[1][0])
    assert approx.status == "stopped"
    assert np.isfinite(variable(approx.sample(10, random_seed=0), "sigma")).all()


def test_pymcs_own_callbacks_work(inference):
    from pymc.variational.callbacks import CheckParametersConvergence, Tracker

    tracker = Tracker(first=lambda approx, losses, i: losses is None)
    check = CheckParametersConvergence(every=2, tolerance=1e-12)
    inference.fit(6, score=False, callbacks=[tracker, check], progressbar=False)
    assert tracker["first"] == [True] * 6
    assert len(inference.hist) == 0


def test_start_and_inf_kwargs(model):
    start = {"beta": np.array([1.0, 2.0]), "sigma": 0.3}
    with model:
        approx = pm.fit(
            2,
            method="sph",
            start=start,
            random_seed=3,
            inf_kwargs={"fluids": 2, "particles": 8},
            progressbar=False,
        )
    assert len(approx.mixture.fluids) == 2
    assert approx.mixture.fluids[0].n_particles == 8


def test_state_holds_the_moments_of_the_variables(inference):
    approx = inference.fit(progressbar=False, include_transformed=True)
    draws = approx.sample(20_000, random_seed=6, include_transformed=True)
    for name, group in (("beta", "posterior"), ("sigma", "posterior"),
                        ("sigma_log__", "unconstrained_posterior")):  # fmt: skip
        x = variable(draws, name, group)[0]
        # of 2,000 draws: standard errors .022 and .016 sd
        np.testing.assert_allclose(approx.state.mean[name], x.mean(0), atol=0.1 * x.std(0).max())
        np.testing.assert_allclose(approx.state.std[name], x.std(0), rtol=0.1)
    assert "sigma_log__" not in inference.fit(1, progressbar=False).state.mean


def test_sample_names_itself_and_what_it_takes(approx, idata):
    for name in ("sample", "sample_chains"):
        with pytest.raises(TypeError, match=rf"^{name}\(\) .*'foo'.*coords.*log_prior"):
            getattr(approx, name)(10, foo=1)
        for draws in (0, -1, 2.5, "ten", None):
            with pytest.raises(SettingsError, match=r"draws=.*at least 1"):
                getattr(approx, name)(draws)
    with approx.model, pytest.raises(TypeError, match=r"^fit\(\) .*'foo'"):
        pymc_sph.fit(idata_kwargs={"foo": 1})
    out = approx.sample(10, random_seed=2, log_likelihood=["y"], log_prior=True)
    assert variable(out, "y", "log_likelihood").shape == (1, 10, 30)
    parts = (("beta", "log_prior"), ("sigma", "log_prior"), ("y", "log_likelihood"))
    whole = sum(variable(out, *part).reshape(1, 10, -1).sum(axis=-1) for part in parts)
    # the Jacobian of the logarithm is what `lp` has more
    jacobian = np.log(variable(out, "sigma"))
    np.testing.assert_allclose(variable(out, "lp", "sample_stats"), whole + jacobian, rtol=1e-9)


def test_a_pickled_fit_draws_the_same(approx, inference):
    def assert_same(other):
        one, two = (a.sample(20, random_seed=3) for a in (approx, other))
        for group, name in (("posterior", "beta"), ("posterior", "mean"), ("sample_stats", "lp")):
            np.testing.assert_array_equal(variable(one, name, group), variable(two, name, group))
        np.testing.assert_allclose(other.mean.eval(), approx.mean.eval())
        assert other.verdict == approx.verdict

    approx.sample(1)  # fills what is kept for the next draw
    assert_same(cloudpickle.loads(cloudpickle.dumps(approx)))
    inference.fit(progressbar=False)
    again = cloudpickle.loads(cloudpickle.dumps(inference))
    assert_same(again.approx)
    assert again.refine(2, progressbar=False).result.n_steps == approx.result.n_steps + 2


@pytest.mark.filterwarnings("ignore:Incompatible coordinate length")
def test_draws_whose_log_p_cannot_be_computed_say_so(model, inference):
    approx = inference.fit(1, progressbar=False)
    with model:
        pm.set_data({"x": X[:5]}, coords={"row": np.arange(5)})
        try:
            with pytest.warns(UserWarning, match="set_data has changed"):
                out = approx.sample(10)
        finally:
            pm.set_data({"x": X}, coords={"row": np.arange(30)})
    assert variable(out, "mean").shape == (1, 10, 5)


def test_registration_can_be_undone_and_repeated():
    plain = pm.fit
    assert pickle.loads(pickle.dumps(plain)) is plain
    pymc_sph.register()
    assert pm.fit is plain
    pymc_sph.unregister()
    pymc_sph.unregister()
    assert pm.fit is not plain and pm.variational.fit is pm.fit
    pymc_sph.register()
    assert hasattr(pm.fit, "__wrapped__")


# --- the density


def test_log_density_is_normalised(approx):
    """By importance sampling from a wider Gaussian: mean of q / g is 1."""
    mean, cov = approx.mixture.mean(), 2 * approx.mixture.cov()
    rng = np.random.default_rng(4)
    theta = rng.multivariate_normal(mean, cov, size=20_000)
    from scipy.stats import multivariate_normal

    ratio = np.exp(approx.log_density(theta) - multivariate_normal(mean, cov).logpdf(theta))
    # sd of the ratio is about 1: standard error .007
    assert ratio.mean() == pytest.approx(1, abs=0.035)
    assert approx.log_density(theta[0]).shape == ()
    with pytest.raises(ValueError, match=r"shape \(7,\): give \(n, \d\)"):
        approx.log_density(np.zeros(7))


def test_symbolic_draws_and_density_are_those_of_q(approx):
    np.testing.assert_allclose(approx.mean.eval(), approx.mixture.mean(), rtol=1e-9)
    np.testing.assert_allclose(approx.cov.eval(), approx.mixture.cov(), rtol=1e-7, atol=1e-12)
    draws = approx.sample_node(approx.model["beta"], size=2000).eval()
    assert len(np.unique(draws[:, 0])) == 2000  # smoothed, not the atoms
    sd = np.sqrt(np.diag(approx.mixture.cov()))[: draws.shape[1]]
    exact = variable(approx.sample(20_000, random_seed=5), "beta")[0]
    # standard errors .022 + .007 sd
    np.testing.assert_allclose((draws.mean(0) - exact.mean(0)) / sd, 0, atol=0.15)


# --- draws in the container of the installed PyMC


def test_groups_coords_and_stats(approx, idata):
    assert {"posterior", "sample_stats", "observed_data", "constant_data"} <= groups(idata)
    posterior = idata["posterior"]
    assert posterior["beta"].dims == ("chain", "draw", "coefficient")
    assert list(posterior["coefficient"].values) == ["intercept", "slope"]
    np.testing.assert_allclose(
        variable(idata, "mean"), variable(idata, "beta") @ np.stack([np.ones(30), X]), rtol=1e-9
    )
    stats = idata["sample_stats"]
    np.testing.assert_allclose(stats["log_weight"], stats["lp"] - stats["log_q"])
    assert len(np.unique(variable(idata, "sigma"))) == 300
    np.testing.assert_allclose(variable(idata, "y", "observed_data"), Y)


def test_attrs(idata):
    attrs = idata["posterior"].attrs
    assert attrs["inference_library"] == "pymc_sph"
    assert json.loads(attrs["inference_library_settings"])["fluids"] == 4
    for name in ("elbo", "log_evidence", "log_evidence_se", "pareto_k", "importance_ess",
                 "sampling_time", "compile_time"):  # fmt: skip
        assert np.isfinite(attrs[name]), name
    assert attrs["status"] == "converged" and attrs["verdict"] == "reliable"


def test_compile_time_is_that_of_the_fit_and_of_the_transform(approx, idata):
    fit = approx.attrs["compile_time"]
    again = approx.sample(3, random_seed=1)["posterior"].attrs["compile_time"]
    assert 0 < fit < again == idata["posterior"].attrs["compile_time"]


def test_multitrace_and_unconstrained(approx):
    trace = approx.sample(7, random_seed=1, return_inferencedata=False)
    assert isinstance(trace, pm.backends.base.MultiTrace) and len(trace) == 7
    inside = approx.sample(7, random_seed=1, include_transformed=True)
    np.testing.assert_allclose(
        np.exp(variable(inside, "sigma_log__", "unconstrained_posterior")),
        variable(inside, "sigma"),
    )


# of LOO's weights, for 300 draws of a posterior with 30 observations: ArviZ 1.x warns from .6 on
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_arviz_and_pymc_work_on_it(approx, idata, tmp_path):
    with approx.model:
        predictive = pm.sample_posterior_predictive(idata, random_seed=1, progressbar=False)
        pm.compute_log_likelihood(idata, progressbar=False)
    assert variable(predictive, "y", "posterior_predictive").shape == (1, 300, 30)
    assert np.isfinite(float(az.loo(idata).elpd if not PYMC_5 else az.loo(idata).elpd_loo))
    file = tmp_path / "fit.nc"
    idata.to_netcdf(str(file), engine="h5netcdf")
    assert file.stat().st_size > 0


@pytest.mark.parametrize("importance", ["psis", None])
def test_fit_returns_a_chain_per_fluid(model, importance):
    with model:
        out = pymc_sph.fit(200, chains=3, random_seed=4, importance=importance, progressbar=False)
    assert variable(out, "beta").shape == (3, 200, 2)
    assert out["posterior"].attrs["importance"] == (importance or "none")
    # the exact posterior of the slope is close to least squares; standard error .04 sd of 600
    slope, design = np.linalg.lstsq(np.stack([np.ones(30), X], 1), Y, rcond=None)[0][1], X @ X
    sd = 0.3 / np.sqrt(design)
    assert variable(out, "beta")[..., 1].mean() == pytest.approx(slope, abs=0.25 * sd)
    r_hat = az.rhat(out)
    r_hat = r_hat if PYMC_5 else r_hat["posterior"] if "posterior" in r_hat else r_hat
    assert float(r_hat["sigma"]) < 1.05


def test_an_unreliable_fit_warns(model):
    with model, pytest.warns(pymc_sph.UnreliableFitWarning, match="unreliable") as caught:
        approx = pm.fit(
            1, method="sph", random_seed=0, progressbar=False,
            inf_kwargs={"fluids": 1, "particles": 1, "temperature": 1.0},
            start={"beta": np.array([1.0, 2.0])}, callbacks=[_blow_up],
        )  # fmt: skip
    assert approx.verdict.advice
    assert [w.filename for w in caught] == [__file__]  # the line that asked for the fit


def _blow_up(approx, losses, i):
    """Stop the fit with a fluid ten times too narrow."""
    for simulation in approx.mixture.fluids:
        simulation.A.setflags(write=True)
        simulation.A[...] = 0.1 * simulation.A
    raise StopIteration
