"""Every setting is checked where it is given, and the message names it."""

from __future__ import annotations

import dataclasses
import itertools
import json

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pymc_sph import Settings, SettingsError
from pymc_sph.seeds import integer_seed
from pymc_sph.settings import make_settings


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


NONSENSE = [
    -1, 10**400, 10**5000, -(10**400), Fraction(10**400), True, False, np.True_, 1j,
    np.complex128(1), float("nan"), np.nan, float("inf"), Decimal(1), "", "four", b"four",
    [], [1.0], ["a"] * 4, (True,) * 4, (1j,) * 4, {"a": 1}, {1, 2, 3, 4}, np.zeros(0),
    np.array(2), np.ones(3), np.array(["auto", "full"]), np.ones((4, 4)), object(), print, int,
]  # fmt: skip


@given(
    st.sampled_from([field.name for field in dataclasses.fields(Settings)]),
    st.sampled_from(NONSENSE)
    | st.integers(max_value=-1)
    | st.integers(min_value=10**309)
    | st.floats(max_value=-1e-9)
    | st.text(max_size=3)
    | st.complex_numbers(),
)
def test_nonsense_is_a_short_error_that_names_the_setting_and_a_remedy(name, value):
    with pytest.raises(SettingsError) as caught:
        Settings(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert ": give " in message or ": choose " in message
    assert "\n" not in message and len(message) < 250


def test_none_is_nonsense_but_where_it_stands_for_the_default():
    for field in dataclasses.fields(Settings):
        if field.default is None:
            Settings(**{field.name: None})
        else:
            with pytest.raises(SettingsError, match=f"^{field.name}=None: (give|choose) "):
                Settings(**{field.name: None})


def test_endless_temperatures():
    with pytest.raises(SettingsError, match="4 fluids"):
        Settings(temperature=itertools.count(1))


def test_values_are_kept_as_plain_ones():
    given = Settings(
        fluids=np.int64(2), particles=np.uint8(9), dt=Fraction(1, 2), tol=np.float32(0.5),
        temperature=(t for t in np.array([2, 1])),
    )  # fmt: skip
    plain = Settings(fluids=2, particles=9, dt=0.5, tol=0.5, temperature=[2.0, 1.0])
    assert given == plain and given.temperatures() == (2.0, 1.0)
    assert json.dumps(given.as_dict()) == json.dumps(plain.as_dict())


@pytest.mark.parametrize("seed", ["1", b"1", True, -1, 1.5, [1, -2], object(), 1j])
def test_bad_seeds(seed):
    with pytest.raises(SettingsError, match=r"random_seed=.*: give None"):
        integer_seed(seed)


def test_seeds():
    assert integer_seed(3) == integer_seed(np.int64(3)) == integer_seed([3]) != integer_seed(4)
    assert integer_seed(np.random.SeedSequence(3)) == integer_seed(3)
    assert integer_seed(None) != integer_seed(None)  # by chance equal once in 2^32
    for new in (np.random.default_rng, np.random.RandomState):
        assert integer_seed(new(3)) == integer_seed(new(3)) != integer_seed(new(4))
        stream = new(3)
        assert integer_seed(stream) != integer_seed(stream)


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(SettingsError, match=r"'particels'\. Did you mean 'particles'"):
        make_settings({"particels": 10})
    with pytest.raises(SettingsError, match=r"Did you mean 'random_seed'"):
        make_settings({"random_seeds": 1}, ["random_seed"])
    # a part of a name goes before one with as many letters in common
    for slip, meant in (("core", "cores"), ("seed", "random_seed")):
        with pytest.raises(SettingsError, match=f"Did you mean '{meant}'"):
            make_settings({slip: 1}, ["score", "scheme", "cores", "random_seed"])


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
