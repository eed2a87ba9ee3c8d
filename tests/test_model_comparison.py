"""Comparison of models by evidence: arithmetic, closed forms, and errors read aloud."""

from __future__ import annotations

import evidence
import numpy as np
import pymc as pm
import pytest

from reference_models import conjugate_regression
from scipy.stats import norm

import pymc_sph

from pymc_sph import compare_evidence

COLUMNS = ["rank", "log_evidence", "se", "dlog_evidence", "dse", "probability", "warning"]


@pytest.fixture(scope="module")
def fits():
    """The same data with a narrow and a wide prior on their mean; evidence in closed form."""
    y = np.array([1.3, 0.6, 1.8, 1.1])
    found, exact = {}, {}
    for name, sd in (("narrow", 0.1), ("wide", 2.0)):
        with pm.Model():
            mu = pm.Normal("mu", 0, sd)
            pm.Normal("y", mu, 1, observed=y)
            found[name] = pm.fit(method="sph", random_seed=1, progressbar=False)
        # y is Gaussian with covariance I + sd^2 11'
        cov = np.eye(4) + sd**2
        exact[name] = -0.5 * (y @ np.linalg.solve(cov, y) + np.linalg.slogdet(2 * np.pi * cov)[1])
    return found, exact


def test_closed_form(fits):
    found, exact = fits
    table = compare_evidence(found)
    assert list(table.columns) == COLUMNS and list(table.index) == ["wide", "narrow"]
    log_odds = exact["wide"] - exact["narrow"]
    for name, value in exact.items():
        assert abs(table.log_evidence[name] - value) < 4.5 * table.se[name] + 1e-6
    assert table.dlog_evidence["wide"] == 0 == table.dse["wide"]
    assert abs(table.dlog_evidence["narrow"] - log_odds) < 4.5 * table.dse["narrow"] + 1e-6
    assert table.dse["narrow"] == pytest.approx(np.hypot(*table.se))
    assert table.probability["wide"] == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-3)
    assert table.probability.sum() == pytest.approx(1)
    assert list(table["rank"]) == [0, 1] and not table.warning.any()


def test_prior_probabilities_weigh_in(fits):
    found, exact = fits
    table = compare_evidence(found, {"narrow": 80, "wide": 10})
    log_odds = np.log(8) + exact["narrow"] - exact["wide"]
    assert table.probability["narrow"] == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-3)
    assert list(table.index) == ["narrow", "wide"]
    assert table.dlog_evidence["wide"] == 0  # Bayes factors do not depend on them


def test_fits_of_every_kind(fits):
    found, _ = fits
    closed = conjugate_regression()
    with closed.model:
        draws = pymc_sph.fit(draws=50, random_seed=1, progressbar=False)
    gaussian = pymc_sph.fit_density(lambda x: (norm.logpdf(x).sum(1), -x), dim=2, random_seed=1)
    table = compare_evidence(
        {"approx": found["wide"], "draws": draws, "more draws": found["wide"].sample(10),
         "result": gaussian}
    )  # fmt: skip
    for name, value in {"draws": closed.log_evidence, "result": 0.0}.items():
        assert table.se[name] < 0.01
        assert abs(table.log_evidence[name] - value) < 4.5 * table.se[name] + 1e-6
    assert table.log_evidence["approx"] == table.log_evidence["more draws"]


def test_a_doubtful_fit_is_marked(fits):
    with pm.Model():
        mu = pm.StudentT("mu", 1.1, shape=3)
        pm.Normal("y", mu.sum(), 1, observed=0.5)
        cut = pm.fit(n=0, method="sph", random_seed=1, progressbar=False)
    assert cut.verdict.grade != "reliable"
    assert compare_evidence(fits[0] | {"cut": cut}).warning.to_dict() == {
        "wide": False, "narrow": False, "cut": True,
    }  # fmt: skip


def test_a_flat_prior_warns():
    with pm.Model():
        mu = pm.Flat("mu")
        pm.Normal("y", mu, 1, observed=[0.1, 0.3])
        fit = pm.fit(method="sph", random_seed=1, progressbar=False)
    with pytest.warns(UserWarning, match="prior of mu in 'flat' is flat"):
        compare_evidence({"flat": fit})


def test_errors(fits):
    found, _ = fits
    with pytest.raises(TypeError, match="dictionary from names of models"):
        compare_evidence([])
    with pytest.raises(ValueError, match="at least one fit"):
        compare_evidence({})
    with pytest.raises(TypeError, match=r"fits\['a'\] is 3: give an approximation"):
        compare_evidence({"a": 3})
    with pytest.raises(TypeError, match="has not been finished"):
        compare_evidence({"a": pymc_sph.FluidApproximation(found["wide"].model)})
    with pytest.raises(ValueError, match="one for each of the fits, see narrow"):
        compare_evidence(found, {"wide": 1})
    with pytest.raises(ValueError, match=r"\['narrow'\]=0: give a number above 0"):
        compare_evidence(found, {"wide": 1, "narrow": 0})


@pytest.mark.slow  # five models to compile
def test_the_examples_models_agree_with_closed_form_and_quadrature():
    for comparison in (evidence.regressions(1.0), evidence.counts()):
        fits = {
            name: pm.fit(method="sph", random_seed=2, progressbar=False, model=model)
            for name, model in comparison.models.items()
        }
        table = compare_evidence(fits)
        for name, exact in comparison.exact.items():
            assert abs(table.log_evidence[name] - exact) < min(5 * table.se[name], 0.01)
        assert table.index[0] == max(comparison.exact, key=comparison.exact.__getitem__)
