"""Independent fluids side by side, from the start to the final check; free of PyMC.

`Ensemble` is the fit under way, a value like everything in the engine: `step` returns a new one.
`fit_density` runs it for a user with a log density instead of a PyMC model.
"""

from __future__ import annotations

import dataclasses

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scipy.special import logsumexp, softmax

from pymc_sph import confluence
from pymc_sph.checks import check_integer
from pymc_sph.confluence import Confluence, Witness
from pymc_sph.exploration import Exploration, apart, distance, explore, near
from pymc_sph.final_check import check
from pymc_sph.fluid import schedule as scheduling
from pymc_sph.fluid import simulate
from pymc_sph.fluid.schedule import Plan, Schedule
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.state import pour
from pymc_sph.fluid.step import LogDensity, Observation, Rates
from pymc_sph.mixture import FluidMixture, apportion
from pymc_sph.result import FitResult, StepInfo
from pymc_sph.seeds import integer_seed
from pymc_sph.settings import PROBE, Settings, make_settings
from pymc_sph.start import Gaussian, find_starts
from pymc_sph.verdict import Evidence, judge

HALVINGS = 3
"""Halvings of the step sizes without progress after which a fluid has converged."""
CHECK, START, POSITIONS, MEETING, TOGETHER, EXPLORE = 1, 2, 3, 4, 5, 6
"""Keys that keep the random streams of a fit apart."""


class StartError(ValueError):
    """No path of the start came to a point where a Gaussian has a finite ELBO."""


