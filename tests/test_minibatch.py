"""Models with ``pm.Minibatch``: batches, the graph of all data, control variates, whole fits."""

import pickle
import warnings

import cloudpickle
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from scipy.special import expit

from pymc_sph import SPH, Settings, UnreliableFitWarning, anchoring, load
from pymc_sph.checks import SettingsError
from pymc_sph.idata import group
from pymc_sph.target import compile_target

N, D, BATCH = 4000, 3, 200


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "x.dat"
    X = np.memmap(path, "float64", "w+", shape=(N, D))
    X[:] = rng.standard_normal((N, D)) * [1.0, 2.0, 0.5] + 0.3
    X.flush()
    y = (rng.random(N) < expit(X @ [0.5, -0.4, 1.0])).astype("int32")
    return np.memmap(path, "float64", "r", shape=(N, D)), y


def regression(X, y, batch=BATCH):
    with pm.Model() as model:
        beta = pm.Normal("beta", 0, 2, shape=D)
        if batch is None:
            pm.Bernoulli("y", logit_p=pt.dot(X, beta), observed=y)
        else:
            rows, found = pm.Minibatch(X, y, batch_size=batch)
            pm.Bernoulli("y", logit_p=rows @ beta, observed=found, total_size=N)
    return model


@pytest.fixture(scope="module")
def targets(data):
    """Target on batches and, from another model, the one of all rows."""
    return compile_target(regression(*data)), compile_target(regression(*data, batch=None))


@pytest.fixture(scope="module")
def laplace(data):
    X, y = data
    beta = np.zeros(D)
    for _ in range(20):
        p = expit(X @ beta)
        H = (X * (p * (1 - p))[:, None]).T @ X + np.eye(D) / 4
        beta = beta + np.linalg.solve(H, X.T @ (y - p) - beta / 4)
    logp = np.sum(y * (X @ beta) - np.logaddexp(0, X @ beta)) - beta @ beta / 8
    logp -= 0.5 * D * np.log(8 * np.pi)
    return (
        beta,
        np.linalg.inv(H),
        logp + 0.5 * D * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(H)[1],
    )


def points(laplace, k=6):
    beta, cov, _ = laplace
    noise = np.random.default_rng(1).standard_normal((k, D))
    return beta + noise @ np.linalg.cholesky(cov).T


def test_the_graph_of_all_data_is_the_model_without_minibatch(targets, laplace):
    target, whole = targets
    theta = points(laplace)
    for found, expected in zip(target.batches.whole(theta), whole(theta), strict=False):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_batches_are_rows_of_the_memory_map_drawn_together(data, targets):
    X, y = data
    target = targets[0]
    source = target.batches._sources[0]
    rows, found = (buffer.get_value() for buffer in source.buffers)
    assert rows.shape == (BATCH, D)
    index = [int(np.flatnonzero((X == row).all(axis=1))[0]) for row in rows]
    np.testing.assert_array_equal(found, y[index])
    target.batches.new_batch()
    assert not np.array_equal(source.buffers[0].get_value(), rows)


def test_two_uses_of_a_batch_draw_the_same_rows_and_two_batches_do_not():
    data = np.arange(1000.0)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        batch, other = pm.Minibatch(data, batch_size=50), pm.Minibatch(data, batch_size=50)
        pm.Potential("p", mu + pt.sum(batch) + 1e6 * pt.sum(batch) + 0 * pt.sum(other))
    engine = compile_target(model).batches
    assert len(engine._sources) == 2
    first, second = (source.buffers[0].get_value() for source in engine._sources)
    assert not np.array_equal(first, second)


def test_data_that_pm_set_data_has_changed_are_drawn_from():
    with pm.Model() as model:
        x = pm.Data("x", np.zeros(100))
        mu = pm.Normal("mu")
        pm.Normal("y", mu, observed=pm.Minibatch(2 * x, batch_size=10), total_size=100)
    target = compile_target(model)
    with model:
        pm.set_data({"x": np.ones(300)})
    target.batches.new_batch()
    np.testing.assert_array_equal(target.batches._sources[0].buffers[0].get_value(), 2)


