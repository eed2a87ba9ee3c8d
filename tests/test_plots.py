"""The picture of a fluid: its outlines, its contours, what it cannot draw."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest

from fluids import random_fluid
from scipy.stats import multivariate_normal, norm

from pymc_sph import plots
from pymc_sph.history import History, mixture_of, to_dataset
from pymc_sph.mixture import FluidMixture
from pymc_sph.plots import density
from pymc_sph.plots.projection import projection_of
from pymc_sph.plots.source import source_of

figure = pytest.importorskip("matplotlib.figure")

SHARES = [0.4, 0.6]


@pytest.fixture(scope="module")
def approx():
    """A full and a diagonal fluid of unequal shares, over a[0], a[1] and log s."""
    rng = np.random.default_rng(0)
    fluids = (random_fluid(rng, d=3), random_fluid(rng, d=3, full=False))
    with pm.Model(coords={"side": ["left", "right"]}) as model:
        a = pm.Normal("a", dims="side")
        s = pm.HalfNormal("s")
        pm.Deterministic("turned", pm.math.stack([a[0] + a[1], a[0] - 2 * a[1]]))
        pm.Deterministic("product", a[0] * s)
    return SimpleNamespace(model=model, mixture=FluidMixture(fluids, np.log(SHARES)))


def kernels_over(mixture, rows):
    """Means, covariances and masses of all kernels over rows @ theta, a particle at a time."""
    out = []
    for fluid, share in zip(mixture.fluids, SHARES, strict=True):
        for z, A, log_m in zip(fluid.z, fluid.A, fluid.log_m, strict=True):
            factor = rows @ fluid.L @ (A if fluid.full else np.diag(A))
            mean = rows @ (fluid.mu + fluid.L @ z)
            out.append((mean, factor @ factor.T, share * np.exp(log_m)))
    return out


def pdf_over(mixture, rows, points):
    """Density (n,) of q at points (n, k) of rows @ theta, by SciPy."""
    return sum(m * multivariate_normal(a, c).pdf(points) for a, c, m in kernels_over(mixture, rows))


def drawn(approx, var_names):
    source = source_of(approx)
    return source, projection_of(source, var_names)


@pytest.fixture
def ax():
    return figure.Figure().subplots()


def outlines_of(ax):
    """Vertices of the kernels' outlines, as drawn."""
    [found] = [c for c in ax.collections if type(c).__name__ == "PolyCollection"]
    return [path.vertices[:-1] for path in found.get_paths()]


def test_outlines_are_the_ellipses_of_the_kernels(approx, ax):
    assert plots.plot_fluid(approx, ("a[1]", "s_log__"), ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a[1]", "s_log__")
    wanted = kernels_over(approx.mixture, np.eye(3)[[1, 2]])
    curves = outlines_of(ax)
    assert len(curves) == len(wanted)
    order = np.argsort([m for *_, m in wanted])  # the heaviest come last, on top
    for curve, i in zip(curves, order, strict=True):
        mean, cov, _ = wanted[i]
        gap = curve - mean
        square = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(cov), gap)
        np.testing.assert_allclose(square, 1, rtol=1e-6)
        radius = np.linalg.norm(gap, axis=1)
        half_axes = np.sqrt(np.linalg.eigvalsh(cov))
        np.testing.assert_allclose([radius.min(), radius.max()], half_axes, rtol=1e-6)


def test_outlines_of_a_constrained_variable_are_bent_ellipses(approx, ax):
    plots.plot_fluid(approx, ("a[left]", "s"), ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a[left]", "s")
    wanted = kernels_over(approx.mixture, np.eye(3)[[0, 2]])
    order = np.argsort([m for *_, m in wanted])
    for curve, i in zip(outlines_of(ax), order, strict=True):
        gap = np.column_stack([curve[:, 0], np.log(curve[:, 1])]) - wanted[i][0]
        square = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(wanted[i][1]), gap)
        np.testing.assert_allclose(square, 1, rtol=1e-6)


