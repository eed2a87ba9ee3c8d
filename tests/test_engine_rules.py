"""What holds for the engine as a whole: its imports, purity, equilibria, bounds and ascent."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys

from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from fluids import banana, brute_log_rho, gaussian, random_fluid
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import logsumexp

import pymc_sph

from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import Ensemble
from pymc_sph.fluid import resolution
from pymc_sph.fluid.density import density, draw_noise, draw_probes
from pymc_sph.fluid.state import Fluid, log_det_frame, to_frame, to_unconstrained
from pymc_sph.fluid.step import Rates, step
from pymc_sph.settings import Settings

SEED = 20
PACKAGE = Path(pymc_sph.__file__).parent
ENGINE = [
    "ahead", "checks", "collocated_settings", "confluence", "density_fit", "density_target",
    "ensemble", "exploration", "final_check", "gradient_free_start", "importance", "interrupts",
    "links", "mixture", "parallel", "placing", "process", "rehearsal", "result", "schemes", "seeds",
    "settings", "start", "verdict", "workers",
]  # fmt: skip
FILES = sorted([*PACKAGE.glob("fluid/*.py"), *(PACKAGE / f"{name}.py" for name in ENGINE)])
seeds = st.integers(0, 2**32 - 1)


def run_step(fluid, target, seed=0, k=64, rates=None):
    noise = draw_noise(np.random.default_rng(seed), k, fluid.dim)
    return step(fluid, noise, target, rates or Rates())


def assert_same(one, two, **close):
    for field in dataclasses.fields(Fluid):
        a, b = getattr(one, field.name), getattr(two, field.name)
        np.testing.assert_allclose(a, b, err_msg=field.name, **(close or {"rtol": 0}))


# --- rules of the code


def test_the_engine_runs_where_pymc_cannot_be_imported():
    # the package's own __init__ is left out; a stub stands for it
    code = f"""
import json, sys, types
for name in ("pymc", "pytensor"):
    sys.modules[name] = None  # importing it raises ImportError