def test_with_an_anchor_batches_agree_there_and_are_right_in_the_mean(targets, laplace):
    target, whole = targets
    theta = points(laplace)
    exact, slope = whole(theta)
    target.reseed(3)
    batches = target.batches

    def errors():
        out = []
        for _ in range(200):
            batches.new_batch()
            logp, grad = target(theta)
            out.append(np.column_stack([logp - exact, grad - slope]))
        return np.array(out)

    loud = errors().std(axis=0)
    batches.drop_anchor(laplace[0])
    quiet = errors()
    assert (quiet.std(axis=0) < 0.2 * loud).all()
    standard = quiet.std(axis=0) / np.sqrt(len(quiet))
    assert (np.abs(quiet.mean(axis=0)) < 4.5 * standard).all()
    at, grad = target(laplace[0][None])
    np.testing.assert_allclose(at, whole(laplace[0][None])[0], rtol=1e-12)
    np.testing.assert_allclose(grad, whole(laplace[0][None])[1], atol=1e-6)
    h = 1e-5 * np.eye(D)
    differences = (target(theta[:1] + h)[0] - target(theta[:1] - h)[0]) / 2e-5
    np.testing.assert_allclose(differences, target(theta[:1])[1][0], rtol=1e-4, atol=1e-3)


def test_the_anchor_comes_to_the_middle_of_the_posterior(targets, laplace):
    target = targets[0]
    target.reseed(4)
    anchoring.find_anchor(target, target.batches, np.full((1, D), 2.0), (0, 9))
    offset = np.linalg.solve(
        np.linalg.cholesky(laplace[1]), target.batches.anchor.point - laplace[0]
    )
    assert np.abs(offset).max() < 0.3
    state = target.generators()
    before = target(points(laplace))
    target.batches.new_batch()
    target.set_generators(state)
    for old, new in zip(before, target(points(laplace)), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.fixture(scope="module")
def fitted(data):
    model = regression(*data)
    with pytest.warns(UnreliableFitWarning, match="draws minibatches"):
        return model, SPH(model, random_seed=1).fit(progressbar=False)


def test_a_fit_on_batches_finds_the_posterior_and_stops(fitted, laplace):
    approx = fitted[1]
    beta, cov, evidence = laplace
    sd = np.sqrt(np.diag(cov))
    assert np.max(np.abs(approx.mixture.mean() - beta) / sd) < 0.15
    assert np.max(np.abs(np.log(np.sqrt(np.diag(approx.mixture.cov())) / sd))) < 0.1
    assert approx.status == "converged" and approx.result.n_steps < 1000
    assert abs(approx.log_evidence - evidence) < 4 * approx.log_evidence_se + 0.05


def test_the_standard_error_of_the_evidence_holds_the_noise_of_batches(fitted):
    approx = fitted[1]
    target = approx._target
    theta = approx.mixture.sample(2000, np.random.default_rng(5)).theta
    state, means = target.generators(), []
    for _ in range(100):
        target.batches.new_batch()
        means.append(target(theta)[0].mean())
    target.set_generators(state)
    noise = np.std(means) / np.sqrt(anchoring.CHECKS)
    assert 0.5 * noise < approx.log_evidence_se < 2 * noise + 0.02


def test_figures_of_batches_say_so(fitted):
    approx = fitted[1]
    assert approx.verdict.grade == "unreliable" and "full_data=True" in approx.verdict.advice
    assert approx.attrs["evidence_of"] == "minibatches"
    draws = approx.sample_chains(20, random_seed=1)
    assert group(draws, "posterior").attrs["importance"] == "none"
    assert group(draws, "posterior").attrs["evidence_of"] == "minibatches"


def test_saved_and_pickled_fits_keep_the_anchor(fitted, laplace, tmp_path):
    model, approx = fitted
    theta = points(laplace)
    expected = approx._target(theta)[0]
    approx.save(tmp_path / "fit.npz")
    again = load(tmp_path / "fit.npz", model)
    np.testing.assert_array_equal(again._target(theta)[0], expected)
    assert again.result.evidence_of == "minibatches"
    copy = pickle.loads(cloudpickle.dumps(approx))
    np.testing.assert_array_equal(copy._target(theta)[0], expected)


def test_full_data_gives_a_verdict_and_the_evidence(data, laplace):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sph = SPH(regression(*data), random_seed=2, full_data=True, draws=1000)
        approx = sph.fit(progressbar=False)
    assert approx.verdict.grade == "reliable"
    assert approx.attrs["evidence_of"] == "full data"
    # Laplace's own error is of the order 1 / n
    assert approx.log_evidence == pytest.approx(laplace[2], abs=0.03)


def test_full_data_is_true_or_false():
    with pytest.raises(SettingsError, match="full_data='yes'"):
        Settings(full_data="yes")
