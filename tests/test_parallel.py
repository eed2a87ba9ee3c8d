"""Evaluation over processes: the same bits whoever evaluates, and errors cost their rows alone."""

from __future__ import annotations

import logging

from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from fluids import banana

from pymc_sph import fit_density
from pymc_sph.checks import SettingsError
from pymc_sph.parallel import BLOCK, ByBlocks, ByRows, Parallel, Values

THETA = np.random.default_rng(0).standard_normal((3 * BLOCK + 5, 2))


def row(theta):
    """A row that raises to the left, and is not a number far up."""
    if theta[0] < -1:
        raise ValueError("too far to the left\nand more")
    return np.nan if theta[1] > 2 else theta @ theta


def expected():
    out = np.sum(THETA**2, axis=1)
    out[THETA[:, 1] > 2] = np.nan
    out[THETA[:, 0] < -1] = -np.inf
    return out


class Stranger(Executor):
    """Workers of another machine: what they get and return is pickled, one after the other."""

    def __init__(self):
        self.pool = ProcessPoolExecutor(1, get_context("spawn"))

    def submit(self, function, *arguments):
        future: Future = self.pool.submit(function, *arguments)
        return future


def same(values: Values, exact=True):
    np.testing.assert_allclose(values.logp, expected(), rtol=0 if exact else 1e-12)
    np.testing.assert_array_equal(values.failed, THETA[:, 0] < -1)
    assert values.error == "ValueError: too far to the left"


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_rows_over_processes(cores):
    rows = Parallel(lambda: ByRows(row), cores)
    for _ in range(2):
        same(rows(THETA), exact=False)
    assert rows.n_failed == 2 * np.sum(THETA[:, 0] < -1) > 0
    rows.release()
    same(rows(THETA), exact=False)  # the processes start again
    rows.release()


@pytest.mark.parametrize(
    "make", [lambda: ThreadPoolExecutor(2), Stranger], ids=["threads", "spawn"]
)
def test_rows_on_a_users_executor(make):
    scale = 1.0  # a closure and functions of this module: only cloudpickle takes it
    executor = make()
    rows = Parallel(lambda: ByRows(lambda theta: scale * row(theta)), executor=executor)
    same(rows(THETA), exact=False)
    same(rows(THETA), exact=False)
    getattr(executor, "pool", executor).shutdown()


def test_a_batch_function_falls_back_to_rows_where_it_raises():
    sizes = []

    def function(theta):
        sizes.append(len(theta))
        if (theta[:, 0] < -1).any():
            raise ValueError("too far to the left")
        return np.where(theta[:, 1] > 2, np.nan, np.sum(theta**2, axis=1))

    same(Parallel(lambda: ByBlocks(function))(THETA), exact=False)
    assert set(sizes) == {BLOCK, 5, 1}


def test_an_empty_batch():
    assert len(Parallel(lambda: ByRows(row))(np.empty((0, 2))).logp) == 0


def test_errors_are_logged_once(caplog):
    rows = Parallel(lambda: ByRows(row))
    with caplog.at_level(logging.WARNING, "pymc_sph"):
        rows(THETA)
        rows(THETA)
    [record] = caplog.records
    assert "ValueError: too far to the left" in record.getMessage()


def fragile(theta):
    """A banana whose simulator breaks down in a corner that carries little mass."""
    if (theta[:, 0] > 2).any():
        raise RuntimeError("the solver did not converge")
    return banana(theta)[0]


def test_a_fit_does_not_depend_on_the_number_of_workers():
    options = {"n": 30, "fluids": 2, "paths": 2, "random_seed": 3}
    one, two = (fit_density(fragile, 2, cores=cores, **options) for cores in (1, 2))
    assert one.elbo == two.elbo and one.n_failed == two.n_failed > 0
    np.testing.assert_array_equal(one.mixture.mean(), two.mixture.mean())
    assert one.n_failed <= one.n_nonfinite + one.n_evaluations


def test_workers_are_for_functions_without_gradient():
    with pytest.raises(SettingsError, match="cores"):
        fit_density(banana, 2, cores=2)
