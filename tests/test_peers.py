"""The comparison of ``benchmarks/peers.py``: what becomes of its rows, not the runs themselves."""

from __future__ import annotations

import json
import sys

from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import peer_report
import peers
import posteriordb_models
import posteriors
import pytensor.tensor as pt

from peer_report import BEGIN, END, PAGE
from pytensor.graph.replace import vectorize_graph

OK = {"status": "ok", "d": 10, "compile": 1.0, "after": 0.5, "evaluations": 1000, "log_sd": 0.02}


def row(method, seed, cache="warm", **figures):
    where = {"posterior": "nes", "method": method, "seed": seed, "cache": cache}
    return where | {"commit": "abc", "machine": "test"} | figures


def good(method, seed, total, mean, **figures):
    return row(method, seed, **(OK | {"total": total, "mean": mean} | figures))


NUTS = {"mc_mean": 0.02, "mc_log_sd": 0.01}
ROWS = [
    good("sph", 1, 9.0, 0.9, cache="cold"),
    good("sph", 1, 1.0, 0.03),
    good("sph", 2, 2.0, 0.01, verdict="reliable"),
    good("sph", 3, 3.0, 0.05, verdict="unreliable"),
    good("nutpie", 1, 4.0, 0.04, diverging=3, **NUTS),
    row("nutpie", 2, status="failed", reason="RuntimeError: no"),
    good("nutpie", 3, 6.0, 0.06, **NUTS),
    row("advi", 1, status="time out", reason="900 s"),
    row("svgd", 1, status="not installed", reason="svgd"),
    good("laplace", 1, 7.0, 0.2, cache="cold"),
]


def cell(method):
    return next(c for c in peer_report.cells(ROWS) if c.method == method)


def test_medians_are_of_the_warm_runs_that_succeeded():
    assert cell("sph").medians["total"] == 2.0
    assert cell("sph").error == pytest.approx(0.03)
    assert cell("sph").cold == 9.0
    assert cell("nutpie").medians["total"] == 5.0
    assert np.isnan(cell("nutpie").cold)


def test_failures_are_shown():
    assert cell("sph").note == "1 of 3: verdict unreliable"
    assert cell("nutpie").note == "1 of 3: RuntimeError: no; 3 divergences"
    assert cell("advi").note == "time out (900 s)"
    assert not cell("advi").medians
    assert cell("advi").applies
    assert not cell("svgd").applies
    assert cell("laplace").note == "cold run only" and not cell("laplace").applies


def test_tables_state_ratios_to_nuts_and_failures():
    text = peer_report.generated(ROWS, peer_report.cells(ROWS))
    # total 2 / 5, after .5 / .5, evaluations 1,000 / 1,000
    assert "| nes | 0.4 | 1 | 1 |" in text
    assert "time out (900 s)" in text
    # posteriors, failed, error <= .1
    assert "| pm.ADVI | 1 | 1 | 0 |" in text


def test_the_words_around_the_marks_stay(tmp_path):
    (tmp_path / PAGE).write_text(f"before\n{BEGIN}\nlast year's numbers\n{END}\nafter\n")
    peer_report.write(ROWS, tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"\n{END}\nafter\n")
    assert "last year" not in page
    assert (tmp_path / "benchmarks_time.png").stat().st_size > 1000
    assert (tmp_path / "benchmarks_evaluations.png").stat().st_size > 1000


def test_a_run_goes_on_where_it_was_cut(tmp_path, monkeypatch):
    made = []

    def in_process(key, folder, limit):
        made.append(key)
        folder.mkdir(parents=True, exist_ok=True)
        if key[1] == "advi":
            return {"status": "time out", "reason": "1 s"}
        return OK | {"total": 1.0, "mean": 0.1}

    monkeypatch.setattr(peers, "in_process", in_process)
    keys = list(peers.plan(["nes"], ["sph", "advi"], [1, 2]))
    assert len(keys) == 6
    path = tmp_path / "rows.jsonl"

    def measure(wanted, fresh=False):
        made.clear()
        return peers.measure(wanted, path, tmp_path / "caches", 1.0, fresh=fresh)

    measure(keys[:3])
    # the cold run of advi was out of time: its others are not made
    assert made == [key for key in keys[:3] if key[3] == "cold" or key[1] == "sph"]
    rows = measure(keys)
    assert made == [key for key in keys[3:] if key[1] == "sph"]
    assert {rows[key]["status"] for key in keys if key[1] == "advi"} == {"time out"}
    assert len(path.read_text().splitlines()) == len(keys)
    measure(keys)
    assert made == []
    measure(keys, fresh=True)
    assert len(made) == 4
    assert [json.loads(line)["method"] for line in path.read_text().splitlines()].count("sph") == 3


def test_every_posterior_has_a_reference_of_its_own_variables():
    for name, posterior in posteriors.POSTERIORS.items():
        if name in ("logistic_100000", "ten_modes", "predator_prey"):
            continue  # slow to simulate or to import
        names = {v.name for v in posterior.build().unobserved_RVs}
        assert set(posterior.reference().mean) <= names, name


def test_ten_modes_is_normalised_and_its_moments_are_exact():
    model = posteriors.ten_modes()
    x = pt.dmatrix("x")
    logp = vectorize_graph(model.logp(), {model.value_vars[0]: x})
    step = 0.5  # sds are .5 and more: the sum is exact to 10 digits
    axis = np.arange(-25, 25, step)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    _, centres, sds = posteriors.ten_modes_parts()
    near = np.linalg.norm(grid[:, None] - centres, axis=2).min(axis=1) < 6 * sds.max()
    p = np.exp(logp.eval({x: grid[near]})) * step**2
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    mean = p @ grid[near]
    reference = posteriors.ten_modes_reference()
    np.testing.assert_allclose(reference.mean["x"], mean, atol=1e-5)
    np.testing.assert_allclose(reference.sd["x"], np.sqrt(p @ (grid[near] - mean) ** 2), rtol=1e-5)


def test_hidden_chain_sums_over_all_paths():
    # four steps have 16 paths of two states; each is written out
    data = posteriordb_models.load_data("bball_drive_event_0-hmm_drive_0")
    short = data | {"u": data["u"][:4], "v": data["v"][:4]}
    model = posteriordb_models.two_state_chain(short)
    theta = np.array([[0.7, 0.3], [0.2, 0.8]])
    phi, lam = np.array([1.0, 4.0]), np.array([0.01, 0.03])
    total = 0.0
    for path in np.ndindex(2, 2, 2, 2):
        states = np.array(path)
        emission = phi[states] * np.exp(-phi[states] * short["u"])
        emission = emission * lam[states] * np.exp(-lam[states] * short["v"])
        total += emission.prod() * theta[states[:-1], states[1:]].prod()
    chain = model.potentials[0]
    inputs = {model["theta1"]: theta[0], model["theta2"]: theta[1]}
    value = chain.eval(inputs | {model["phi"]: phi, model["lambda"]: lam})
    assert float(value) == pytest.approx(np.log(total))
