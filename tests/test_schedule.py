"""The schedule's rules as properties, and one fluid's simulation taken up anywhere."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from fluids import banana, random_fluid
from hypothesis import given
from hypothesis import strategies as st

from pymc_sph.fluid import schedule, simulate
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import Fluid
from pymc_sph.fluid.step import Observation, Rates

PLAN = Plan(temperature=9.0, cooling=6, window=4, halvings=2, tol=0.01, rates=Rates())


def see(elbo, variance=1.0):
    return Observation(elbo, variance, 0.5, 0)


def follow(elbos, plan=PLAN, variance=1.0, n_probes=10_000):
    states = [Schedule()]
    for elbo in elbos:
        if states[-1].status != schedule.RUNNING:
            break
        states.append(schedule.advance(plan, states[-1], see(elbo, variance), n_probes))
    return states


@pytest.mark.parametrize("flat", [None, 3])
def test_ease_moves_the_mark_of_what_is_good_enough_alone(flat):
    # half the variance is .015, between tol and twice tol; the ELBO still rises
    elbos = np.arange(8.0)
    for ease, status in ((1.0, schedule.RUNNING), (2.0, schedule.CONVERGED)):
        plan = dataclasses.replace(PLAN, temperature=1.0, ease=ease, flat=flat)
        assert follow(elbos, plan, variance=0.03)[-1].status == status


@given(st.floats(1, 1e4), st.integers(0, 50))
def test_temperature_starts_hot_only_falls_and_ends_at_one(hot, cooling):
    plan = dataclasses.replace(PLAN, temperature=hot, cooling=cooling)
    values = [schedule.temperature(plan, t) for t in range(cooling + 3)]
    assert values[0] == (hot if cooling else 1.0)
    assert values[cooling:] == [1.0] * 3
    assert all(a >= b >= 1 for a, b in itertools.pairwise(values))
    if cooling > 1:  # geometric: the same factor every step
        ratios = np.divide(values[1 : cooling + 1], values[:cooling])
        np.testing.assert_allclose(ratios, hot ** (-1 / cooling), rtol=1e-9)


def test_halving_scales_step_sizes_and_nothing_else():
    full = schedule.rates(PLAN, Schedule(step=99))
    half = schedule.rates(PLAN, Schedule(step=99, level=1))
    assert full == PLAN.rates
    for field in dataclasses.fields(Rates):
        scale = 0.5 if field.name in ("dt", "tensor", "mass", "frame") else 1.0
        assert getattr(half, field.name) == scale * getattr(full, field.name)


def test_hot_steps_do_not_count_for_the_plateau():
    # a hot fluid's ELBO is of another free energy: however good, it is not what to be beaten
    good_while_hot = follow([1e6] * PLAN.cooling + [-3.0] * PLAN.window)
    assert good_while_hot[-1].best == -3.0
    assert good_while_hot[-1].status == schedule.RUNNING and good_while_hot[-1].level == 0


def test_a_rise_within_the_noise_is_no_progress():
    rise = [-3.0] * 10 + [-2.9] * 4  # .1 nats above the first window
    # error of a window's mean: sqrt(1 / (n_probes * 4))
    assert follow(rise, n_probes=10_000)[-1].level == 0
    assert follow(rise, n_probes=10)[-1].level == 1


NOISY = dataclasses.replace(PLAN, temperature=1.0, cooling=0, noisy=True)


def test_noise_of_batches_from_step_to_step_is_no_progress_but_a_trend_is():
    noise = [3.0, -3.0] * 4
    # a window's mean rises by .5, within the error 3 / sqrt(4) that the differences show
    elbos = [e + (0.5 if i >= 4 else 0.0) for i, e in enumerate(noise)]
    assert follow(elbos, NOISY)[-1].level == 1
    assert follow(elbos, dataclasses.replace(NOISY, noisy=False))[-1].level == 0
    steep = [float(i) for i in range(12)]
    assert follow(steep, NOISY)[-1].level == 0


def test_a_noisy_plateau_comes_to_its_end():
    for seed in range(5):
        elbos = np.random.default_rng(seed).normal(0, 5, 2000)
        states = follow(elbos, NOISY)
        assert states[-1].status == schedule.CONVERGED
        assert NOISY.window * 7 <= len(states) - 1 < 1000  # 1 + 2 + 4 windows, at least


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_best_and_level_never_fall_and_steps_are_counted(elbos):
    states = follow(elbos)
    assert [s.step for s in states] == list(range(len(states)))
    for a, b in itertools.pairwise(states):
        assert b.best >= a.best and a.level <= b.level <= a.level + 1
    assert all((s.status == schedule.CONVERGED) == (s.level > PLAN.halvings) for s in states)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_non_finite_elbo_is_no_part_of_any_window(broken):
    clean = follow([-3.0] * 8)[-1]
    dirty = follow([-3.0] * 7 + [broken] * 3 + [-3.0])[-1]
    assert dirty.total == clean.total and dirty.count == clean.count == 2
    assert dirty.step == clean.step + 3 and dirty.barren == 0


def test_barren_steps_end_the_fit_only_in_a_row():
    row = [-math.inf] * (schedule.STALL - 1)
    assert follow([*row, -3.0, *row])[-1].status == schedule.RUNNING
    given_up = follow([*row, -math.inf])[-1]
    assert given_up.status == schedule.NON_FINITE
    assert schedule.reopen(PLAN, given_up) == given_up  # there is nothing to go on from


def test_a_reopened_schedule_stops_again():
    state = schedule.reopen(PLAN, follow([-3.0] * 1000)[-1])
    rates = schedule.rates(PLAN, state)
    assert rates.dt == PLAN.rates.dt / 2**PLAN.halvings and rates.temperature == 1
    for _ in range(PLAN.window * 2**PLAN.halvings):
        assert state.status == schedule.RUNNING
        state = schedule.advance(PLAN, state, see(-3.0), 10_000)
    assert state.status == schedule.CONVERGED


def test_a_simulation_taken_up_again_goes_on_as_if_it_had_not_stopped():
    fluid = random_fluid(np.random.default_rng(0))
    first = Simulation(fluid, PLAN, Schedule(), 32, (7, 0, 1))

    def run(sim, n):
        for _ in range(n):
            sim, _ = simulate.advance(sim, banana)
        return sim

    through = run(first, 9)
    halfway = run(first, 4)
    # nothing but what the value holds may carry over, as after pickling
    taken_up = run(dataclasses.replace(halfway, fluid=dataclasses.replace(halfway.fluid)), 5)
    for field in dataclasses.fields(Fluid):
        np.testing.assert_array_equal(
            getattr(through.fluid, field.name), getattr(taken_up.fluid, field.name)
        )
    assert through.schedule == taken_up.schedule
    other = run(dataclasses.replace(first, seed=(7, 0, 2)), 1)
    assert not np.array_equal(other.fluid.z, run(first, 1).fluid.z)
