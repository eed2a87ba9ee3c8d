"""The force form over executors of all kinds: the same bits, and workers that die."""

from __future__ import annotations

import dataclasses
import os
import pickle
import time

from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import cloudpickle
import numpy as np
import pymc as pm
import pytest
import small_models

from fluids import banana
from killing import Killing
from same_bits import differences

from pymc_sph import (
    SPH,
    BackendError,
    LostWorkersError,
    SettingsError,
    compile_target,
    fit_density,
    workers,
)
from pymc_sph.ensemble import Ensemble
from pymc_sph.workers import Recipe, Workers

N = 30
SMALL = {"fluids": 3, "particles": 8, "paths": 3, "draws": 500}

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning"),
    # Dask's own loops and sockets, closed by the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """Two processes of Dask, one thread each."""
    distributed = pytest.importorskip("distributed")
    import dask

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    # on a machine with more to do, a process may take a minute to start
    patient = {"distributed.comm.timeouts.connect": "300s"}
    with dask.config.set(patient), distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture(scope="module")
def alone():
    """A fit in this process alone, and its model."""
    model = small_models.eight_schools()
    method = SPH(model, 1, **SMALL)
    method.fit(N, progressbar=False)
    return model, method


def loky_pool():
    return pytest.importorskip("loky").ProcessPoolExecutor(2)


def spawned_pool():
    return ProcessPoolExecutor(2, get_context("spawn"))


def assert_same_fit(one, two):
    assert differences(one.approx.result, two.approx.result) == []
    assert differences(one.hist, two.hist) == []


# --- the same bits, whoever evaluates


def test_own_processes_give_the_bits_of_this_process(alone):
    model, method = alone
    other = SPH(model, 1, cores=2, **SMALL)
    other.fit(N, progressbar=False)
    assert_same_fit(method, other)


def test_workers_go_into_fit_by_name(alone):
    model, method = alone
    other = SPH(model, 1, **SMALL)
    other.fit(N, progressbar=False, cores=2)  # as pm.fit passes it on
    assert other.cores == 2
    assert_same_fit(method, other)


@pytest.mark.parametrize(
    "make",
    [lambda: ThreadPoolExecutor(3), pytest.param(spawned_pool, marks=pytest.mark.slow), loky_pool],
)
def test_an_executor_gives_the_bits_of_this_process(alone, make):
    model, method = alone
    with make() as executor:
        other = SPH(model, 1, executor=executor, **SMALL)
        other.fit(N, progressbar=False)
    assert_same_fit(method, other)


@pytest.mark.parametrize("which", ["client", "its executor"])
def test_dask_gives_the_bits_of_this_process(alone, client, which):
    model, method = alone
    executor = client if which == "client" else client.get_executor()
    other = SPH(model, 1, executor=executor, **SMALL)
    other.fit(N, progressbar=False)
    assert_same_fit(method, other)


@pytest.mark.parametrize("scheme", ["variational", "collocated"])
def test_both_schemes_and_a_multimodal_start_over_threads(scheme):
    """Two modes: paths end early in a mode that another has found, and the rehearsal's do not."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 4, shape=2)
        pm.Potential("ring", -8 * (pm.math.sqrt(pm.math.sum(x**2)) - 3) ** 2 + x[0] ** 2)
    options = {"scheme": scheme, "fluids": 2, "particles": 16}
    one = SPH(model, 2, **options)
    one.fit(12, progressbar=False)
    with ThreadPoolExecutor(2) as executor:
        two = SPH(model, 2, executor=executor, **options)
        two.fit(12, progressbar=False)
    assert_same_fit(one, two)
    assert one.approx.result.n_evaluations == two.approx.result.n_evaluations


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
@pytest.mark.parametrize("engine", ["loop", "vectorized"])
def test_the_bits_do_not_depend_on_the_chunks(engine, monkeypatch):
    model = small_models.constrained()
    executor = Recording()
    local = compile_target(model, engine=engine, threads=1)
    remote = compile_target(model, engine=engine, executor=executor)
    assert remote.engine == engine
    theta = np.random.default_rng(0).standard_normal((300, local.dim))
    theta[7] = 1e200
    most = 300 if engine == "loop" else 3  # the vectorised graph has blocks of 128 rows
    for seconds, expected in ((1e-9, {most}), (1e-4, range(1, most + 1)), (10.0, {1})):
        monkeypatch.setattr(workers, "CHUNK_SECONDS", seconds)
        executor.rows.clear()
        assert differences(local(theta), remote(theta)) == []
        assert len(executor.rows) in expected and sum(executor.rows) == 300
    assert remote.n_evaluations == local.n_evaluations and remote.n_failed == local.n_failed


def test_rows_that_raise_cost_themselves_alone():
    model = small_models.gaussian_process()
    local = compile_target(model)
    theta = np.random.default_rng(0).standard_normal((50, 1))
    theta[[3, 30]] = 400.0  # a scale that overflows
    for target in (local, compile_target(model, cores=2)):
        logp, _ = target(theta)
        assert np.isfinite(np.delete(logp, [3, 30])).all() and not np.isfinite(logp[[3, 30]]).any()
        target.release()


# --- chunks


class Recording(Executor):
    """Evaluates at once, pickled as for another machine, and notes the rows of each call."""

    def __init__(self):
        self.rows = []

    def submit(self, function, *arguments):
        future: Future = Future()
        called = pickle.loads(cloudpickle.dumps(arguments))
        answer = function(*called)
        if answer is not None:
            self.rows.append(len(called[2]))
        future.set_result(answer)
        return future


class Sleeper:
    """Sleeps for every row, and returns the rows."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, theta):
        time.sleep(self.seconds * len(theta))
        return theta


