"""The target against PyMC's own scalar functions, and the errors of bad models."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from small_models import as_point, constrained, eight_schools, gaussian_process

from pymc_sph import (
    BackendError,
    DiscreteVariableError,
    GradientError,
    InitialPointError,
    NoFreeVariablesError,
    compile_target,
)


@pytest.fixture(scope="module")
def schools():
    model = eight_schools()
    return model, compile_target(model)


@pytest.mark.filterwarnings("ignore:Data in y contains missing values")
@pytest.mark.parametrize(
    ("build", "engine"),
    [
        (eight_schools, "loop"),
        (eight_schools, "vectorized"),
        (constrained, "loop"),
        pytest.param(constrained, "vectorized", marks=pytest.mark.slow),
        (gaussian_process, "loop"),
        pytest.param(gaussian_process, "vectorized", marks=pytest.mark.slow),
    ],
)
def test_rows_are_pymcs_log_density_and_gradient(build, engine):
    model = build()
    target = compile_target(model, engine=engine)
    assert target.engine == engine
    theta = 0.5 * np.random.default_rng(0).standard_normal((5, target.dim))
    logp, grad = target(theta)
    value, slope = model.compile_logp(), model.compile_dlogp()
    for row, own, own_grad in zip(theta, logp, grad, strict=True):
        point = as_point(model, row)
        np.testing.assert_allclose(own, value(point), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(own_grad, slope(point), rtol=1e-7, atol=1e-9)
    assert target.n_evaluations >= 5


@pytest.mark.parametrize("engine", ["loop", "vectorized"])
def test_an_invalid_row_leaves_the_others_alone(engine):
    # sigma < 0 fails a parameter check, which PyTensor would apply to the whole batch
    with pm.Model() as model:
        s = pm.Normal("s", 0, 1)
        pm.Normal("y", 0, s, observed=[0.3, -0.2])
    target = compile_target(model, engine=engine)
    good = np.array([[0.5], [1.5], [0.7]])
    logp, grad = target(good)
    poisoned = np.array([[0.5], [-1.0], [1.5], [np.nan], [0.7]])
    mixed, mixed_grad = target(poisoned)
    np.testing.assert_array_equal(mixed[[0, 2, 4]], logp)
    np.testing.assert_array_equal(mixed_grad[[0, 2, 4]], grad)
    assert not np.isfinite(mixed[[1, 3]]).any()


def test_threads_and_chunks_change_no_bit(schools, monkeypatch):
    from pymc_sph import engines

    model, target = schools
    theta = np.random.default_rng(1).standard_normal((300, target.dim))
    whole = target(theta)
    monkeypatch.setattr(engines, "MIN_SECONDS_PER_THREAD", 1e-9)
    threaded = compile_target(model, threads=3)
    threaded(theta)  # timed once, so that the next call may use its threads
    for a, b in zip(whole, threaded(theta), strict=True):
        np.testing.assert_array_equal(a, b)
    parts = [target(theta[i : i + 7])[0] for i in range(0, 300, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])


def test_set_data_is_honoured(schools):
    model, target = schools
    theta = np.zeros((1, target.dim))
    before = target(theta)[0]
    with model:
        pm.set_data({"error": np.full(8, 30.0)})
    np.testing.assert_allclose(
        target(theta)[0], model.compile_logp()(as_point(model, theta[0])), rtol=1e-9
    )
    assert target(theta)[0] != before


def test_minibatch_uses_one_batch_for_all_rows():
    data = np.random.default_rng(2).standard_normal(100)
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, observed=pm.Minibatch(data, batch_size=10), total_size=100)
    target = compile_target(model)
    assert target.random and target.engine == "loop"
    logp, _ = target(np.zeros((500, 1)))
    assert np.ptp(logp) == 0
    assert target(np.zeros((1, 1)))[0] == logp[0]
    target.batches.new_batch()
    assert target(np.zeros((1, 1)))[0] != logp[0]


def test_starting_points_are_seeded_finite_and_dispersed(schools):
    _, target = schools
    points = target.initial_points(8, 3)
    np.testing.assert_array_equal(points, target.initial_points(8, 3))
    assert not np.array_equal(points[1:], target.initial_points(8, 4)[1:])
    assert np.isfinite(target(points)[0]).all()
    assert (points.std(axis=0) > 0.2).all()
    started = target.initial_points(1, 3, {"mu": 4.0, "tau": 2.0})[0]
    assert started[target.labels.index("mu")] == 4
    assert started[target.labels.index("tau_log__")] == pytest.approx(np.log(2))


# --- errors name the variable and the remedy


def test_discrete_variable():
    with pm.Model() as model:
        pm.Poisson("count", 3)
        pm.Normal("x")
    with pytest.raises(DiscreteVariableError, match=r"count.*\n?.*marginalize"):
        compile_target(model)


def test_no_free_variables():
    with pm.Model() as model:
        pm.Normal("y", 0, 1, observed=[1.0])
    with pytest.raises(NoFreeVariablesError, match=r"no free variables.*observed"):
        compile_target(model)


def test_no_finite_start_names_the_variable():
    with pm.Model() as model:
        p = pm.Beta("p", 1, 1)
        pm.Uniform("inside", 0, 1, observed=[0.5, 2.0])
        pm.Bernoulli("fine", p, observed=[1, 0])
    target = compile_target(model)
    with pytest.raises(InitialPointError, match=r"inside \(log p = -inf\)") as caught:
        target.initial_points(4, 0)
    assert "fine" not in str(caught.value) and "start" in str(caught.value)


def test_unknown_start():
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(InitialPointError, match=r"unknown variables: z.*\n?.*x"):
        compile_target(model).initial_points(2, 0, {"z": 1.0})


class BlackBox(Op):
    def make_node(self, x):
        return Apply(self, [pt.as_tensor(x)], [pt.dscalar()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = np.asarray(inputs[0] ** 2)


def test_no_gradient_names_the_op():
    with pm.Model() as model:
        pm.Potential("likelihood", BlackBox()(pm.Normal("x")))
    with pytest.raises(GradientError, match="BlackBox"):
        compile_target(model, formulation="force")


def test_unknown_backend(schools):
    with pytest.raises(BackendError, match=r"'cuda'.*numba"):
        compile_target(schools[0], backend="cuda")
