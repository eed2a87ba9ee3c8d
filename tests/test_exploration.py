"""Hot probes: modes found from a start in one of them, and none invented where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from fluids import banana, gaussian, ill_conditioned
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import Ensemble
from pymc_sph.exploration import apart, explore, known_mode
from pymc_sph.fluid.density import log_density
from pymc_sph.fluid.state import log_det_frame, pour, to_frame
from pymc_sph.placing import choose
from pymc_sph.settings import Settings, SettingsError
from pymc_sph.start import Gaussian, find_starts

SEED = 40


def normals(weights, centres, sds):
    """Log density and gradient of a mixture of round normals; normalised, so that log Z = 0."""
    weights, centres, sds = (np.asarray(x, dtype=float) for x in (weights, centres, sds))
    d = centres.shape[1]

    def target(theta):
        gap = (theta[:, None] - centres) / sds[:, None]
        part = np.log(weights) - 0.5 * np.sum(gap**2, axis=-1) - d * np.log(sds)
        part -= 0.5 * d * np.log(2 * np.pi)
        logp = logsumexp(part, axis=1)
        share = np.exp(part - logp[:, None])
        return logp, -np.sum(share[:, :, None] * gap / sds[:, None], axis=1)

    return target


def scattered(n_modes, d):
    """Modes in a box of 20, at least 5 apart, with weights 1, 2, 3 ... and scales .7 to 1.3."""
    rng = np.random.default_rng([n_modes, d])
    centres: list[np.ndarray] = []
    while len(centres) < n_modes:
        new = rng.uniform(-10, 10, d)
        if all(np.linalg.norm(new - c) > 5 for c in centres):
            centres.append(new)
    weights = np.arange(1, n_modes + 1) / np.sum(np.arange(1, n_modes + 1))
    return weights, np.array(centres), rng.uniform(0.7, 1.3, n_modes)


def in_one_mode(centres, weights, n=8):
    """Starting points in the heaviest mode alone."""
    rng = np.random.default_rng(SEED)
    return centres[np.argmax(weights)] + 0.5 * rng.standard_normal((n, centres.shape[1]))


@pytest.mark.parametrize(
    ("n_modes", "d"), [(5, 2), (4, 5), pytest.param(10, 5, marks=pytest.mark.slow)]
)
def test_modes_are_found_from_one_of_them_with_their_weights(n_modes, d):
    weights, centres, sds = scattered(n_modes, d)
    target = normals(weights, centres, sds)
    result = fit_density(target, d, points=in_one_mode(centres, weights), random_seed=SEED)
    theta = result.mixture.sample(40_000, np.random.default_rng(SEED)).theta
    exact = np.concatenate(
        [
            np.random.default_rng(i).normal(c, s, (int(200_000 * w), d))
            for i, (w, c, s) in enumerate(zip(weights, centres, sds, strict=True))
        ]
    )

    def shares(points):
        gap = np.sum((points[:, None] - centres) ** 2, axis=-1)
        return np.bincount(np.argmin(gap, axis=1), minlength=n_modes) / len(points)

    # standard error of a share of 40,000 draws: at most .0025
    np.testing.assert_allclose(shares(theta), shares(exact), atol=0.015)
    assert result.log_evidence == pytest.approx(0, abs=0.02)
    assert result.verdict.grade == "reliable"


def test_without_heat_nothing_is_looked_for():
    weights, centres, sds = scattered(4, 2)
    target = normals(weights, centres, sds)
    points = in_one_mode(centres, weights)
    cold = fit_density(target, 2, points=points, random_seed=SEED, temperature=1.0)
    # the heaviest mode alone: its weight is all the evidence there is
    assert cold.log_evidence == pytest.approx(np.log(weights.max()), abs=0.05)
    starts, _ = find_starts(target, points, (SEED,))
    found = explore(target, starts, 1.0, (SEED,))
    assert len(found.modes) == 1 and found.n_evaluations == 0 and found.unseen == 0


@pytest.mark.parametrize("d", [1, 3, 30])
def test_one_mode_costs_one_round(d):
    mean, cov = ill_conditioned(d)
    target = gaussian(mean, np.atleast_2d(cov))
    starts, _ = find_starts(target, mean + np.random.default_rng(SEED).normal(size=(4, d)), (1,))
    found = explore(target, starts, 1024.0, (SEED,))
    assert len(found.modes) == 1 and found.unseen == 0
    assert found.n_evaluations < 32 * 60  # a round of paths


def test_a_bent_posterior_has_no_barriers():
    starts, _ = find_starts(banana, np.random.default_rng(SEED).normal(size=(8, 2)), (1,))
    found = explore(banana, starts, 1024.0, (SEED,))
    carrying = [mode for mode in found.modes if mode.elbo > found.modes[0].elbo - 7]
    assert len(carrying) == 1


def test_a_funnels_neck_is_no_mode():
    def funnel(theta):
        v, x = theta[:, 0], theta[:, 1:]
        square = np.sum(x**2, axis=1) * np.exp(-v)
        logp = -0.5 * (v / 3) ** 2 - 0.5 * square - 0.5 * x.shape[1] * v
        grad = np.hstack(
            [
                (-v / 9 + 0.5 * square - 0.5 * x.shape[1])[:, None],
                -x * np.exp(-v)[:, None],
            ]
        )
        return logp, grad

    neck = np.r_[-12.0, np.zeros(4)]
    logp, _ = funnel(np.stack([neck, np.zeros(5)]))
    assert logp[0] > logp[1]  # it is the higher place, by far
    body = Gaussian(np.zeros(5), np.eye(5), 0.0)
    assert known_mode(funnel, neck, [body])[0] == 0


def test_a_valley_parts_modes_and_a_hole_does():
    target = normals([0.5, 0.5], [[-4.0], [4.0]], [1.0, 1.0])
    one = Gaussian(np.array([-4.0]), np.eye(1), 0.0)
    assert known_mode(target, np.array([4.0]), [one])[0] is None
    close = normals([0.5, 0.5], [[-1.2], [1.2]], [1.0, 1.0])  # two humps, no valley to speak of
    assert known_mode(close, np.array([1.2]), [Gaussian(np.array([-1.2]), np.eye(1), 0.0)])[0] == 0

    def hole(theta):
        logp = -0.5 * np.sum((np.abs(theta) - 4) ** 2, axis=1)
        return np.where(np.abs(theta[:, 0]) < 1, np.nan, logp), theta * 0

    assert known_mode(hole, np.array([4.0]), [one])[0] is None


def test_the_best_start_stays_however_low_its_elbo():
    # seed 1309 of the fuzzed models: a start in the tail of a Gamma, at -1e143 nats
    def steep(theta):
        return -1e143 + 0.0 * theta[:, 0], 0.0 * theta

    start = Gaussian(np.zeros(2), np.eye(2), -1e143)
    assert apart([start]) == [start]
    assert explore(steep, [start], 4.0, (SEED,)).modes == (start,)


def test_starts_apart_are_sorted_and_hopeless_ones_dropped():
    def at(x, elbo):
        return Gaussian(np.array([x]), np.eye(1), elbo)

    starts = [at(0.0, -1.0), at(0.5, -2.0), at(5.0, -3.0), at(9.0, -30.0)]
    assert [s.mu[0] for s in apart(starts)] == [0.0, 5.0]
    assert [s.mu[0] for s in choose(starts, 4)] == [0.0, 5.0, 0.5, 0.0]


def test_poured_fluids_have_the_density_of_their_parts():
    rng = np.random.default_rng(SEED)
    parts = []
    for mean in ([0.0, 0.0], [8.0, -3.0]):
        L = np.linalg.cholesky(np.array([[2.0, 0.5], [0.5, 1.0]]) * (1 + rng.random()))
        parts.append((np.array(mean), L, np.zeros((1, 2))))  # one particle each: exact normals
    fluid = pour(parts, np.log([0.8, 0.2]), full=True)
    theta = rng.normal(size=(50, 2)) * 4
    expected = logsumexp(
        [
            np.log(w) + multivariate_normal(mu, L @ L.T).logpdf(theta)
            for w, (mu, L, _) in zip([0.8, 0.2], parts, strict=True)
        ],
        axis=0,
    )
    found = log_density(fluid, to_frame(fluid, theta)) - log_det_frame(fluid)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_smaller_spread_leaves_more_of_the_variance_to_the_kernels():
    d, n = 3, 4_000
    z = np.random.default_rng(SEED).standard_normal((n, d))
    wide, usual = (
        pour([(np.ones(d), 2 * np.eye(d), z)], np.zeros(1), full=True, spread=s) for s in (0.2, 1)
    )
    np.testing.assert_allclose(wide.z, np.sqrt(0.2) * usual.z)
    # variance 1 in all: the positions' own is off by .02 of itself, as of 4,000 normal numbers
    for fluid, s in ((wide, 0.2), (usual, 1.0)):
        kernel = fluid.A[0, 0, 0] ** 2
        assert kernel == pytest.approx(1 - s * (1 - n ** (-2 / (d + 4))))
        np.testing.assert_allclose(fluid.z.var(axis=0) + kernel, 1, atol=0.05)


def test_close_to_a_gaussian_kernels_start_wide_and_fluids_stop_early():
    rng = np.random.default_rng(SEED)
    near, far = gaussian(np.zeros(3), np.eye(3)), banana
    for target, d, calm in ((near, 3, True), (far, 2, False)):
        points = rng.standard_normal((8, d))
        ensemble = Ensemble.start(target, points, Settings(), SEED, 10)
        assert ensemble.known.calm == calm
        for simulation in ensemble.simulations:
            width = np.linalg.det(simulation.fluid.A[0]) ** (1 / d)
            assert (width > 0.9) == calm
            assert simulation.plan.good == (2 if ensemble.known.close else 1) * simulation.plan.tol


def test_every_fluid_starts_on_every_mode():
    weights, centres, sds = scattered(4, 2)
    target = normals(weights, centres, sds)
    ensemble = Ensemble.start(target, in_one_mode(centres, weights), Settings(), SEED, 10)
    for simulation in ensemble.simulations:
        fluid = simulation.fluid
        places = fluid.mu + fluid.z @ fluid.L.T
        gap = np.sqrt(np.sum((places[:, None] - centres) ** 2, axis=-1))
        assert (gap.min(axis=0) < 2).all()  # somebody is near every mode
        mass = np.bincount(np.argmin(gap, axis=1), np.exp(fluid.log_m), minlength=4)
        np.testing.assert_allclose(mass, weights, atol=0.05)  # the Laplace weights


def test_temperature_as_a_function_of_the_step():
    seen = []

    def cooling(step):
        seen.append(step)
        return 9.0 if step < 5 else 1.0

    result = fit_density(banana, 2, temperature=cooling, fluids=1, random_seed=SEED)
    assert result.status == "converged" and result.log_evidence == pytest.approx(0, abs=0.05)
    assert max(seen) >= 5
    for bad in (lambda step: 0.5, lambda step: "hot", lambda step: float("nan")):
        with pytest.raises(SettingsError, match=r"temperature\(0\)="):
            Settings(temperature=bad)