@pytest.mark.parametrize(("seconds", "grain", "expected"), [
    (1e-5, 1, [400]), (1e-3, 1, range(15, 25)), (0.03, 1, [1]), (1e-3, 32, [32]),
])  # fmt: skip
def test_chunks_are_sized_by_measured_cost(seconds, grain, expected, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_SECONDS", 0.02)
    function = Sleeper(seconds)
    executor = Recording()
    shared = Workers(Recipe(lambda: function, grain), function, executor=executor)
    theta = np.arange(800.0 if seconds < 0.01 else 40.0).reshape(-1, 2)
    for _ in range(3):
        executor.rows.clear()
        np.testing.assert_array_equal(np.concatenate(shared(theta)), theta)
    assert max(executor.rows) in expected and sum(executor.rows) == len(theta)
    assert all(n % grain == 0 for n in executor.rows[:-1])


def test_large_recipes_go_to_a_few_workers_at_a_time(monkeypatch):
    monkeypatch.setattr(workers, "RECIPES", 1)
    made = []

    class Forgetful(Recording):
        """A worker that knows the function from the third call with a recipe on."""

        def submit(self, function, token, shareable, theta, payload=None):
            made.append(payload is not None)
            future: Future = Future()
            future.set_result((theta, 0.1) if sum(made) > 2 else None)
            return future

    shared = Workers(Recipe(lambda: None), None, executor=Forgetful(), row_seconds=1.0)
    theta = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(np.concatenate(shared(theta)), theta)
    assert made == [False] * 4 + [True, False, False, False] * 2 + [True, False, False, False]


# --- fluids side by side


@pytest.mark.parametrize("form", ["force", "pressure"])
@pytest.mark.parametrize("scheme", ["variational", "collocated"])
def test_the_batches_of_all_fluids_go_out_together(form, scheme):
    """What is announced before a step is what the fluids then ask for, apart and together."""

    class Target:
        def __init__(self):
            self.announced, self.asked = [], []

        def ahead(self, batches):
            self.announced, self.asked = [b.tobytes() for b in batches], []

        def __call__(self, theta):
            self.asked.append(np.ascontiguousarray(theta).tobytes())
            logp, grad = banana(theta)
            return logp, grad if form == "force" else None

    from pymc_sph.schemes import settings_of

    if scheme == "collocated" and form == "pressure":
        pytest.skip("one form of the paper's scheme is enough")
    settings = settings_of(scheme, {"fluids": 3, "particles": 8, "draws": 300}).in_form(form)
    target = Target()
    points = np.random.default_rng(0).standard_normal((3, 2))
    ensemble = Ensemble.start(target, points, settings, 1, 300)
    stages = set()
    for _ in range(300):
        if ensemble.done:
            break
        before = ensemble
        moving = sum(s.running for s in before.simulations)
        if before.together is not None:
            moving = len(before.together.carrying)
        ensemble, _ = before.step(target)
        assert len(target.announced) == moving
        assert target.asked[:moving] == target.announced
        stages.add((before.together is not None, moving > 1))
    assert (False, True) in stages


# --- data, and models that cannot be shared


def test_workers_see_new_data():
    model = small_models.eight_schools()
    theta = np.random.default_rng(1).standard_normal((20, 10))
    executor = Recording()
    targets = compile_target(model, executor=executor), compile_target(model, cores=2)
    before = [target(theta) for target in targets]
    for target in targets:
        assert target.ahead is not None
        target.ahead([theta])  # evaluated with the data of now, and never asked for
    with model:
        pm.set_data({"error": np.full(8, 3.0)})
    expected = compile_target(model)(theta)
    for target, old in zip(targets, before, strict=True):
        assert differences(target(theta), expected) == []
        assert not np.array_equal(old[0], expected[0])
        target.release()


def test_minibatches_are_refused():
    with pm.Model() as model:
        mu = pm.Normal("mu")
        batch = pm.Minibatch(np.arange(50.0), batch_size=10)
        pm.Normal("y", mu, 1, observed=batch, total_size=50)
    for workers_ in ({"cores": 2}, {"executor": Recording()}):
        with pytest.raises(SettingsError, match=r"pm\.Minibatch.*executor=None"):
            compile_target(model, **workers_)


def test_jax_is_refused():
    model = small_models.eight_schools()
    for workers_ in ({"cores": 2}, {"executor": Recording()}):
        with pytest.raises(BackendError, match=r"cores and executor.*JAX's devices"):
            compile_target(model, backend="jax", **workers_)


@pytest.mark.parametrize("value", ["dask", 4, ThreadPoolExecutor])
def test_what_is_no_executor_is_told(value):
    model = small_models.eight_schools()
    for use in (lambda: SPH(model, executor=value), lambda: compile_target(model, executor=value)):
        with pytest.raises(SettingsError, match=r"executor=.*submit.*Client"):
            use()
    with pytest.raises(SettingsError, match=r"executor=.*submit.*Client"):
        fit_density(lambda x: -(x**2).sum(1), 2, executor=value)


def test_a_pickled_target_leaves_its_workers_behind():
    model = small_models.eight_schools()
    with ThreadPoolExecutor(1) as executor:
        target = compile_target(model, executor=executor)
        theta = np.random.default_rng(0).standard_normal((5, target.dim))
        expected = target(theta)
        copy = cloudpickle.loads(cloudpickle.dumps(target))
    assert differences(copy(theta), expected) == []
    assert copy.ahead is None


# --- workers that die


def test_dask_reruns_what_a_killed_worker_had(alone, cluster, client):
    model, method = alone
    pids = set(client.run(os.getpid).values())
    executor = Killing(client.get_executor(pure=False), min(pids), delay=0.5)
    other = SPH(model, 1, executor=executor, **SMALL)
    other.fit(N, progressbar=False, callbacks=[executor.arm_at(10)])
    assert_same_fit(method, other)
    assert executor.killed.is_set()
    client.wait_for_workers(2)
    assert min(pids) not in set(client.run(os.getpid).values())


class KilledWorker(Exception):
    """Dask's word for a task of which several workers have died."""


def test_a_task_that_kills_every_worker_is_told():
    class Dask(Executor):
        def submit(self, function, *arguments):
            future: Future = Future()
            future.set_exception(KilledWorker("task-1"))
            return future

    target = compile_target(small_models.eight_schools(), executor=Dask())
    with pytest.raises(LostWorkersError, match="A worker of the Dask given"):
        target(np.zeros((4, target.dim)))


def test_draws_outlive_the_executor(alone):
    model, method = alone
    with ThreadPoolExecutor(1) as executor:
        other = SPH(model, 1, executor=executor, **SMALL)
        other.fit(N, progressbar=False)
    one, two = (m.approx.sample(20, random_seed=0)["posterior"]["theta"] for m in (method, other))
    np.testing.assert_array_equal(one.values, two.values)
    with pytest.raises(LostWorkersError, match="shut down"):
        other.refine(2, progressbar=False)


@pytest.mark.parametrize("how", ["resume", pytest.param("refine", marks=pytest.mark.slow)])
def test_a_broken_pool_loses_nothing(alone, how, tmp_path):
    model, method = alone
    path = tmp_path / "run.npz"
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        pool.submit(int).result()
        executor = Killing(pool, min(pool._processes))
        broken = SPH(model, 1, executor=executor, checkpoint=path, every=5, **SMALL)
        with pytest.raises(LostWorkersError, match=r"given as `executor`.*refine.*resume") as error:
            broken.fit(N, progressbar=False, callbacks=[executor.arm_at(12)])
        assert "BrokenProcessPool" in str(error.value)
        assert executor.killed.is_set()
    assert broken.approx.status == "failed"
    np.testing.assert_array_equal(broken.hist, method.hist[:12])
    assert np.isfinite(broken.approx.sample(5, random_seed=0)["posterior"]["mu"]).all()
    with ThreadPoolExecutor(2) as another:
        if how == "resume":
            again = SPH.resume(path, model, executor=another, progressbar=False)
            assert_same_fit(method, again)
        else:
            broken.executor = another
            broken.state = (None, [])  # without the callback
            broken.refine(N - 12, progressbar=False)
            np.testing.assert_array_equal(broken.hist, method.hist)


def test_own_processes_start_again_after_one_has_died(alone):
    model, method = alone
    other = SPH(model, 1, cores=2, **SMALL)

    def kill(approx, losses, i):
        if i == 10:
            [pool] = [other._target._engine._workers._pool]
            os.kill(min(pool._processes), 9)
            time.sleep(0.2)

    with pytest.raises(LostWorkersError, match="cores=2"):
        other.fit(N, progressbar=False, callbacks=[kill])
    assert len(other.hist) == 10
    # the check of what there was ran over new processes already
    assert other.approx.result is not None and other.approx.result.n_steps == 10
    other.state = (None, [])
    other.refine(N - 10, progressbar=False)
    np.testing.assert_array_equal(other.hist, method.hist)
    assert dataclasses.is_dataclass(other.approx.result)
