"""What a fit shares with its process: threads, limits, random state, warnings, output."""

from __future__ import annotations

import logging
import random
import threading
import warnings

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pymc as pm
import pytest

from interrupted_fit import blas_threads, make_model
from same_bits import differences
from small_models import eight_schools
from threadpoolctl import threadpool_limits

import pymc_sph

from pymc_sph import SPH, engines, fit_density
from pymc_sph.gradient_free_start import climb
from pymc_sph.process import graphs, ignored_warnings, one_blas_thread

SMALL = {"fluids": 2, "particles": 8, "paths": 4}
N = 40

pytestmark = pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")


def groups(data):
    return {name: data["posterior"][name].values for name in data["posterior"].data_vars}


def whole_fit(model, seed, **settings):
    """A fit from the model's graph to draws."""
    with model:
        approx = pm.fit(N, method="sph", random_seed=seed, progressbar=False, inf_kwargs=settings)
        return {
            "result": approx.result,
            "hist": approx.hist,
            "draws": groups(approx.sample(50, random_seed=1)),
        }


JOBS = {
    "force": [(eight_schools, 1, SMALL), (eight_schools, 2, SMALL)],
    "pressure": [
        (lambda: make_model("pressure"), 1, SMALL),
        (lambda: make_model("pressure"), 2, SMALL | {"cores": 2}),
    ],
    "mixed": [
        (lambda: make_model("pressure"), 1, SMALL | {"cores": 2}),
        (eight_schools, 2, SMALL),
        (eight_schools, 3, {"scheme": "collocated", "fluids": 2, "particles": 24}),
    ],
}


@pytest.mark.parametrize("name", JOBS)
def test_fits_in_threads_give_the_same_bits_as_one_after_another(name, monkeypatch):
    monkeypatch.setattr(engines, "MIN_SECONDS_PER_THREAD", 1e-9)  # threads within the threads
    monkeypatch.setattr("interrupted_fit.slow", lambda theta: None)
    jobs = JOBS[name]
    apart = [whole_fit(make(), seed, **settings) for make, seed, settings in jobs]
    models = [make() for make, _, _ in jobs]  # not in threads: there PyTensor changes the filters
    filters, names = list(warnings.filters), {t.name for t in threading.enumerate()}
    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(len(jobs)) as pool:
        limits = blas_threads()
        futures = [
            pool.submit(whole_fit, model, seed, **settings)
            for model, (_, seed, settings) in zip(models, jobs, strict=True)
        ]
        together = [future.result() for future in futures]
        assert blas_threads() == limits and set(limits) == {2}
    assert differences(apart, together) == []
    assert warnings.filters == filters
    assert {t.name for t in threading.enumerate()} <= names


def test_fits_of_one_model_in_threads():
    """The model's graphs are shared, and so is one approximation that both threads draw from."""
    model = eight_schools()
    apart = [SPH(model, seed, **SMALL).fit(N, progressbar=False) for seed in (1, 2)]
    together = [None, None]

    def work(i):
        together[i] = SPH(model, i + 1, **SMALL).fit(N, progressbar=False)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two in zip(apart, together, strict=True):
        assert differences(one.result, two.result) == []
    with ThreadPoolExecutor(4) as pool:
        draws = list(
            pool.map(lambda seed: groups(apart[0].sample(2000, random_seed=seed)), [3] * 8)
        )
    assert all(differences(draws[0], other) == [] for other in draws[1:])


# --- BLAS


def test_the_limit_of_blas_stays_until_the_last_has_left():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(60)

    with threadpool_limits(2, user_api="blas"):
        thread = threading.Thread(target=other)
        with one_blas_thread():
            thread.start()
            assert inside.wait(60)
            with one_blas_thread():
                assert set(blas_threads()) == {1}
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}  # the other one is still there
        leave.set()
        thread.join()
        assert set(blas_threads()) == {2}


def test_a_fit_restores_the_limits_that_it_found():
    model, seen = eight_schools(), []

    def fit_within(approx, losses, i):
        seen.append(blas_threads())
        if i == 2:
            fit_density(lambda x: (-0.5 * (x**2).sum(1), -x), 2, n=2, fluids=1)
            SPH(model, 1, fluids=1, particles=4).fit(1, progressbar=False)
            seen.append(blas_threads())

    with threadpool_limits(2, user_api="blas"):
        SPH(model, 1, **SMALL).fit(3, progressbar=False, callbacks=[fit_within])
        assert set(blas_threads()) == {2}
        with pytest.raises(ZeroDivisionError):
            SPH(model, 1, **SMALL).fit(3, progressbar=False, callbacks=[lambda *a: 1 / 0])
        assert set(blas_threads()) == {2}
    assert len(seen) == 4 and all(set(limits) == {1} for limits in seen)


# --- what belongs to the process, and what the library says


def test_nothing_global_is_touched_and_nothing_printed(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    np.random.seed(1)
    random.seed(1)
    before = np.random.get_state(), random.getstate(), np.geterr()
    signals = {name: logging.getLogger(name).handlers[:] for name in (None, "pymc_sph", "pymc")}
    for form in ("force", "pressure"):
        model = make_model(form)
        method = SPH(model, 1, checkpoint=tmp_path / f"{form}.npz", every=5, **SMALL)
        approx = method.fit(10, progressbar=True)
        method.refine(2, progressbar=False)
        approx.sample(20, random_seed=1, log_likelihood=True)
        approx.sample_chains(20)
        approx.save(tmp_path / f"fit_{form}.npz")
        pymc_sph.load(tmp_path / f"fit_{form}.npz", model).sample(5)
        pymc_sph.resume(tmp_path / f"{form}.npz", model, progressbar=False)
    with make_model("force"):
        pm.fit(5, method="sph", progressbar=False, inf_kwargs={"scheme": "collocated", "fluids": 1})
        pymc_sph.fit(10, 1, n=5, progressbar=False)
    fit_density(lambda x: -0.5 * (x**2).sum(1), 2, n=5, fluids=1)
    after = np.random.get_state(), random.getstate(), np.geterr()
    assert differences(before, after, layout=False) == []
    assert signals == {name: logging.getLogger(name).handlers for name in signals}
    out, err = capfd.readouterr()
    assert out == ""
    assert "Fitting fluids" in err  # the bar, and it alone, as the log is caught here
    assert "Verdict on the SPH fit" in caplog.text
    assert {r.name.split(".")[0] for r in caplog.records} <= {"pymc_sph", "pymc", "pytensor"}


def test_filters_of_warnings_come_back_whichever_thread_leaves_first():
    """`warnings.catch_warnings` alone would restore what the other thread had set."""
    before = list(warnings.filters)
    turns = threading.Barrier(4)

    def work():
        turns.wait(60)
        for _ in range(200):
            with ignored_warnings(DeprecationWarning, "of no meaning"):
                warnings.warn("of no meaning", DeprecationWarning, stacklevel=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_filters_of_warnings_come_back_when_another_thread_compiles():
    """PyTensor and Numba change them while they compile, and know nothing of other threads."""
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def ignore():
        with ignored_warnings(DeprecationWarning):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=ignore)
    with graphs(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        thread.start()
        assert not inside.wait(0.2)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before


def test_the_search_for_a_start_adds_no_filters_of_warnings():
    """The package `cma` adds one when it is first used, and three more when it is loaded."""
    before = list(warnings.filters)
    climb(lambda x: (-0.5 * (x**2).sum(1), None), np.ones(2), np.ones(2), np.random.default_rng(0))
    assert list(warnings.filters) == before
