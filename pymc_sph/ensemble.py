"""Independent fluids side by side, from the start to the final check; free of PyMC.

`Ensemble` is the fit under way, a value like everything in the engine: `step` returns a new one.
"""

from __future__ import annotations

import dataclasses

from dataclasses import dataclass

import numpy as np

from pymc_sph import confluence, gradient_free_start
from pymc_sph.ahead import announce_steps
from pymc_sph.confluence import Confluence, Witness
from pymc_sph.exploration import Exploration, explore
from pymc_sph.final_check import check, leave_behind
from pymc_sph.fluid import schedule as scheduling
from pymc_sph.fluid.noise import stream
from pymc_sph.fluid.simulate import Simulation
from pymc_sph.fluid.step import LogDensity, Observation
from pymc_sph.mixture import FluidMixture
from pymc_sph.placing import Run, choose, placing
from pymc_sph.result import FitResult, StepInfo
from pymc_sph.schemes import AnySettings
from pymc_sph.seeds import CHECK, EXPLORE, MEETING, START, TOGETHER, WITNESSES
from pymc_sph.settings import PROBE
from pymc_sph.start import find_starts
from pymc_sph.verdict import Evidence, judge


class StartError(ValueError):
    """No path of the start came to a point where a Gaussian has a finite ELBO."""


