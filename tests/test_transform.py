"""Transforms of many kinds of variables, batched, against PyMC's scalar functions."""

from __future__ import annotations

import logging

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from small_models import as_point, constrained, eight_schools

from pymc_sph import transform as module
from pymc_sph.transform import compile_transform


def assert_rows_are_pymcs(model, n=7):
    transform = compile_transform(model, include_transformed=True)
    theta = np.random.default_rng(0).standard_normal((n, transform.dim))
    out = transform(theta)
    scalar = model.compile_fn(model.unobserved_value_vars, mode="FAST_COMPILE")
    for k, row in enumerate(theta):
        values = scalar(as_point(model, row))
        for var, value in zip(model.unobserved_value_vars, values, strict=True):
            assert out[var.name][k].shape == np.shape(value)
            np.testing.assert_allclose(out[var.name][k], value, rtol=1e-10, atol=1e-12)
    return out


@pytest.mark.filterwarnings("ignore:Data in y contains missing values")
def test_constraints_of_many_kinds():
    out = assert_rows_are_pymcs(constrained())
    np.testing.assert_allclose(out["p"].sum(axis=1), 1)
    assert (np.diff(out["o"], axis=1) > 0).all()
    assert ((out["u"] > out["low"]) & (out["u"] < out["low"] + 2)).all()
    assert out["constant"].shape == (7, 2)


def test_deterministics_and_data():
    out = assert_rows_are_pymcs(eight_schools())
    np.testing.assert_allclose(out["theta"], out["mu"][:, None] + out["tau"][:, None] * out["z"])


def test_covariances_and_sums_of_zero():
    with pm.Model() as model:
        pm.LKJCholeskyCov("chol", n=3, eta=2, sd_dist=pm.Exponential.dist(1.0))
        pm.ZeroSumNormal("zero", shape=(2, 4))
        pm.VonMises("angle", 0, 1)
        pm.Normal("nothing", shape=0)
        pm.Deterministic("fixed", pt.as_tensor(np.arange(6).reshape(2, 3)))
    out = assert_rows_are_pymcs(model)
    np.testing.assert_allclose(np.diagonal(out["chol_corr"], axis1=1, axis2=2), 1)
    np.testing.assert_allclose(out["zero"].sum(axis=-1), 0, atol=1e-12)
    assert out["nothing"].shape == (7, 0)
    assert out["fixed"].dtype.kind == "i" and out["fixed"].shape == (7, 2, 3)


def recursion():
    with pm.Model() as model:
        a = pm.Normal("a")
        values = pytensor.scan(
            lambda h, a: a * h + 1,
            outputs_info=[pt.constant(np.float64(0.5))],
            non_sequences=[a],
            n_steps=4,
            return_updates=False,
        )
        pm.Deterministic("h", values)
    return model


def test_recursion():
    assert_rows_are_pymcs(recursion())


def test_what_cannot_be_batched_is_done_row_by_row(monkeypatch, caplog):
    def refuse(*_):
        raise NotImplementedError("no batch")

    monkeypatch.setattr(module, "_batched", refuse)
    with caplog.at_level(logging.INFO, logger="pymc_sph"):
        assert_rows_are_pymcs(recursion())
    assert "looping over the draws" in caplog.text


def test_blocks_bound_the_memory(monkeypatch):
    with pm.Model() as model:
        pm.Normal("x", shape=5)
    transform = compile_transform(model)
    theta = np.random.default_rng(1).standard_normal((103, 5))
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 100)
    assert transform.block_rows == 10
    np.testing.assert_array_equal(transform(theta)["x"], theta)


def test_wrong_shape():
    with pm.Model() as model:
        pm.Normal("x", shape=2)
    with pytest.raises(ValueError, match=r"\(n, 2\), got \(4, 3\)"):
        compile_transform(model)(np.zeros((4, 3)))


@pytest.mark.filterwarnings("ignore:The `pymc.dims` module is experimental")
def test_named_dimensions():
    with pm.Model() as plain:
        pm.Normal("x")
    compile_transform(plain)  # must not stand in the way of the import below
    import pymc.dims as pmd

    with pm.Model(coords={"place": range(3)}) as model:
        mu = pmd.Normal("mu", 0, 1, dims="place")
        pmd.Deterministic("scaled", mu * pmd.HalfNormal("scale"))
    out = assert_rows_are_pymcs(model)
    assert out["scaled"].shape == (7, 3)


def test_data_of_another_length():
    with pm.Model(coords={"row": range(4)}) as model:
        x = pm.Data("x", np.arange(4.0), dims="row")
        pm.Deterministic("mean", pm.Normal("a") * x, dims="row")
    transform = compile_transform(model)
    before = transform([[2.0]])["mean"]
    with model:
        pm.set_data({"x": np.arange(6.0)}, coords={"row": range(6)})
    after = transform([[2.0]])["mean"]
    np.testing.assert_array_equal(before, [2 * np.arange(4.0)])
    np.testing.assert_array_equal(after, [2 * np.arange(6.0)])
    assert transform(np.empty((0, 1)))["mean"].shape == (0, 6)
