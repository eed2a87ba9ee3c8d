"""`approx.save` and `pymc_sph.load`: the same draws, densities, evidence and verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pymc as pm
import pytest

from gradient_blocker import block_gradient
from same_bits import differences
from small_models import constrained, eight_schools

import pymc_sph

from pymc_sph import SPH, FileError, MismatchError, SettingsError
from pymc_sph.idata import group_names

SMALL = {"fluids": 2, "particles": 8}


def blocked():
    model = eight_schools()
    block_gradient(model)
    return model


FITS = {
    "schools": (eight_schools, {}),
    "constrained": (constrained, SMALL),
    "diagonal": (constrained, SMALL | {"tensor": "diagonal", "temperature": lambda step: 1.0}),
    "pressure": (blocked, SMALL),
    "collocated": (
        eight_schools,
        {"scheme": "collocated", "fluids": 2, "particles": 24, "draws_from": "particles"},
    ),
}


def groups(data):
    return {
        (group, name): data[group][name].values
        for group in group_names(data)
        for name in data[group].data_vars
    }


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
@pytest.mark.parametrize("suffix", ["npz", "zarr"])
@pytest.mark.parametrize("name", FITS)
def test_a_loaded_fit_is_the_same_to_the_bit(name, suffix, tmp_path):
    make, settings = FITS[name]
    model = make()
    approx = SPH(model, 5, **settings).fit(60, progressbar=False)
    path = tmp_path / f"fit.{suffix}"
    approx.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with make():
        again = pymc_sph.load(str(path))
    for what in (
        "result",
        "verdict",
        "status",
        "hist",
        "history",
        "mixture",
        "attrs",
        "draws_from",
    ):
        assert differences(getattr(approx, what), getattr(again, what)) == [], what
    theta = approx.mixture.sample(40, np.random.default_rng(1)).theta
    np.testing.assert_array_equal(approx.log_density(theta), again.log_density(theta))
    assert again.log_evidence == approx.log_evidence and again.elbo == approx.elbo
    assert len(again.simulations) == len(approx.simulations) == settings.get("fluids", 4)
    if name != "collocated":
        chains = (a.sample_chains(20, random_seed=3) for a in (approx, again))
        assert differences(*map(groups, chains)) == []
    single = (a.sample(30, random_seed=2, include_transformed=True) for a in (approx, again))
    assert differences(*map(groups, single)) == []
    np.testing.assert_array_equal(again.params[0].get_value(), approx.params[0].get_value())


@pytest.mark.filterwarnings("ignore::pymc_sph.UnreliableFitWarning")
def test_a_fit_loads_in_another_process(tmp_path):
    model = eight_schools()
    approx = SPH(model, 5, **SMALL).fit(30, progressbar=False, include_transformed=True)
    approx.save(tmp_path / "fit.npz")
    code = (
        "import json, pymc_sph; from small_models import eight_schools\n"
        "with eight_schools(): approx = pymc_sph.load('fit.npz')\n"
        "d = approx.sample(5, random_seed=1)\n"
        "print(json.dumps([d['sample_stats']['lp'].values.tolist(),"
        " d['posterior']['theta'].values.tolist(), str(approx.verdict)]))"
    )
    here = os.path.dirname(__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(here), here])}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    data = approx.sample(5, random_seed=1)
    expected = [data[g][n].values.tolist() for g, n in (("sample_stats", "lp"),
                                                       ("posterior", "theta"))]  # fmt: skip
    assert json.loads(out.stdout) == [*expected, str(approx.verdict)]
    again = pymc_sph.load(tmp_path / "fit.npz", model)
    assert "tau_log__" in again.state.mean
    step = pymc_sph.FluidMetropolis(again, model=model)  # what takes a fit takes a loaded one
    assert step is not None
    assert not [t for t in threading.enumerate() if t.name.startswith("pymc_sph")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fit") / "fit.npz"
    method = SPH(eight_schools(), 5, fluids=1, particles=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pymc_sph.UnreliableFitWarning)  # three steps, one fluid
        method.fit(3, progressbar=False).save(path)
    return path


def test_a_partial_fit_can_be_saved(tmp_path):
    means = []

    def stop(approx, losses, i):
        means.append(approx.mixture.mean())
        approx.save(tmp_path / "running.npz")
        raise ZeroDivisionError

    method = SPH(eight_schools(), 5, fluids=1, particles=4)
    with pytest.raises(ZeroDivisionError):
        method.fit(progressbar=False, callbacks=[stop])
    method.approx.save(tmp_path / "failed.npz")
    means.append(method.approx.mixture.mean())
    for status, mean in zip(("running", "failed"), means, strict=True):
        again = pymc_sph.load(tmp_path / f"{status}.npz", method.model)
        assert again.status == status
        np.testing.assert_array_equal(again.mixture.mean(), mean)


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
def test_another_model_says_so(saved):
    with constrained(), pytest.raises(MismatchError, match="mu is missing; tau_log__ is missing"):
        pymc_sph.load(saved)
    with pytest.raises(TypeError, match="No model on context stack"):
        pymc_sph.load(saved)


def test_other_data_are_told_and_the_fit_is_loaded(saved):
    model = eight_schools()
    before = pymc_sph.load(saved, model).sample(5, random_seed=1)
    with model:
        pm.set_data({"error": np.full(8, 12.0)})
        with pytest.warns(UserWarning, match="other data than that of the fit: error has other"):
            after = pymc_sph.load(saved).sample(5, random_seed=1)
    for name, group, same in (("mu", "posterior", True), ("lp", "sample_stats", False)):
        one, two = (d[group][name].values for d in (before, after))
        assert np.array_equal(one, two) == same


def test_what_cannot_be_saved_or_resumed_says_so(saved, tmp_path):
    model = eight_schools()
    with pytest.raises(RuntimeError, match="Nothing has been fitted yet"):
        SPH(model).approx.save(tmp_path / "fit.npz")
    approx = pymc_sph.load(saved, model)
    with pytest.raises(SettingsError, match=r"^path=.*\.npz or \.zarr"):
        approx.save(tmp_path / "fit.pkl")
    with pytest.raises(FileError, match=r"holds a finished fit: pymc_sph.load"):
        pymc_sph.resume(saved, model)
    with pytest.raises(SettingsError, match="a fit was saved there, which is not overwritten"):
        SPH(model, checkpoint=saved).fit(1, progressbar=False)
    approx.save(tmp_path / "again.npz")
    approx.save(tmp_path / "again.npz")  # takes the place of the older one
    assert differences(pymc_sph.load(tmp_path / "again.npz", model).result, approx.result) == []
