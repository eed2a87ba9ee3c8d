"""Every setting is checked where it is given, and the message names it."""

from __future__ import annotations

import pytest

from pymc_sph import Settings, SettingsError
from pymc_sph.inference import make_settings


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "fluids": [0, 2.5, True, "four"],
        "particles": [0, -3],
        "probes": [0, 7],
        "tensor": ["round", 3],
        "temperature": [0.5, "warm", [4.0], float("inf"), [1, 2, 3, 0]],
        "cooling": [-1],
        "dt": [0, -1, float("nan")],
        "damping": [0, 1.5],
        "viscosity": [-0.1, 2],
        "tensor_rate": [-1],
        "mass_rate": [3],
        "frame_rate": ["fast"],
        "trust": [0],
        "tol": [0],
        "window": [0],
        "paths": [0],
        "draws": [10],
    }.items(),
)
def test_bad_values(name, values):
    for value in values:
        with pytest.raises(SettingsError, match=f"{name}="):
            Settings(**{name: value})


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(SettingsError, match=r"'particels'\. Did you mean 'particles'"):
        make_settings({"particels": 10})


def test_defaults_follow_the_dimension():
    settings = Settings()
    assert settings.full_tensor(30) and not settings.full_tensor(31)
    assert Settings(tensor="full").full_tensor(99)
    assert Settings(particles=10, probes=20).sizes(2) == (10, 20)
    for dim in (1, 10, 100):
        particles, probes = settings.sizes(dim)
        assert particles > 0 and probes >= 2 * particles and probes % 2 == 0
    assert Settings(temperature=3, fluids=2).temperatures() == (3.0, 3.0)
    assert Settings(temperature=[2, 1], fluids=2).as_dict()["temperature"] == [2.0, 1.0]
