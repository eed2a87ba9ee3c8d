"""Draws for chains: whole numbers, systematic resampling, and correction of a wrong q."""

from __future__ import annotations

import numpy as np
import pytest

from fluids import gaussian
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from pymc_sph import resampling
from pymc_sph.fluid.state import Fluid
from pymc_sph.mixture import FluidMixture

WEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=20).filter(lambda w: sum(w) > 1e-3)


def blob(mean, sd):
    """A fluid of one particle: the Gaussian N(mean, sd^2) in one dimension."""
    return Fluid(
        z=np.zeros((1, 1)),
        u=np.zeros((1, 1)),
        A=np.full((1, 1, 1), float(sd)),
        log_m=np.zeros(1),
        mu=np.array([float(mean)]),
        L=np.eye(1),
    )


@given(WEIGHTS, st.integers(0, 1000))
def test_apportion_is_within_one_of_the_share(weights, n):
    shares = np.array(weights)
    counts = resampling.apportion(shares, n)
    assert counts.sum() == n
    assert (np.abs(counts - n * shares / shares.sum()) < 1 + 1e-9).all()


@given(WEIGHTS, st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_systematic_counts_are_floor_or_ceil(weights, n, seed):
    weights = np.array(weights) / np.sum(weights)
    index = resampling.systematic(weights, n, np.random.default_rng(seed))
    counts = np.bincount(index, minlength=len(weights))
    assert len(index) == n
    assert (np.abs(counts - n * weights) < 1 + 1e-9).all()
    assert (counts[weights == 0] == 0).all()


@given(st.integers(1, 4), st.integers(1, 12), st.data())
def test_dealing_uses_each_draw_once_and_fluids_keep_their_chain(chains, draws, data):
    fluid = np.array(
        data.draw(st.lists(st.integers(0, chains - 1), min_size=chains * draws,
                           max_size=chains * draws))
    )  # fmt: skip
    dealt = resampling.deal(fluid, chains, draws, np.random.default_rng(0))
    assert dealt.shape == (chains, draws)
    assert sorted(dealt.ravel()) == list(range(chains * draws))
    for i, row in enumerate(dealt):
        assert (fluid[row] == i).sum() == min(draws, (fluid == i).sum())


def test_draws_by_share_hold_exact_numbers():
    mixture = FluidMixture((blob(-1, 1), blob(1, 1)), np.log([0.3, 0.7]))
    logp = lambda theta: gaussian(np.zeros(1), np.eye(1))(theta)[0]  # noqa: E731
    sample = resampling.draw_by_share(mixture, logp, 1000, np.random.default_rng(1))
    assert np.bincount(sample.fluid).tolist() == [300, 700]
    np.testing.assert_array_equal(sample.lp, logp(sample.theta))
    np.testing.assert_allclose(sample.log_q, mixture.log_density(sample.theta))
    stats = sample.stats()
    np.testing.assert_allclose(stats["log_weight"], sample.lp - sample.log_q)


def test_correction_moves_draws_from_q_to_the_posterior():
    # q = N(0, 1), posterior N(.5, .8^2)
    mixture = FluidMixture((blob(0, 1), blob(0, 1)), np.log([0.5, 0.5]))
    target = gaussian(np.array([0.5]), np.array([[0.64]]))
    n = 2000
    sample = resampling.draw_corrected(
        mixture, lambda theta: target(theta)[0], n, np.random.default_rng(2)
    )
    # E[w^2] = 1.25: ESS 7,900 of 10,000 candidates; systematic resampling adds less than 1 / n.
    # Standard error of the mean < .8 sqrt(1 / 7900 + 1 / 2000) = .020, of the sd .014.
    assert sample.theta.mean() == pytest.approx(0.5, abs=0.08)
    assert sample.theta.std() == pytest.approx(0.8, abs=0.06)
    # log_q is that of the pooled q, whatever the candidates came from
    np.testing.assert_allclose(sample.log_q, mixture.log_density(sample.theta))


def test_correction_mends_wrong_shares_of_two_modes():
    # the fluids hold the modes' shapes, but their shares are .95 and .05 where .3 and .7 are right
    mixture = FluidMixture((blob(-10, 1), blob(10, 1)), np.log([0.95, 0.05]))
    modes = [gaussian(np.array([m]), np.eye(1)) for m in (-10.0, 10.0)]

    def logp(theta):
        parts = np.stack([mode(theta)[0] for mode in modes])
        return logsumexp(parts + np.log([[0.3], [0.7]]), axis=0)

    n = 1000
    sample = resampling.draw_corrected(mixture, logp, n, np.random.default_rng(3))
    # the numbers of candidates are fixed and their weights constant within a mode: no noise but
    # that of Pareto smoothing
    assert (sample.fluid == 0).mean() == pytest.approx(0.3, abs=0.03)
    dealt = sample.take(resampling.deal(sample.fluid, 2, n // 2, np.random.default_rng(4)))
    assert (dealt.fluid[1] == 1).all() and dealt.theta.shape == (2, n // 2, 1)
    # 300 of mode 0 fill 300 places of chain 0; the other 200 places come from fluid 1
    assert (dealt.fluid[0] == 1).mean() == pytest.approx(0.4, abs=0.06)


def test_nothing_to_resample_is_an_error_with_a_remedy():
    mixture = FluidMixture((blob(0, 1),), np.zeros(1))
    with pytest.raises(FloatingPointError, match=r"not finite at any draw.*verdict"):
        resampling.draw_corrected(
            mixture, lambda theta: np.full(len(theta), -np.inf), 20, np.random.default_rng(5)
        )


def test_without_the_void_a_fluid_has_the_share_that_is_left_of_it():
    # two fluids N(-1.5, 1) and N(0, 1), and a half-normal: most of the first lies in the void
    fluids = tuple(blob(mean, 1.0) for mean in (-1.5, 0.0))
    mixture = FluidMixture(fluids, np.log([0.5, 0.5]))

    def logp(theta):
        return np.where(theta[:, 0] > 0, -0.5 * theta[:, 0] ** 2, -np.inf)

    inside = norm.cdf([-1.5, 0.0])
    void = 1 - inside.mean()
    for draw in (resampling.draw_pooled, resampling.draw_by_share):
        sample = draw(mixture, logp, 40_000, np.random.default_rng(1), void)
        assert (sample.theta > 0).all()
        # standard error of the share .0017, of log Z .006
        share = inside[0] / inside.sum()
        assert np.mean(sample.fluid == 0) == pytest.approx(share, abs=0.007)
        log_z = logsumexp(sample.lp - sample.log_q) - np.log(40_000)
        assert log_z == pytest.approx(0.5 * np.log(np.pi / 2), abs=0.03)
    # a single draw as well, even if the first tries all lie in the void
    for seed in range(50):
        one = resampling.draw_pooled(mixture, logp, 1, np.random.default_rng(seed))
        assert one.theta[0, 0] > 0


def test_weights_that_no_longer_fit_are_said_to(caplog):
    mixture = FluidMixture((blob(0.0, 1.0),), np.zeros(1))

    def at(place):
        return lambda theta: -0.5 * (theta[:, 0] - place) ** 2

    resampling.draw_corrected(mixture, at(0), 500, np.random.default_rng(1))
    assert not caplog.records
    resampling.draw_corrected(mixture, at(100), 500, np.random.default_rng(1))
    assert "fit again" in caplog.text
