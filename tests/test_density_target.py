"""A Python function as a target: what it may return, and what is said where it returns nonsense."""

from __future__ import annotations

import numpy as np
import pytest

from pymc_sph.checks import SettingsError
from pymc_sph.density_fit import fit_density


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