def test_outlines_of_linear_combinations_are_their_ellipses(approx):
    source, projection = drawn(approx, "turned")
    assert projection.labels == ("turned[0]", "turned[1]") and projection.separate is None
    rows = np.array([[1.0, 1, 0], [1, -2, 0]])
    curves, centres = density.outlines(source.mixture, projection)
    for curve, centre, (mean, cov, _) in zip(
        curves, centres, kernels_over(approx.mixture, rows), strict=True
    ):
        np.testing.assert_allclose(centre, mean, rtol=1e-9)
        gap = curve - mean
        square = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(cov), gap)
        np.testing.assert_allclose(square, 1, rtol=1e-6)


def test_heavier_particles_are_drawn_darker(approx, ax):
    plots.plot_fluid(approx, ax=ax)
    [kernels] = [c for c in ax.collections if type(c).__name__ == "PolyCollection"]
    strength = kernels.get_edgecolors()[:, 3]
    assert np.all(np.diff(strength) >= 0) and strength[0] < strength[-1]


def test_marginal_is_that_of_the_mixture(approx):
    parts = means, covariances, masses = density.marginal(approx.mixture, [2, 0])
    assert masses.sum() == pytest.approx(1)
    np.testing.assert_allclose(masses @ means, approx.mixture.mean()[[2, 0]])
    np.testing.assert_allclose(
        density.total_covariance(*parts), approx.mixture.cov()[np.ix_([2, 0], [2, 0])]
    )
    x = np.linspace(-20, 20, 401)
    found = density.marginal_density(means, covariances, masses, x, x + 0.1)
    point = [[x[200], x[210] + 0.1]]
    wanted = pdf_over(approx.mixture, np.eye(3)[[2, 0]], point)
    assert found[210, 200] == pytest.approx(wanted)


def test_density_of_a_constrained_variable(approx):
    """Against SciPy's density with the Jacobian of the logarithm, 1 / s."""
    source, projection = drawn(approx, ("s", "a[1]"))
    field = density.field_of(source, projection, 300)
    X, Y = np.meshgrid(field.x, field.y)
    points = np.column_stack([np.log(X).ravel(), Y.ravel()])
    exact = pdf_over(approx.mixture, np.eye(3)[[2, 1]], points).reshape(X.shape) / X
    np.testing.assert_allclose(field.density, exact, rtol=0.02, atol=1e-3 * exact.max())
    whole = np.trapezoid(np.trapezoid(field.density, field.x, axis=1), field.y)
    assert 0.97 < whole < 1.0  # the picture leaves out a percent and the ends of the tails


def test_density_of_combinations_by_kernels_on_draws(approx):
    source, projection = drawn(approx, "turned")
    field = density.field_of(source, projection, 160)
    X, Y = np.meshgrid(field.x, field.y)
    rows = np.array([[1.0, 1, 0], [1, -2, 0]])
    exact = pdf_over(approx.mixture, rows, np.column_stack([X.ravel(), Y.ravel()]))
    # 50,000 draws, smoothed by half of each kernel: some percent of noise
    assert np.abs(field.density.ravel() - exact).max() < 0.05 * exact.max()
    assert field.density.sum() * np.diff(field.x[:2])[0] * np.diff(field.y[:2])[0] == pytest.approx(
        1, abs=0.02
    )


def test_draws_are_not_smoothed_across_a_bound(approx):
    source, projection = drawn(approx, ("product", "s"))
    assert projection.own == (None, 2)
    assert density.field_of(source, projection, 60).y.min() > 0


@pytest.mark.parametrize(("name", "power"), [("s", 1.0), ("s_log__", 0.0), ("a[1]", 0.0)])
def test_curve_of_one_quantity(approx, ax, name, power):
    plots.plot_fluid(approx, name, ax)
    assert ax.get_xlabel() == name
    x, y = ax.lines[-1].get_data()  # the thick line
    coordinate = 1 if name == "a[1]" else 2
    t = np.log(x) if power else x
    kernels = kernels_over(approx.mixture, np.eye(3)[[coordinate]])
    exact = sum(m * norm(a[0], np.sqrt(c[0, 0])).pdf(t) for a, c, m in kernels)
    exact = exact / x**power
    np.testing.assert_allclose(y, exact, rtol=0.01, atol=2e-3 * exact.max())
    assert np.trapezoid(y, x) == pytest.approx(1, abs=0.015)


