"""What has to hold for a fit of any model, each by a computation of its own."""

from __future__ import annotations

import random
import warnings

from typing import Any

import numpy as np

from model_fuzz import FuzzedModel
from pymc.model import Model
from pytensor.compile.mode import get_mode
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pymc_sph import SPH, UnreliableFitWarning, exploration, idata

DRAWS = 12


def settings(rnd: random.Random) -> dict[str, Any]:
    """Small settings, and now and then unusual ones."""
    values = {
        "fluids": rnd.randint(1, 3),
        "particles": rnd.randint(1, 4),
        "probes": rnd.choice([2, 4]),
        "tensor": rnd.choice(["full", "diagonal"]),
        "temperature": rnd.choice([1, 1, 1, 4]),
        "cooling": 1,
        "paths": 1,
        "draws": 100,
    }
    if rnd.randrange(10) == 0:
        values["formulation"] = "pressure"
    return values


def check_fit(m: FuzzedModel, seed: int, mode: str = "FAST_COMPILE") -> str:
    """Fit a model, shortly, and check everything; return the grade of the fit.

    Raises
    ------
    AssertionError
    """
    random_state = np.random.get_state()[1].copy(), random.getstate()
    with warnings.catch_warnings(), few_probes():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnreliableFitWarning)
        warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS")
        warnings.filterwarnings("ignore", r".*np\.dot.*is faster on contiguous arrays")
        inference = SPH(m.model, random_seed=seed, **settings(random.Random(seed)))
        approx = inference.fit(3, progressbar=False, compile_kwargs={"mode": mode})
        draws = approx.sample(DRAWS, random_seed=seed, include_transformed=True)
        again = inference.fit(3, progressbar=False, compile_kwargs={"mode": mode})
        same_bits(draws, again.sample(DRAWS, random_seed=seed, include_transformed=True))
        chains = approx.sample_chains(5, random_seed=seed)
    assert np.array_equal(random_state[0], np.random.get_state()[1]), "global random state"
    assert random_state[1] == random.getstate(), "global random state"
    labels_are_right(m.model, draws, 1, DRAWS)
    labels_are_right(m.model, chains, len(approx.mixture.fluids), 5)
    for data in (draws, chains):
        inside_support(m, data)
    theta = joined(m.model, draws)
    variables_are_right(m.model, draws)
    stats = idata.group(draws, "sample_stats")
    brute = density_by_sum(approx.mixture, theta)
    near = 1e-6 + rounding(approx.mixture, theta)
    np.testing.assert_allclose(approx.log_density(theta), brute, rtol=1e-9, atol=near)
    void = approx.result.void
    np.testing.assert_allclose(
        stats["log_q"].values[0], brute - np.log1p(-void), rtol=1e-9, atol=near
    )
    np.testing.assert_allclose(
        stats["log_weight"].values[0], (stats["lp"] - stats["log_q"]).values[0], atol=1e-9
    )
    attrs_are_there(draws)
    return approx.verdict.grade


class few_probes:
    """Four paths instead of 32 look for more modes: the search is not what is tested here."""

    def __enter__(self) -> None:
        self.round, exploration.ROUND = exploration.ROUND, 4

    def __exit__(self, *_: Any) -> None:
        exploration.ROUND = self.round


def same_bits(first: Any, second: Any) -> None:
    for name in ("posterior", "sample_stats", "unconstrained_posterior", "fluid"):
        a, b = idata.group(first, name), idata.group(second, name)
        for variable in a.data_vars:
            np.testing.assert_array_equal(a[variable].values, b[variable].values, str(variable))


def labels_are_right(model: Model, data: Any, chains: int, draws: int) -> None:
    """Names, dimensions and coordinates of the posterior are the model's."""
    posterior = idata.group(data, "posterior")
    wanted = [v.name for v in model.unobserved_RVs]
    assert set(posterior.data_vars) == set(wanted), set(posterior.data_vars) ^ set(wanted)
    for variable in model.unobserved_RVs:
        name = variable.name
        values = posterior[name]
        assert values.shape[:2] == (chains, draws), (name, values.shape)
        for i, dim in enumerate(model.named_vars_to_dims.get(name) or ()):
            assert values.dims[2 + i] == dim, (name, values.dims)
            if model.coords.get(dim) is not None:
                assert list(posterior.coords[dim].values) == list(model.coords[dim]), (name, dim)
    observed = [v.name for v in model.observed_RVs]
    if observed:
        assert set(idata.group(data, "observed_data").data_vars) <= set(observed)