package = types.ModuleType("pymc_sph")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["pymc_sph"] = package
from pymc_sph.density_fit import fit_density
fit_density(lambda x: (-(x**2).sum(1), -2 * x), 2, n=3, draws=200)
print(json.dumps([m for m in sys.modules if m.startswith("pymc_sph.")]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[1] for name in json.loads(done.stdout)}
    assert loaded == {"fluid", *ENGINE}  # what the rule below is checked on is the whole engine


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_engine_prints_nothing_and_draws_from_no_global_generator(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
            assert not {n.split(".")[0] for n in names} & {"random", "pymc", "pytensor"}
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np.random":
            # types of what a user may pass in, and a generator that is seeded
            assert node.attr in (
                "BitGenerator", "Generator", "RandomState", "SeedSequence", "default_rng",
            )  # fmt: skip
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print"
            # a generator without a seed is global randomness by another name
            assert node.args or not called.endswith(("default_rng", "RandomState"))


def test_a_fit_leaves_the_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    fit_density(gaussian(np.zeros(2), np.eye(2)), 2, n=3, random_seed=SEED)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# --- one step


def own_density(fluid):
    """The fluid's density as the target, with its gradient, in unconstrained space."""

    def target(theta):
        field = density(fluid, to_frame(fluid, theta))
        grad = np.linalg.solve(fluid.L.T, field.grad.T).T
        return field.log_rho - log_det_frame(fluid), grad

    return target


@given(seeds, st.booleans(), st.integers(1, 4))
@hypothesis_settings(max_examples=50)
def test_a_fluid_of_many_particles_that_is_the_target_stays(seed, full, n):
    fluid = random_fluid(np.random.default_rng(seed), n=n, full=full)
    # no particle so light that it is moved elsewhere; at rest
    even = np.log(np.linspace(1, 2, n) / np.linspace(1, 2, n).sum())
    fluid = dataclasses.replace(fluid, u=np.zeros_like(fluid.u), log_m=even)
    after, seen = run_step(fluid, own_density(fluid), seed)
    assert seen.elbo == pytest.approx(0, abs=1e-10) and seen.ess == pytest.approx(1)
    assert_same(after, fluid, rtol=0, atol=1e-10)


@pytest.mark.parametrize("part", ["logp", "grad", "one entry"])
def test_a_broken_value_and_a_broken_gradient_are_both_set_aside(part):
    fluid = random_fluid(np.random.default_rng(1))
    y, _ = draw_probes(fluid, draw_noise(np.random.default_rng(0), 64, 2))
    edge = np.median(to_unconstrained(fluid, y)[:, 1])

    def target(theta):
        logp, grad = (x.copy() for x in banana(theta))
        bad = theta[:, 1] > edge
        if part == "logp":
            logp[bad] = np.nan
        elif part == "grad":
            grad[bad] = np.nan
        else:
            grad[bad, 1] = np.inf
        return logp, grad

    def wild(theta):  # the same probes broken, with other numbers behind
        bad = theta[:, 1] > edge
        logp, grad = banana(theta)
        return np.where(bad, np.nan, logp), np.where(bad[:, None], 1e300, grad)

    after, seen = run_step(fluid, target)
    assert seen.n_nonfinite == 32 and np.isfinite(seen.elbo)
    assert_same(after, run_step(fluid, wild)[0])
    logp, _ = banana(to_unconstrained(fluid, y))
    log_w = logp - brute_log_rho(fluid, y) + log_det_frame(fluid)
    kept = log_w[to_unconstrained(fluid, y)[:, 1] <= edge]
    assert seen.elbo == pytest.approx(kept.mean(), rel=1e-6)
    assert seen.variance == pytest.approx(kept.var(), rel=1e-6)
    expected = np.exp(2 * logsumexp(kept) - logsumexp(2 * kept)) / 64
    assert seen.ess == pytest.approx(expected, rel=1e-6)


def test_a_void_pushes_nothing_and_takes_mass_away():
    fluid = random_fluid(np.random.default_rng(1))
    far = np.array([[0, 0], [0, 0], [0, 0], [40.0, 0]])
    away = dataclasses.replace(fluid, z=fluid.z + far, u=np.zeros_like(fluid.u))
    edge = away.mu[0] + away.L[0] @ np.array([20.0, 0])

    def target(theta):
        logp, grad = banana(theta)
        void = theta[:, 0] > edge
        return np.where(void, -np.inf, logp), np.where(void[:, None], np.nan, grad)

    y, own = draw_probes(away, draw_noise(np.random.default_rng(0), 64, 2))
    assert 0 < np.sum(own == 3) < 64
    after, seen = run_step(away, target, rates=Rates(frame=0.0, viscosity=0.0))
    assert seen.n_nonfinite == np.sum(own == 3)
    np.testing.assert_allclose(after.z[3], away.z[3])
    np.testing.assert_allclose(after.A[3], away.A[3])
    # the others would be there alone: what the void costs is the log of their share
    logp, _ = banana(to_unconstrained(away, y))
    log_w = (logp - brute_log_rho(away, y) + log_det_frame(away))[own != 3]
    assert seen.elbo == pytest.approx(log_w.mean() + np.log(np.mean(own != 3)), rel=1e-6)
    for t in range(30):
        after, _ = run_step(after, target, seed=t, rates=Rates(frame=0.0))
    assert np.exp(after.log_m[3]) < 0.01 * np.exp(away.log_m[3]) or after.z[3, 0] < 20


def steep(scale):
    def target(theta):
        logp, grad = banana(theta)
        return scale * logp, scale * grad

    return target


@given(seeds, st.booleans(), st.floats(1e-3, 1e6), st.sampled_from([0.01, 0.05, 1.0]))
@hypothesis_settings(max_examples=60)
def test_tensors_frame_and_masses_stay_in_their_bounds(seed, full, scale, trust):
    fluid = random_fluid(np.random.default_rng(seed), full=full)
    rates = Rates(tensor=2.0, mass=2.0, frame=2.0, trust=trust)
    with mock.patch.object(resolution, "SPENT", 1e-300):  # a split moves a particle at one go
        after, _ = run_step(fluid, steep(scale), seed, rates=rates)
    bound = trust * (1 + 1e-6) + 1e-12
    invertible = min(trust, 0.125) * (1 + 1e-6) + 1e-12  # for I + M / 2, whatever M is
    if full:
        change = np.linalg.solve(fluid.A, after.A) - np.eye(2)
        assert (0.5 * np.sum(change**2, axis=(1, 2)) <= invertible).all()
        sign = np.linalg.det(after.A) * np.linalg.det(fluid.A)
        assert (sign > 0).all()  # never through a singular tensor
    else:
        change = np.log(after.A / fluid.A)
        assert (0.5 * np.sum(change**2, axis=1) <= bound).all()
    stretch = np.linalg.solve(fluid.L, after.L) - np.eye(2)
    assert 0.5 * np.sum(stretch**2) <= invertible
    # at most one nat a step, and renormalising no more than that again
    assert (np.abs(after.log_m - fluid.log_m) <= 2 + 1e-9).all()
    assert np.exp(after.log_m).sum() == pytest.approx(1)


AXIS = np.linspace(-8, 8, 161)
GRID = np.stack(np.meshgrid(AXIS, AXIS), axis=-1).reshape(-1, 2)


def free_energy(fluid, target):
    log_rho = brute_log_rho(fluid, GRID)
    logp, _ = target(to_unconstrained(fluid, GRID))
    log_q = log_rho - log_det_frame(fluid)
    return -np.sum(np.exp(log_rho) * (logp - log_q)) * (AXIS[1] - AXIS[0]) ** 2


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("which", ["all", "dt", "tensor", "mass", "frame"])
def test_a_small_step_of_every_part_lowers_the_free_energy(seed, full, which):
    rng = np.random.default_rng(seed)
    fluid = random_fluid(rng, full=full)
    fluid = dataclasses.replace(
        fluid, z=0.7 * fluid.z, u=0 * fluid.u, L=0.8 * np.eye(2), mu=0.3 * fluid.mu
    )
    parts = {name: 1e-2 * (which in ("all", name)) for name in ("dt", "tensor", "mass", "frame")}
    parts["dt"] = max(parts["dt"], 1e-12)
    rates = Rates(**parts, damping=1.0, viscosity=0.0)
    target = steep(0.5)
    with mock.patch.object(resolution, "SPENT", 1e-300):
        after, _ = run_step(fluid, target, seed, k=4000, rates=rates)  # noise far below the force
    assert free_energy(after, target) < free_energy(fluid, target)


# --- the whole engine


def advance(ensemble, target):
    while not ensemble.done:
        ensemble, _ = ensemble.step(target)
    return ensemble


def test_extending_is_the_same_as_having_asked_for_more():
    # cold: the length of the cooling depends on the number of steps asked for
    settings = Settings(fluids=2, temperature=1.0, tol=1e-12)
    points = np.array([[0.5, 0.5], [-1.0, 2.0]])
    through = advance(Ensemble.start(banana, points, settings, SEED, 9), banana)
    half = advance(Ensemble.start(banana, points, settings, SEED, 4), banana)
    assert half.status == "max_steps"
    longer = advance(half.extend(5), banana)
    for a, b in zip(through.simulations, longer.simulations, strict=True):
        assert_same(a.fluid, b.fluid)
        assert a.schedule == b.schedule
    assert longer.n_evaluations == through.n_evaluations
    assert half.n_steps == 4  # the value that was extended is as it was


def test_every_gradient_of_a_fit_is_counted():
    spent = 0

    def target(theta):
        nonlocal spent
        spent += len(theta)
        return banana(theta)

    result = fit_density(target, 2, n=5, random_seed=SEED, draws=400)
    assert result.n_evaluations == spent and result.n_steps == 5


def test_a_fit_is_its_seed():
    one, two, other = (
        fit_density(banana, 2, n=5, random_seed=s, draws=400) for s in (SEED, SEED, SEED + 1)
    )
    assert one.elbo == two.elbo != other.elbo
    assert one.log_evidence == two.log_evidence and one.pareto_k == two.pareto_k
    for a, b in zip(one.mixture.fluids, two.mixture.fluids, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("tensor", ["full", "diagonal"])
def test_one_fluid_in_one_dimension(tensor):
    target = gaussian(np.array([3.0]), np.array([[4.0]]))
    result = fit_density(target, 1, fluids=1, tensor=tensor, random_seed=SEED)
    assert result.elbo == pytest.approx(0, abs=0.02)
    assert np.isnan(result.r_hat) and result.verdict.grade == "reliable"
    assert result.mixture.log_weights.tolist() == [0.0]


def test_a_target_that_breaks_halfway_ends_in_a_verdict():
    broken = False

    def target(theta):
        logp, grad = banana(theta)
        return (np.full_like(logp, np.nan), np.full_like(grad, np.nan)) if broken else (logp, grad)

    ensemble = Ensemble.start(target, np.zeros((1, 2)), Settings(fluids=2), SEED, 1000)
    ensemble, _ = ensemble.step(target)
    before, broken = ensemble, True
    ensemble = advance(ensemble, target)
    result = ensemble.finish(target)
    assert result.status == "non_finite" and result.verdict.grade == "unreliable"
    assert result.elbo == -np.inf and result.n_nonfinite > 0
    for a, b in zip(before.simulations, ensemble.simulations, strict=True):
        assert_same(a.fluid, b.fluid)
