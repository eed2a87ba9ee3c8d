"""``python -m pymc_sph`` and the picture of the fluid."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest

from fluids import random_fluid
from scipy.stats import multivariate_normal

from pymc_sph import plots
from pymc_sph.__main__ import main
from pymc_sph.mixture import FluidMixture


def test_command_prints_verdict_and_writes_a_picture(tmp_path, capsys):
    output = tmp_path / "fluid.png"
    assert main(["--seed", "3", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for word in ("theta[Choate]", "verdict       reliable", "log evidence  -31.3", str(output)):
        assert word in printed
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def mixture():
    rng = np.random.default_rng(0)
    fluids = (random_fluid(rng, d=3), random_fluid(rng, d=3, full=False))
    return FluidMixture(fluids, np.log([0.4, 0.6]))


def test_marginal_is_that_of_the_mixture(mixture):
    parts = plots.marginal(mixture, [2, 0])
    means, covariances, masses = parts
    assert masses.sum() == pytest.approx(1)
    np.testing.assert_allclose(masses @ means, mixture.mean()[[2, 0]])
    np.testing.assert_allclose(
        plots.total_covariance(*parts), mixture.cov()[np.ix_([2, 0], [2, 0])]
    )
    x = np.linspace(-20, 20, 401)
    density = plots.marginal_density(*parts, x, x + 0.1)
    assert density.sum() * 0.01 == pytest.approx(1, abs=1e-3)
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


def test_plot_names_what_it_cannot_draw(mixture):
    import pymc as pm

    class Fit:
        pass

    with pm.Model() as model:
        pm.Normal("a", shape=3)
    fit = Fit()
    fit.model, fit.mixture = model, mixture
    ax = plots.plot_fluid(fit, ("a[1]", "a[2]"), matplotlib.figure.Figure().subplots())
    assert ax.get_xlabel() == "a[1]" and len(ax.patches) == 8
    with pytest.raises(ValueError, match=r"a\[0\], a\[1\], a\[2\]"):
        plots.plot_fluid(fit, ("a", "b"))