@dataclass(frozen=True)
class Ensemble:
    """Independent fluids under way; see `start`.

    Attributes
    ----------
    simulations : tuple of Run
        The fluids: `Simulation` or, in the collocated scheme, `Relaxation`.
    last : tuple of Observation
        What each fluid's last step saw.
    settings : Settings or CollocatedSettings
        Settings of the fit; they say which scheme the fluids follow.
    seed : int
        Seed of every random stream of the fit.
    n : int
        Largest number of steps.
    n_evaluations, n_nonfinite : int
        Gradients or log densities spent; probes set aside.
    known : Exploration
        The modes that were known before the fluids started.
    witness : Witness, optional
        What the fluids witnessed, once they have met.
    together : Confluence, optional
        The fluids after they have met; `simulations` keeps them as they were.
    """

    simulations: tuple[Run, ...]
    last: tuple[Observation, ...]
    settings: AnySettings
    seed: int
    n: int
    n_evaluations: int
    n_nonfinite: int
    known: Exploration
    witness: Witness | None = None
    together: Confluence | None = None

    @classmethod
    def start(
        cls, target: LogDensity, points: np.ndarray, settings: AnySettings, seed: int, n: int
    ) -> Ensemble:
        """Run the L-BFGS or CMA-ES paths and place the fluids.

        Parameters
        ----------
        target : callable
            theta (K, d) -> (log density (K,), gradient (K, d)), in unconstrained space.
        points : (P, d)
            Dispersed points of finite log density, a path each.
        settings : Settings or CollocatedSettings
            Settings of the fit. Here a formulation "auto" means "force".
        seed, n : int
            Seed, and largest number of steps.

        Raises
        ------
        StartError
            If no path came to a Gaussian of finite ELBO.
        """
        points = np.atleast_2d(np.asarray(points, dtype="float64"))
        pressure = settings.formulation == "pressure"
        find = gradient_free_start.find_starts if pressure else find_starts
        starts, spent = find(target, points, (seed, START))
        if not starts:
            raise StartError(
                f"none of the {len(points)} starting points led to a Gaussian that lies, for the "
                "most part, where the log density is finite; give other points (`start`), or "
                "check the model's support"
            )
        # without gradients a path costs too much to send out hundreds
        heat = 1.0 if pressure else settings.probe_temperature()
        found = explore(target, starts, heat, (seed, EXPLORE))
        place = placing(settings, target, found.modes)
        simulations = tuple(
            place(start, i, seed, n)
            for i, start in enumerate(choose([*starts, *found.modes], settings.fluids))
        )
        unseen = Observation(-np.inf, np.inf, 0.0, 0)
        spent += found.n_evaluations + sum(s.placing_cost for s in simulations)
        return cls(simulations, (unseen,) * len(simulations), settings, seed, n, spent, 0, found)

    @property
    def n_steps(self) -> int:
        """Steps taken: by the fluid that went furthest, and together."""
        common = self.together.schedule.step if self.together is not None else 0
        return max(s.n_steps for s in self.simulations) + common

    @property
    def done(self) -> bool:
        """Whether the fluids have met and stopped, or `n` steps are taken."""
        stopped = self.together is not None and not self.together.running
        return self.n_steps >= self.n or stopped

    @property
    def status(self) -> str:
        """Status of the fluids: the least finished one's, but "non_finite" only if all are."""
        statuses = {s.status for s in self.simulations}
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
        announce_steps(target, [sim.advance for sim in simulations if sim.running])
        for i, sim in enumerate(simulations):
            if not sim.running:
                continue
            hottest = max(hottest, sim.temperature)
            simulations[i], last[i] = sim.advance(target)
            spent += sim.cost
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
            after.n_steps, seen.elbo, seen.ess, 1.0, elbos, after.n_evaluations,
            after.n_nonfinite, together=True,
        )  # fmt: skip
        return after, info

    def _meet(self, target: LogDensity) -> Ensemble:
        """Let the fluids meet: fit their shares, and keep what they witness."""
        rng = stream(self.seed, MEETING, self.n_steps)
        n_fluids = len(self.simulations)
        n = max(50, self.settings.draws // ((4 if self.known.close else 2) * n_fluids))
        seed = (self.seed, TOGETHER)
        # none in the paper's scheme, whose particles weigh the same and take no common steps
        runs = [s for s in self.simulations if isinstance(s, Simulation)]
        # weights of a noisy log p would move q by its noise
        centring = bool(runs) and self.known.close and not getattr(target, "random", False)
        mixture, witness, divergence = confluence.meet(
            self.mixture(), target, n, rng, settling=bool(runs), centring=centring
        )
        if runs:
            lost = self.status == scheduling.NON_FINITE
            flat = divergence < runs[0].plan.tol or n_fluids == 1 or lost
            together = confluence.join(mixture, runs, seed, flat=flat)
        else:
            together = confluence.at_rest(mixture, seed)
        return dataclasses.replace(
            self,
            witness=witness,
            together=together,
            n_evaluations=self.n_evaluations + n * n_fluids,
        )

    def extend(self, n: int) -> Ensemble:
        """Allow n more steps, and let fluids that had stopped go on at their last step sizes."""
        n = self.n_steps + n
        if self.together is not None and isinstance(self.simulations[0], Simulation):
            return dataclasses.replace(self, together=confluence.reopen(self.together), n=n)
        simulations = tuple(s.reopen() for s in self.simulations)
        return dataclasses.replace(self, simulations=simulations, n=n, witness=None, together=None)

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
        best = float(np.max(met.witness.fluid_elbo))
        mixture, looks = leave_behind(met.mixture(), target, best)
        rng = stream(self.seed, CHECK, self.n_steps)
        known = self._known(target)
        draws = self.settings.draws
        seen = check(mixture, target, known.modes, draws, rng, glance=known.close)
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
            n_evaluations=met.n_evaluations + known.n_evaluations + looks + seen.n_evaluations,
            n_nonfinite=self.n_nonfinite + seen.n_nonfinite,
            verdict=judge(found),
            formulation="pressure" if self.settings.formulation == "pressure" else "force",
            void=seen.void,
        )
        return found, result

    def _known(self, target: LogDensity) -> Exploration:
        """Known modes, and what it cost to find them now; a fit without a search gets a short one.

        Without it, nothing could tell that a cold fit has missed a mode.
        """
        searched = self.settings.probe_temperature() > 1
        if searched or self.settings.formulation == "pressure":  # it needs gradients
            return dataclasses.replace(self.known, n_evaluations=0)
        seed = (self.seed, WITNESSES)
        return explore(target, list(self.known.modes), PROBE, seed, rounds=1)