def inside_support(m: FuzzedModel, data: Any) -> None:
    posterior = idata.group(data, "posterior")
    values = {
        str(name): x.values.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        for name, x in posterior.data_vars.items()
    }
    for name, x in values.items():
        assert np.isfinite(x).all(), f"{name} is not finite: {x}"
    for name, holds in m.supports.items():
        assert holds(values), f"{name} outside of its support: {values[name]}"
    assert np.isfinite(idata.group(data, "sample_stats")["lp"].values).all(), "lp is not finite"


def joined(model: Model, data: Any) -> np.ndarray:
    """Unconstrained draws (n, d), coordinates in the order of the model's value variables."""
    values = idata.group(data, "unconstrained_posterior")
    parts = [values[v.name].values[0].reshape(DRAWS, -1) for v in model.value_vars]
    return np.concatenate(parts, axis=1)


def variables_are_right(model: Model, data: Any) -> None:
    """PyMC's own functions, one point at a time, give the same variables and log densities."""
    # the stable forms are part of what log p means: log(1 - exp(-40)) is not 0
    mode = get_mode("FAST_COMPILE").including("stabilize", "specialize")
    logp = model.compile_logp(mode=mode)
    names = [v.name for v in model.unobserved_RVs]
    outs = [v for v in model.unobserved_value_vars if v.name in names]
    assert len(outs) == len(names)
    variables = model.compile_fn(outs, inputs=model.value_vars, mode=mode, on_unused_input="ignore")
    posterior = idata.group(data, "posterior")
    values = idata.group(data, "unconstrained_posterior")
    lp = idata.group(data, "sample_stats")["lp"].values[0]
    for i in range(DRAWS):
        point = {v.name: values[v.name].values[0, i].astype(v.dtype) for v in model.value_vars}
        exact = float(logp(point))
        # a stable form may differ in the last digits where terms cancel
        np.testing.assert_allclose(lp[i], exact, rtol=1e-7, atol=1e-6, err_msg="lp")
        if i >= 3:
            continue
        for out, value in zip(outs, variables(point), strict=True):
            drawn = posterior[out.name].values[0, i]
            assert drawn.shape == value.shape, (out.name, drawn.shape, value.shape)
            np.testing.assert_allclose(drawn, value, rtol=1e-7, atol=1e-9, err_msg=out.name)


def density_by_sum(mixture: Any, theta: np.ndarray) -> np.ndarray:
    """Log q at theta (n, d): every kernel of every fluid, as SciPy's normal distribution."""
    parts = []
    for fluid, share in zip(mixture.fluids, mixture.log_weights, strict=True):
        for i in range(fluid.n_particles):
            A = fluid.A[i] if fluid.full else np.diag(fluid.A[i])
            root = fluid.L @ A
            # whitened: SciPy would call a covariance with sds of 1e-6 and 1e3 singular
            e = np.linalg.solve(root, (theta - fluid.mu - fluid.L @ fluid.z[i]).T).T
            normal = multivariate_normal(np.zeros(mixture.dim)).logpdf(e)
            log_det = np.linalg.slogdet(root)[1]
            parts.append(share + fluid.log_m[i] + np.reshape(normal, len(theta)) - log_det)
    return np.asarray(logsumexp(parts, axis=0))


def rounding(mixture: Any, theta: np.ndarray) -> float:
    """Error of a log density from rounding theta: many digits of it drop out of narrow kernels."""
    narrowest = np.inf
    for fluid in mixture.fluids:
        roots = fluid.L @ (fluid.A if fluid.full else fluid.A[:, :, None] * np.eye(fluid.dim))
        narrowest = min(narrowest, np.linalg.svd(roots, compute_uv=False).min())
    # by the gradient of the log density, at up to ten widths
    return float(100 * mixture.dim * np.finfo(float).eps * np.abs(theta).max() / narrowest)


def attrs_are_there(data: Any) -> None:
    attrs = idata.group(data, "posterior").attrs
    for name in (
        "inference_library", "inference_library_version", "inference_library_settings",
        "sampling_time", "status", "elbo", "log_evidence", "pareto_k", "importance_ess",
        "verdict", "verdict_reason", "importance",
    ):  # fmt: skip
        assert name in attrs, name
    assert attrs["inference_library"] == "pymc_sph"
