"""A Python function as a target: what it may return, and what is said where it returns nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from pymc_sph.checks import SettingsError
from pymc_sph.density_fit import fit_density
from pymc_sph.ensemble import StartError


def logp(theta):
    return -0.5 * np.sum(theta**2, axis=1)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: (logp(x), -x[:, :1]), r"shapes \(1,\) and \(1, 1\) for theta \(1, 3\)"),
        (lambda x: (logp(x)[:, None], -x), r"shapes \(1, 1\) and \(1, 3\)"),
        (lambda x: (logp(x).sum(), -x), r"shapes \(\) and \(1, 3\)"),
        (lambda x: (logp(x), -x, 1), "3 values"),
    ],
)
def test_a_result_of_the_wrong_shape_is_named(function, said):
    with pytest.raises(SettingsError, match=said):
        fit_density(function, 3, random_seed=1)


def test_the_force_form_says_that_it_lacks_a_gradient():
    with pytest.raises(SettingsError, match=r"log density \(K,\), gradient"):
        fit_density(logp, 3, formulation="force", random_seed=1)


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
def test_a_gradient_of_something_else_is_refused(factor):
    with pytest.raises(SettingsError, match="gradient is not that of the log density"):
        fit_density(lambda x: (logp(x) - 1e6, -factor * x), 3, random_seed=1)


def test_a_gradient_that_is_zero_or_undefined_at_a_place_is_no_error():
    def kinked(theta):  # flat for the most part, and undefined where x_1 > 2
        grad = np.where(theta[:, :1] > 2, np.nan, -np.sign(theta) * (np.abs(theta) > 1))
        return -np.maximum(np.abs(theta) - 1, 0).sum(axis=1), grad

    points = np.array([[0.1, 0.2], [3.0, 0.5], [-0.3, 0.4]])
    result = fit_density(kinked, 2, points=points, n=3, random_seed=1)
    assert np.isfinite(result.elbo)


def test_a_function_of_one_point_hears_what_it_should_take():
    with pytest.raises(StartError, match=r"takes an array \(K, 2\) of points"):
        fit_density(lambda x: -0.5 * x @ x, 2, random_seed=1)


def test_lists_will_do():
    def lists(theta):
        return list(logp(theta)), (-theta).tolist()

    result = fit_density(lists, 2, random_seed=1)
    assert result.log_evidence == pytest.approx(np.log(2 * np.pi), abs=0.01)


def test_a_function_of_values_may_raise_where_it_is_tried_first():
    def torn(theta):
        if (theta == 0).any():
            raise ZeroDivisionError("at zero")
        return logp(theta)

    result = fit_density(torn, 1, random_seed=1)
    assert result.formulation == "pressure"
    assert result.log_evidence == pytest.approx(0.5 * np.log(2 * np.pi), abs=0.02)