def test_curve_of_a_combination(approx):
    source, projection = drawn(approx, "turned[0]")
    x, y = density.curve_of(source, projection, 400)
    kernels = kernels_over(approx.mixture, np.array([[1.0, 1, 0]]))
    exact = sum(m * norm(a[0], np.sqrt(c[0, 0])).pdf(x) for a, c, m in kernels)
    assert np.abs(y[0] - exact).max() < 0.03 * exact.max()


def test_levels_enclose_their_shares():
    x = np.linspace(-5, 5, 301)
    normal = np.exp(-0.5 * (x[:, None] ** 2 + x**2))
    # a circle of radius r holds 1 - exp(-r^2 / 2), so that the level is 1 - share
    np.testing.assert_allclose(density.enclosing_levels(normal), [0.05, 0.2, 0.5], atol=0.01)


@pytest.mark.parametrize("names", [("a[0]", "a[1]"), ("a[0]", "s")])
def test_contours_enclose_their_shares_by_quadrature(approx, ax, names):
    plots.plot_fluid(approx, names, ax)
    [lines] = [c for c in ax.collections if type(c).__name__ == "QuadContourSet" and not c.filled]
    t = [np.linspace(-9, 9, 500)] * 2
    X, Y = np.meshgrid(*t)
    rows = np.eye(3)[[0, 1 if names[1] == "a[1]" else 2]]
    mass = pdf_over(approx.mixture, rows, np.column_stack([X.ravel(), Y.ravel()]))
    height = mass if names[1] == "a[1]" else mass / np.exp(Y.ravel())
    mass = mass / mass.sum()
    for level, share in zip(lines.levels, (0.95, 0.8, 0.5), strict=True):
        # the picture leaves out up to a percent, which is missing in its shares
        assert mass[height >= level].sum() == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("full", [True, False])
def test_group_of_particles_gives_the_mixture_back(full):
    rng = np.random.default_rng(1)
    fluids = (random_fluid(rng, n=3, full=full), random_fluid(rng, n=5, full=full))
    mixture = FluidMixture(fluids, np.log(SHARES))
    history = History(*np.zeros((3, 1)), np.zeros((1, 2)), np.zeros(1, dtype=bool))
    back = mixture_of(to_dataset(history, None, mixture, ["a", "b"]))
    theta = rng.normal(size=(20, 2))
    np.testing.assert_allclose(back.log_density(theta), mixture.log_density(theta))
    np.testing.assert_allclose(np.exp(back.log_weights), SHARES)


def test_pictures_name_what_they_cannot_draw(approx):
    for names in (("a", "b"), ("a", "s"), "nothing", ()):
        with pytest.raises(ValueError, match=r"a\[0\], a\[1\], s_log__"):
            plots.plot_fluid(approx, names)
    with pytest.raises(TypeError, match=r"data=int: give what pm\.fit"):
        plots.plot_fluid(1)
    with pytest.raises(ValueError, match="call fit"):
        plots.plot_fluid(SimpleNamespace(model=approx.model, mixture=None))


def test_masses_are_those_of_the_fluids(approx, ax):
    plots.plot_masses(approx, ax)
    wanted = [m for *_, m in kernels_over(approx.mixture, np.eye(3))]
    lines = [line.get_ydata() for line in ax.lines[:2]]
    assert sorted(np.concatenate(lines)) == pytest.approx(sorted(wanted))
    assert all(np.all(np.diff(line) <= 0) for line in lines)
    assert ax.lines[2].get_ydata()[0] == pytest.approx(1 / len(wanted))
    assert ax.get_legend().get_texts()[0].get_text() == "fluid 0: 40.0% of the mass"
