"""The picture of a fluid: its ellipses, its contours, what it cannot draw."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest

from fluids import random_fluid
from scipy.stats import multivariate_normal

from pymc_sph import plots
from pymc_sph.mixture import FluidMixture

figure = pytest.importorskip("matplotlib.figure")

SHARES = [0.4, 0.6]


@pytest.fixture
def approx():
    """A full and a diagonal fluid of unequal shares, over three coordinates."""
    rng = np.random.default_rng(0)
    fluids = (random_fluid(rng, d=3), random_fluid(rng, d=3, full=False))
    with pm.Model() as model:
        pm.Normal("a", shape=3)
    return SimpleNamespace(model=model, mixture=FluidMixture(fluids, np.log(SHARES)))


def kernel_covariances(mixture, pair):
    """Covariances L A A' L' of all kernels over a pair of coordinates, a particle at a time."""
    out = []
    for fluid in mixture.fluids:
        for A in fluid.A:
            factor = fluid.L @ (A if fluid.full else np.diag(A))
            out.append((factor @ factor.T)[np.ix_(pair, pair)])
    return out


def test_ellipses_are_the_kernels(approx):
    ax = plots.plot_fluid(approx, ("a[2]", "a[0]"), figure.Figure().subplots())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a[2]", "a[0]")
    covariances = kernel_covariances(approx.mixture, [2, 0])
    assert len(ax.patches) == len(covariances)
    found = []
    for ellipse in ax.patches:
        turn = np.radians(ellipse.angle)
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        half = np.array([ellipse.width, ellipse.height]) / 2
        found.append([*ellipse.center, *((axes * half**2) @ axes.T).ravel()])
    centres = [f.mu + f.z @ f.L.T for f in approx.mixture.fluids]
    wanted = np.column_stack(
        [np.concatenate(centres)[:, [2, 0]], np.reshape(covariances, (len(covariances), 4))]
    )
    found = np.array(found)  # drawn in the order of the masses
    np.testing.assert_allclose(
        found[np.argsort(found[:, 0])], wanted[np.argsort(wanted[:, 0])], rtol=1e-9
    )


def test_heavier_particles_are_drawn_later_and_darker(approx):
    ax = plots.plot_fluid(approx, ax=figure.Figure().subplots())
    strength = [patch.get_alpha() for patch in ax.patches]
    assert strength == sorted(strength) and strength[0] < strength[-1]


def test_marginal_is_that_of_the_mixture(approx):
    parts = means, covariances, masses = plots.marginal(approx.mixture, [2, 0])
    assert masses.sum() == pytest.approx(1)
    np.testing.assert_allclose(masses @ means, approx.mixture.mean()[[2, 0]])
    np.testing.assert_allclose(
        plots.total_covariance(*parts), approx.mixture.cov()[np.ix_([2, 0], [2, 0])]
    )
    x = np.linspace(-20, 20, 401)
    density = plots.marginal_density(*parts, x, x + 0.1)
    # the rectangle rule is exact to rounding for smooth functions that vanish at the ends
    assert density.sum() * 0.01 == pytest.approx(1, abs=1e-6)
    point = sum(
        m * multivariate_normal(a, c).pdf([x[200], x[210] + 0.1])
        for a, c, m in zip(means, covariances, masses, strict=True)
    )
    assert density[210, 200] == pytest.approx(point)


def test_levels_enclose_their_shares():
    x = np.linspace(-5, 5, 301)
    normal = np.exp(-0.5 * (x[:, None] ** 2 + x**2))
    # a circle of radius r holds 1 - exp(-r^2 / 2), so that the level is 1 - share
    np.testing.assert_allclose(plots.enclosing_levels(normal), [0.05, 0.2, 0.5], atol=0.01)


def test_contours_enclose_their_shares_of_draws(approx):
    ax = plots.plot_fluid(approx, ("a[0]", "a[1]"), figure.Figure().subplots())
    n = 20_000
    draws = approx.mixture.sample(n, np.random.default_rng(1)).theta[:, :2]
    parts = plots.marginal(approx.mixture, [0, 1])
    height = np.array([plots.marginal_density(*parts, *xy[:, None])[0, 0] for xy in draws[:2000]])
    lines = ax.collections[1]  # filled contours, lines, particles
    for level, share in zip(lines.levels, (0.95, 0.8, 0.5), strict=True):
        # three standard errors of a share of 2,000 draws, and .01 that the view leaves out
        assert (height >= level).mean() == pytest.approx(share, abs=0.034 + 0.01)
    inside = (draws > [ax.get_xlim()[0], ax.get_ylim()[0]]).all(axis=1)
    inside &= (draws < [ax.get_xlim()[1], ax.get_ylim()[1]]).all(axis=1)
    assert inside.mean() > 0.985


def test_picture_names_what_it_cannot_draw(approx):
    for names in (("a", "b"), ("a[0]",)):
        with pytest.raises(ValueError, match=r"a\[0\], a\[1\], a\[2\]"):
            plots.plot_fluid(approx, names)
    with pm.Model() as line:
        pm.Normal("x")
    with pytest.raises(ValueError, match="only one"):
        plots.plot_fluid(SimpleNamespace(model=line, mixture=None))
