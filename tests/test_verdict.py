"""The verdict: no better for worse figures, every reason reachable, and right about known fits."""

from __future__ import annotations

import dataclasses
import sys

from pathlib import Path

import numpy as np
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pymc_sph import verdict as rule
from pymc_sph.verdict import GRADES, Evidence, Verdict, judge

GOOD = Evidence(
    ess=0.98, pareto_k=0.4, error=0.01, left=0.01, r_hat=1.0, n_agreeing=4, n_fluids=4,
    nonfinite=0.0, status="converged",
)  # fmt: skip
STATUSES = ["converged", "stopped", "max_steps", "interrupted", "non_finite"]


def rank(found):
    return GRADES.index(judge(found).grade)


EVIDENCE = st.builds(
    Evidence,
    ess=st.floats(0, 1),
    pareto_k=st.floats(-1, 3),
    error=st.floats(0, 1),
    left=st.floats(0, 1),
    r_hat=st.floats(1, 3) | st.just(float("nan")),
    n_agreeing=st.integers(1, 4),
    n_fluids=st.just(4),
    nonfinite=st.floats(0, 1),
    status=st.sampled_from(STATUSES),
    void=st.floats(0, 1),
    uncovered=st.floats(0, 1),
    unseen=st.floats(0, 1),
    n_modes=st.integers(1, 20),
    dim=st.integers(1, 100),
)


@given(EVIDENCE, st.floats(0, 1))
def test_worse_figures_never_give_a_better_grade(found, by):
    worse = {
        "ess": found.ess * by, "pareto_k": found.pareto_k + by, "error": found.error + by,
        "left": found.left + by, "r_hat": found.r_hat + by, "n_agreeing": 1,
        "nonfinite": min(1.0, found.nonfinite + by), "status": "interrupted",
        "void": min(1.0, found.void + by), "uncovered": found.uncovered + by,
        "unseen": found.unseen + by, "dim": found.dim + 30,
    }  # fmt: skip
    for name, value in worse.items():
        if name == "status" and found.status == "non_finite":
            continue
        assert rank(dataclasses.replace(found, **{name: value})) >= rank(found), name


@given(EVIDENCE)
def test_every_fit_gets_a_reason_and_every_doubtful_one_advice(found):
    verdict = judge(found)
    assert verdict.grade in GRADES and verdict.reason
    assert bool(verdict.advice) == (verdict.grade != "reliable")
    if verdict.grade == "reliable":
        assert found.error <= rule.ERROR and found.left <= rule.LEFT and found.ess >= rule.ESS
        assert found.uncovered <= rule.UNCOVERED and found.unseen <= rule.UNSEEN
        assert not found.r_hat > rule.R_HAT or found.n_modes > 1
        assert found.n_agreeing > 1


@pytest.mark.parametrize(
    ("change", "grade", "word", "advice"),
    [
        ({}, "reliable", "ESS 0.98", ""),
        # nearly constant weights: k alone cries wolf
        ({"pareto_k": 0.9}, "reliable", "k 0.90", ""),
        ({"error": 0.2}, "use the weights", "0.20 sd", "pymc_sph.fit"),
        ({"error": 0.2, "status": "max_steps"}, "use the weights", "need their", "raise `n`"),
        ({"error": 0.2, "left": 0.3}, "unreliable", "do not mend", "Reparametrise"),
        ({"error": 0.2, "left": 0.3, "status": "max_steps"}, "unreliable", "mend", "raise `n`"),
        ({"error": np.inf, "left": np.inf}, "unreliable", "do not mend", "`particles`"),
        ({"ess": 0.7}, "reliable", "ESS 0.70", ""),
        ({"pareto_k": 2.4, "ess": 0.99}, "reliable", "k 2.40 (weights nearly equal)", ""),
        ({"ess": 0.7, "dim": 50}, "use the weights", "ESS 0.70", "pymc_sph.fit"),
        ({"ess": 0.4}, "use the weights", "ESS 0.40", "pymc_sph.fit"),
        ({"ess": 0.01}, "unreliable", "few weights", "Reparametrise"),
        ({"pareto_k": 0.8, "ess": 0.6}, "use the weights", "k 0.80", "pymc_sph.fit"),
        ({"pareto_k": 1.4, "ess": 0.5}, "unreliable", "few weights", "`probes`"),
        ({"n_agreeing": 1}, "use the weights", "different parts", "`fluids`"),
        # known modes, shared out
        ({"r_hat": 1.5, "n_modes": 2}, "reliable", "carry mass, on 2 modes (r_hat 1.50)", ""),
        ({"r_hat": 1.5}, "use the weights", "different parts", "`temperature`"),
        ({"uncovered": 0.05}, "use the weights", "5.0% of the posterior, in the tails", "Repar"),
        ({"uncovered": 0.05, "pareto_k": 0.8}, "unreliable", "5.0%", "Repar"),
        ({"uncovered": 0.05, "status": "max_steps"}, "unreliable", "5.0%", "raise `n`"),
        ({"uncovered": 0.05, "n_modes": 2}, "use the weights", "modes", "`fluids`"),
        ({"uncovered": 0.3, "left": 1.0, "n_modes": 2}, "unreliable", "30.0%", "`temperature`"),
        ({"unseen": 0.1}, "use the weights", "1 path in 10", "`paths`"),
        ({"nonfinite": 0.2}, "use the weights", "undefined at 20%", "overflow"),
        ({"nonfinite": 0.95}, "unreliable", "not finite", "support"),
        ({"status": "non_finite"}, "unreliable", "not finite", "`start`"),
        ({"void": 0.95}, "unreliable", "p is zero in 95%", "bounded variable"),
        ({"status": "interrupted"}, "use the weights", "interrupted", "refine(n)"),
    ],
)
def test_grade_reason_and_advice(change, grade, word, advice):
    verdict = judge(dataclasses.replace(GOOD, **change))
    assert verdict.grade == grade and word in verdict.reason
    assert advice in verdict.advice and bool(verdict.advice) == bool(advice)
    assert str(verdict).startswith(grade)


def test_one_fluid_has_no_other_to_agree_with():
    alone = dataclasses.replace(GOOD, n_fluids=1, n_agreeing=1, r_hat=float("nan"))
    assert judge(alone).grade == "reliable"


def test_a_figure_that_is_undefined_is_no_good_sign():
    for name in ("error", "left"):
        broken = dataclasses.replace(GOOD, **{name: float("nan")})
        assert judge(broken).grade != "reliable", name


def test_verdict_in_words():
    assert str(Verdict("reliable", "ESS 1", "")) == "reliable: ESS 1."
    assert str(Verdict("unreliable", "why", "Do this.")) == "unreliable: why. Do this."


@pytest.mark.slow
def test_no_bad_fit_of_the_collection_is_called_reliable():
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    try:
        import verdict_fits
        import verdict_targets
    finally:
        sys.path.pop(0)
    bad = mild = 0
    for target in (verdict_targets.banana(2, 0.2, 3.0), verdict_targets.mixture(2, 3)):
        subject = verdict_fits.exact(target)
        for name, ensemble in verdict_fits.fits(subject, 7, bad=True):
            row = verdict_fits.measure(subject, name, ensemble, 7)
            grade = judge(Evidence(**row["evidence"])).grade
            if row["plain"] > 0.3:
                bad += 1
                assert grade != "reliable", (target.name, name, row)
            elif name == "good":
                mild += 1
                assert row["plain"] < 0.1 and grade == "reliable", (target.name, name, row)
    assert bad >= 8 and mild == 2
