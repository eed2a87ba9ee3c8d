"""Rules of the smoothing length, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from scipy.spatial.distance import pdist

from pymc_sph.fluid.smoothing_length import RULES

Z = np.random.default_rng(0).standard_normal((40, 3))


def test_constant():
    np.testing.assert_allclose(RULES["constant"](Z, 0.5, 16), 0.5 * 40 ** (-1 / 7))


def test_nearest_is_the_distance_to_the_kth_neighbour():
    h = RULES["nearest"](Z, 2.0, 5)
    for i in range(40):
        distances = np.sort(np.linalg.norm(Z - Z[i], axis=1))
        assert h[i] == pytest.approx(2.0 * distances[5] / np.sqrt(3))
    # fewer particles than neighbours asked for, and particles at one place
    assert np.isfinite(RULES["nearest"](Z[:2], 1.0, 16)).all()
    assert (RULES["nearest"](np.zeros((4, 2)), 1.0, 2) > 0).all()
    assert (RULES["nearest"](Z[:1], 1.0, 2) > 0).all()


def test_median_is_svgds():
    h = RULES["median"](Z, 1.0, 16)
    assert np.ptp(h) == 0
    assert h[0] ** 2 == pytest.approx(np.median(pdist(Z) ** 2) / (2 * np.log(41)))
