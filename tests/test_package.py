"""The package's own door: light to import, and everything behind it can be had."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pymc_sph


def test_every_name_can_be_had_and_others_are_an_error():
    for name in pymc_sph.__all__:
        assert getattr(pymc_sph, name) is not None
    assert set(pymc_sph.__all__) <= set(dir(pymc_sph))
    with pytest.raises(AttributeError, match="no attribute 'SHP'"):
        pymc_sph.SHP  # noqa: B018


def test_importing_it_loads_next_to_nothing():
    # what costs time are the modules: an empty one takes a millisecond, ours with dataclasses two
    code = (
        "import sys, pymc; before = set(sys.modules); import pymc_sph; "
        "print(*(set(sys.modules) - before)); assert pymc.fit.__wrapped__; pymc_sph.SPH"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert 0 < len(loaded) <= 10 and "pymc_sph.inference" not in loaded, loaded
