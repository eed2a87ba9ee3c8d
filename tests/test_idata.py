"""The container of the installed PyMC, from draws made by hand."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import pymc as pm
import pytest
import xarray as xr

from round_trip import netcdf_round_trip
from scipy.stats import norm

from pymc_sph.idata import PYMC_5, group_names, netcdf_attrs, to_container

Y = np.array([0.5, -1.0, 2.0])


@pytest.fixture(scope="module")
def model():
    with pm.Model(coords={"city": ["Bonn", "Köln", "Trier"]}) as model:
        x = pm.Data("x", [1.0, 2.0, 3.0], dims="city")
        a = pm.Normal("a", 0, 1, dims="city")
        s = pm.HalfNormal("s", 1)
        mean = pm.Deterministic("mean", a * x, dims="city")
        pm.Normal("y", mean, s, observed=Y, dims="city")
    return model


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(0)
    a, s = rng.standard_normal((2, 50, 3)), np.exp(rng.standard_normal((2, 50)))
    return {"a": a, "s": s, "mean": a * [1, 2, 3]}


@pytest.fixture(scope="module")
def data(model, draws):
    lp = np.arange(100.0).reshape(2, 50)
    return to_container(
        draws,
        {"lp": lp, "fluid": np.zeros((2, 50), dtype=int)},
        model,
        unconstrained={"a": draws["a"], "s_log__": np.log(draws["s"])},
        attrs={"elbo": -3.5, "settings": json.dumps({"n": [1, None]}), "flag": True, "none": None},
        log_likelihood=True,
    )


def groups(data):
    return set(group_names(data))


def test_container_is_that_of_the_installed_pymc(data):
    assert isinstance(data, az.InferenceData if PYMC_5 else xr.DataTree)
    assert groups(data) == {
        "posterior", "sample_stats", "unconstrained_posterior", "observed_data",
        "constant_data", "log_likelihood",
    }  # fmt: skip


def test_names_of_axes(data, draws):
    posterior = data["posterior"]
    for name in ("a", "mean"):
        assert posterior[name].dims == ("chain", "draw", "city")
        np.testing.assert_array_equal(posterior[name].values, draws[name])
    assert posterior["s"].dims == ("chain", "draw")
    assert list(posterior["city"].values) == ["Bonn", "Köln", "Trier"]
    # a value variable of the same shape has the same meaning
    unconstrained = data["unconstrained_posterior"]
    assert unconstrained["a"].dims == ("chain", "draw", "city")
    assert unconstrained["s_log__"].dims == ("chain", "draw")
    assert data["observed_data"]["y"].dims == ("city",)
    assert data["constant_data"]["x"].values.tolist() == [1, 2, 3]


def test_log_likelihood_is_scipys(data, draws):
    exact = norm(draws["mean"], draws["s"][..., None]).logpdf(Y)
    np.testing.assert_allclose(data["log_likelihood"]["y"].values, exact, rtol=1e-9)


def test_more_coords_and_dims(model, draws):
    out = to_container(
        draws, {}, model, coords={"city": ["b", "k", "t"], "part": [7, 8, 9]}, dims={"a": ["part"]}
    )
    assert out["posterior"]["a"].dims[2] == "part"
    assert list(out["posterior"]["city"].values) == ["b", "k", "t"]


def test_file_holds_everything(data, tmp_path):
    back = netcdf_round_trip(data, tmp_path)
    assert groups(back) == groups(data)
    for group in groups(data):
        for name, values in data[group].data_vars.items():
            np.testing.assert_array_equal(back[group][name].values, values.values)
    attrs = back["posterior"].attrs
    assert attrs["elbo"] == -3.5 and attrs["inference_library"] == "pymc_sph"
    assert json.loads(attrs["settings"]) == {"n": [1, None]}
    if not PYMC_5:
        back.close()


def test_attributes_are_numbers_and_text():
    attrs = netcdf_attrs(
        {"a": True, "b": None, "c": np.float64(2), "d": {"e": 1}, "f": "g", "h": 3}
    )
    assert attrs == {"a": "True", "b": "None", "c": 2.0, "d": "{'e': 1}", "f": "g", "h": 3}
    assert all(isinstance(v, str | int | float) for v in attrs.values())


def test_summary(data, draws):
    table = az.summary(data, var_names=["a", "s"], round_to="none" if PYMC_5 else None)
    assert list(table.index) == ["a[Bonn]", "a[Köln]", "a[Trier]", "s"]
    if PYMC_5:
        assert float(table.loc["s", "mean"]) == pytest.approx(draws["s"].mean(), rel=0.05)
