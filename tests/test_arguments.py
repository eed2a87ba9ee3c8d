"""What pm.fit(method="sph") says to an argument that it cannot use: the name, and the remedy."""

from __future__ import annotations

import numpy as np
import pymc as pm
import pytest

import pymc_sph

from pymc_sph import SPH, BackendError, InitialPointError, SettingsError


@pytest.fixture(scope="module")
def model():
    with pm.Model() as model:
        pm.Normal("b", 0, 1, shape=2)
        pm.HalfNormal("s", 1)
    return model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start_sigma": {"s": 1.0}}, NotImplementedError, "start_sigma"),
        ({"inf_kwargs": {"fluid": 3}}, SettingsError, "'fluid'. Did you mean 'fluids'"),
        ({"inf_kwargs": [1]}, TypeError, r"inf_kwargs=\[1\]: give a dictionary"),
        ({"callback": [print]}, SettingsError, "Did you mean 'callbacks'"),
        ({"callbacks": print}, TypeError, "callbacks=.*: give a list of functions"),
        ({"callbacks": 3}, TypeError, "callbacks=3: give a list of functions"),
        ({"callbacks": [None]}, TypeError, "callbacks: None is no function"),
        ({"obj_optimizer": pm.adam()}, TypeError, "obj_optimizer.*remove it"),
        ({"threads": 0}, SettingsError, "threads=0: give an integer of at least 1"),
        ({"random_seed": "one"}, SettingsError, "random_seed='one': give None"),
        ({"model": "m"}, TypeError, "model='m': give a pymc.Model"),
        ({"start": [1]}, SettingsError, r"start=\[1\]: give a dictionary"),
        ({"start": {"z": 1}}, InitialPointError, "unknown variables: z. .* are b, s"),
        ({"start": {"b": [1, 2, 3]}}, InitialPointError, r"b has the shape \(3,\) .* \(2,\)"),
        ({"start": {"s": "big"}}, InitialPointError, "s is 'big', neither a number"),
        ({"start": {"s": -1.0}}, InitialPointError, "no finite value of s_log__.*support"),
        ({"backend": "cuda"}, BackendError, "'cuda': choose one of numba, c, jax"),
        ({"compile_kwargs": [1]}, BackendError, r"compile_kwargs=\[1\]: give a dictionary"),
        ({"compile_kwargs": {"mod": 1}}, BackendError, "compile_kwargs: .* 'mod'"),
        ({"compile_kwargs": {"mode": "X"}}, BackendError, "mode='X'.*'NUMBA'"),
        ({"compile_kwargs": {"mode": "CVM"}, "backend": "c"}, BackendError, "not both"),
    ],
)
def test_of_pm_fit(model, arguments, error, message):
    with model, pytest.raises(error, match=message):
        pm.fit(method="sph", progressbar=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fluids": 3}, SettingsError, "fluids.*give `chains`"),
        ({"importance": "sir"}, SettingsError, "importance='sir': choose 'psis' or None"),
        ({"importance": np.ones(3)}, SettingsError, "importance=array"),
        ({"draws": 0}, SettingsError, "draws=0: give an integer of at least 1"),
        ({"chains": 2.5}, SettingsError, "chains=2.5: give an integer of at least 1"),
        ({"random_sed": 1}, SettingsError, "Did you mean 'random_seed'"),
        ({"idata_kwargs": {"foo": 1}}, TypeError, r"^fit\(\) .*'foo'.*coords"),
    ],
)
def test_of_fit(model, arguments, error, message):
    with model, pytest.raises(error, match=message):
        pymc_sph.fit(progressbar=False, **arguments)


def test_of_other_methods_and_objects(model):
    method = SPH(model)
    with pytest.raises(KeyError, match="pymc_sph adds 'sph'"):
        pm.fit(method="nonsense", model=model)
    with pytest.raises(TypeError, match="fit"):
        method.refine(1)
    with pytest.raises(RuntimeError, match="Nothing has been fitted"):
        method.approx.sample()
    with pytest.raises(NotImplementedError, match="profile"):
        method.run_profiling()
    with model, pytest.warns(UserWarning, match=r"ignores random_seed, start when.*SPH\(\.\.\.\)"):
        pm.fit(0, method=method, random_seed=3, start={"s": 1.0}, progressbar=False)