@dataclass(frozen=True)
class Ensemble:
    """Independent fluids under way; see `start`.

    Attributes
    ----------
    simulations : tuple of Simulation
        The fluids.
    last : tuple of Observation
        What each fluid's last step saw.
    settings : Settings
        Settings of the fit.
    seed : int
        Seed of every random stream of the fit.
    n : int
        Largest number of steps.
    n_evaluations, n_nonfinite : int
        Gradients spent; probes set aside.
    known : Exploration
        The modes that were known before the fluids started.
    witness : Witness, optional
        What the fluids witnessed, once they have met.
    together : Confluence, optional
        The fluids after they have met; `simulations` keeps them as they were.
    """

    simulations: tuple[Simulation, ...]
    last: tuple[Observation, ...]
    settings: Settings
    seed: int
    n: int
    n_evaluations: int
    n_nonfinite: int
    known: Exploration
    witness: Witness | None = None
    together: Confluence | None = None

    @classmethod
    def start(
        cls, target: LogDensity, points: np.ndarray, settings: Settings, seed: int, n: int
    ) -> Ensemble:
        """Run the L-BFGS paths and place the fluids.

        Parameters
        ----------
        target : callable
            theta (K, d) -> (log density (K,), gradient (K, d)), in unconstrained space.
        points : (P, d)
            Dispersed points of finite log density, a path each.
        settings : Settings
            Settings of the fit.
        seed, n : int
            Seed, and largest number of steps.

        Raises
        ------
        StartError
            If no path came to a Gaussian of finite ELBO.
        """
        points = np.atleast_2d(np.asarray(points, dtype="float64"))
        starts, spent = find_starts(target, points, (seed, START))
        if not starts:
            raise StartError(
                f"none of the {len(points)} starting points led to a region where the log density "
                "is finite; give other points (`start`), or check the model's support"
            )
        found = explore(target, starts, settings.probe_temperature(), (seed, EXPLORE))
        simulations = tuple(
            _place(start, found.modes, i, settings, seed, n)
            for i, start in enumerate(choose([*starts, *found.modes], settings.fluids))
        )
        unseen = Observation(-np.inf, np.inf, 0.0, 0)
        spent += found.n_evaluations
        return cls(simulations, (unseen,) * len(simulations), settings, seed, n, spent, 0, found)

    @property
    def n_steps(self) -> int:
        """Steps taken: by the fluid that went furthest, and together."""
        common = self.together.schedule.step if self.together is not None else 0
        return max(s.schedule.step for s in self.simulations) + common

    @property
    def done(self) -> bool:
        """Whether the fluids have met and stopped, or `n` steps are taken."""
        stopped = self.together is not None and not self.together.running
        return self.n_steps >= self.n or stopped

    @property
    def status(self) -> str:
        """Status of the fluids: the least finished one's, but "non_finite" only if all are."""
        statuses = {s.schedule.status for s in self.simulations}
        if not statuses & {scheduling.RUNNING, scheduling.CONVERGED}:
            return scheduling.NON_FINITE
        if self.together is not None:
            statuses = {self.together.schedule.status}
        if scheduling.RUNNING in statuses:
            return scheduling.MAX_STEPS if self.n_steps >= self.n else scheduling.RUNNING
        return scheduling.CONVERGED if scheduling.CONVERGED in statuses else scheduling.NON_FINITE

    def step(self, target: LogDensity) -> tuple[Ensemble, StepInfo]:
        """Take one step with every fluid that still runs, or with all of them together."""
        if self.together is not None:
            return self._step_together(self.together, target)
        simulations, last = list(self.simulations), list(self.last)
        spent, nonfinite, hottest = self.n_evaluations, self.n_nonfinite, 1.0
        for i, sim in enumerate(simulations):
            if not sim.running:
                continue
            hottest = max(hottest, scheduling.temperature(sim.plan, sim.schedule.step))
            simulations[i], last[i] = simulate.advance(sim, target)
            spent += sim.n_probes
            nonfinite += last[i].n_nonfinite
        after = dataclasses.replace(
            self,
            simulations=tuple(simulations),
            last=tuple(last),
            n_evaluations=spent,
            n_nonfinite=nonfinite,
        )
        elbos = np.array([seen.elbo for seen in last])
        best = int(np.argmax(elbos))
        if not any(s.running for s in simulations):
            after = after._meet(target)
        info = StepInfo(
            after.n_steps, float(elbos[best]), last[best].ess, hottest, elbos,
            after.n_evaluations, nonfinite,
        )  # fmt: skip
        return after, info

    def _step_together(self, together: Confluence, target: LogDensity) -> tuple[Ensemble, StepInfo]:
        moved, seen, elbos = confluence.advance(together, target)
        after = dataclasses.replace(
            self,
            together=moved,
            n_evaluations=self.n_evaluations + together.cost,
            n_nonfinite=self.n_nonfinite + seen.n_nonfinite,
        )
        info = StepInfo(
            after.n_steps, seen.elbo, seen.ess, 1.0, elbos, after.n_evaluations, after.n_nonfinite
        )
        return after, info

    def _meet(self, target: LogDensity) -> Ensemble:
        """Let the fluids meet: fit their shares, and keep what they witness."""
        rng = np.random.default_rng([self.seed, MEETING, self.n_steps])
        n_fluids = len(self.simulations)
        n = max(50, self.settings.draws // (2 * n_fluids))
        mixture, witness, divergence = confluence.meet(self.mixture(), target, n, rng)
        lost = self.status == scheduling.NON_FINITE
        flat = divergence < self.settings.tol or n_fluids == 1 or lost
        seed = (self.seed, TOGETHER)
        return dataclasses.replace(
            self,
            witness=witness,
            together=confluence.join(mixture, self.simulations[0], seed, flat=flat),
            n_evaluations=self.n_evaluations + n * n_fluids,
        )

    def extend(self, n: int) -> Ensemble:
        """Allow n more steps, and let fluids that had stopped go on at their last step sizes."""
        if self.together is not None:
            return dataclasses.replace(
                self, together=confluence.reopen(self.together), n=self.n_steps + n
            )
        simulations = tuple(
            dataclasses.replace(s, schedule=scheduling.reopen(s.plan, s.schedule))
            for s in self.simulations
        )
        return dataclasses.replace(self, simulations=simulations, n=self.n_steps + n)

    def mixture(self) -> FluidMixture:
        """Return the fluids as they are; with equal shares as long as they have not met."""
        if self.together is not None:
            return self.together.mixture
        n = len(self.simulations)
        return FluidMixture(tuple(s.fluid for s in self.simulations), np.full(n, -np.log(n)))

    def finish(self, target: LogDensity, status: str | None = None) -> FitResult:
        """Let the fluids meet if they have not, and check q against the target with fresh draws.

        Parameters
        ----------
        target : callable
            As in `start`.
        status : str, optional
            Overrides the status, as "interrupted" does.
        """
        return self.found(target, status)[1]

    def found(self, target: LogDensity, status: str | None = None) -> tuple[Evidence, FitResult]:
        """Return what the check found together with the result; as in `finish`."""
        status = status or self.status
        met = self if self.witness is not None else self._meet(target)
        assert met.witness is not None
        mixture = met.mixture()
        rng = np.random.default_rng([self.seed, CHECK, self.n_steps])
        known = self._known(target)
        seen = check(mixture, target, known.modes, self.settings.draws, rng)
        found = Evidence(
            ess=seen.ess,
            pareto_k=seen.pareto_k,
            r_hat=met.witness.r_hat,
            n_agreeing=met.witness.n_agreeing,
            n_fluids=len(self.simulations),
            nonfinite=seen.unknown,
            void=seen.void,
            status=status,
            error=seen.error,
            left=seen.left,
            uncovered=seen.uncovered,
            unseen=known.unseen,
            n_modes=len(known.modes),
            dim=mixture.dim,
        )
        result = FitResult(
            mixture=mixture,
            elbo=seen.elbo,
            fluid_elbo=met.witness.fluid_elbo,
            log_evidence=seen.log_evidence,
            log_evidence_se=seen.log_evidence_se,
            pareto_k=seen.pareto_k,
            importance_ess=seen.ess,
            r_hat=met.witness.r_hat,
            status=status,
            n_steps=self.n_steps,
            n_evaluations=met.n_evaluations + known.n_evaluations + seen.n_evaluations,
            n_nonfinite=self.n_nonfinite + seen.n_nonfinite,
            verdict=judge(found),
        )
        return found, result

    def _known(self, target: LogDensity) -> Exploration:
        """Known modes, and what it cost to find them now; a fit without a search gets a short one.

        Without it, nothing could tell that a cold fit has missed a mode.
        """
        if self.settings.probe_temperature() > 1:
            return dataclasses.replace(self.known, n_evaluations=0)
        seed = (self.seed, CHECK, EXPLORE)
        return explore(target, list(self.known.modes), PROBE, seed, rounds=1)


def choose(starts: list[Gaussian], n_fluids: int) -> list[Gaussian]:
    """One start per fluid, from starts sorted by ELBO: places apart first, then the best others.

    Several paths that ended in one mode must not crowd out the path that found another.
    """
    first = apart(starts)
    taken = {id(start) for start in first}
    ordered = [*first, *(start for start in near(starts) if id(start) not in taken)]
    return [ordered[i % len(ordered)] for i in range(n_fluids)]


def _place(
    start: Gaussian, modes: Sequence[Gaussian], i: int, settings: Settings, seed: int, n: int
) -> Simulation:
    """Fluid i at rest at its start and, with full tensors, at all other modes; with its schedule.

    A diagonal tensor takes its shape from the frame, and a frame fits one mode.
    """
    d = len(start.mu)
    full = settings.full_tensor(d)
    places = [start]
    if full:
        places += [mode for mode in modes if distance(mode, start) > 1.0]
    particles, probes = settings.sizes(d, len(places))
    places = places[:particles]
    rng = np.random.default_rng([seed, POSITIONS, i])
    log_share = np.array([place.elbo for place in places])
    counts = apportion(softmax(0.5 * log_share), particles - len(places)) + 1
    fluid = pour(
        [(p.mu, p.L, rng.standard_normal((c, d))) for p, c in zip(places, counts, strict=True)],
        log_share - logsumexp(log_share),
        full=full,
    )
    temperature = settings.temperatures()[i]
    plan = Plan(
        temperature=temperature,
        cooling=min(settings.cooling, n // 2),
        window=settings.window,
        halvings=HALVINGS,
        tol=settings.tol,
        rates=Rates(
            dt=settings.dt,
            tensor=settings.tensor_rate,
            mass=settings.mass_rate,
            frame=settings.frame_rate,
            damping=settings.damping,
            viscosity=settings.viscosity,
            trust=settings.trust,
        ),
    )
    return Simulation(fluid, plan, Schedule(), probes, (seed, 0, i))


def fit_density(
    logp_and_grad: LogDensity,
    dim: int,
    *,
    points: np.ndarray | None = None,
    n: int = 10_000,
    random_seed: Any = None,
    **settings: Any,
) -> FitResult:
    """Fit the fluids to a log density, without PyMC.

    Parameters
    ----------
    logp_and_grad : callable
        theta (K, d) -> (log density (K,), its gradient (K, d)), on all of R^d. The log density
        need not be normalised; entries may be non-finite.
    dim : int
        Dimension d.
    points : (P, d), optional
        Starting points; by default standard normal ones, some of them wider.
    n : int
        Largest number of steps; 0 leaves the fluids at their starts.
    random_seed : int, array of int, Generator or None
        Seed of everything random; the same integer gives the same bits, None others every time.
    **settings
        Fields of `Settings`.

    Returns
    -------
    FitResult
        ``result.mixture.sample(n, rng)`` draws from it.

    Raises
    ------
    SettingsError
        For settings that have no meaning.
    StartError
        If no start is finite.
    """
    chosen = make_settings(settings)
    dim = check_integer("dim", dim, 1)
    n = check_integer("n", n, 0, whole_floats=True)
    seed = integer_seed(random_seed)
    if points is None:
        rng = np.random.default_rng([seed, START, 0])
        spread = np.where(np.arange(chosen.paths) % 2, 3.0, 1.0)
        points = spread[:, None] * rng.standard_normal((chosen.paths, dim))
    ensemble = Ensemble.start(logp_and_grad, points, chosen, seed, n)
    while not ensemble.done:
        ensemble, _ = ensemble.step(logp_and_grad)
    return ensemble.finish(logp_and_grad)
