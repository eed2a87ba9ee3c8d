"""kill -9 at random moments: the last whole checkpoint is there, and a fit goes on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(__file__)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "kills"), [("npz", 10), ("zarr", 5)])
def test_a_killed_fit_leaves_its_last_checkpoint(suffix, kills):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(HERE), HERE])}
    script = os.path.join(HERE, "killed_fits.py")
    done = subprocess.run(
        [sys.executable, script, suffix, str(kills)], env=env, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= kills and report["resumed"] == 1
    # most of them in the steps: a state was compared each time
    assert len(report["steps"]) >= kills / 2 and len(set(report["steps"])) > 2
