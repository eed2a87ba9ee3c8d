"""Random models: what holds for every fit, and models that once failed."""

from __future__ import annotations

import os
import subprocess
import sys

from pathlib import Path

import pytest

from fuzzed_fits import check_fit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_fuzz import FuzzedModel, models

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=4, suppress_health_check=CHECKS)
@given(models(), SEEDS)
def test_a_few_random_models(fuzzed: FuzzedModel, seed: int) -> None:
    check_fit(fuzzed, seed)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=CHECKS)
@given(models(), SEEDS)
def test_random_models(fuzzed: FuzzedModel, seed: int) -> None:
    check_fit(fuzzed, seed)


@pytest.mark.slow
def test_the_command_fits_models_by_seed() -> None:
    command = [sys.executable, str(Path(__file__).with_name("model_fuzz.py")), "--n", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("2 models, 0 failures")
