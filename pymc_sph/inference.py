"""The method as PyMC sees it: `SPH`, an Inference for `pymc.fit`, and the one-call `fit`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import time
import warnings

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pymc as pm

from pymc.progress_bar import CustomProgress, default_progress_theme
from pymc.variational.inference import Inference
from rich.console import Console
from rich.progress import Progress, TextColumn
from threadpoolctl import threadpool_limits

from pymc_sph import importance
from pymc_sph.approximation import FluidApproximation
from pymc_sph.ensemble import Ensemble, StepInfo
from pymc_sph.graph import check_free_variables
from pymc_sph.settings import Settings, SettingsError
from pymc_sph.target import Target, compile_target

logger = logging.getLogger(__name__)

try:
    VERSION = version("pymc-sph")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0+unknown"

PROGRESS_SECONDS = 0.1
"""The progress bar is redrawn no more often than this."""

Callback = Callable[[Any, Any, int], Any]


class UnreliableFitWarning(UserWarning):
    """The verdict on a fit is "unreliable"; the message says why and what to try."""


class SPH(Inference):
    """Smoothed particle hydrodynamics as a variational inference of PyMC.

    Pass an instance as ``pm.fit(method=SPH(...))``, or the string ``"sph"`` with the same
    arguments in ``inf_kwargs``.

    Parameters
    ----------
    model : pymc.Model, optional
        The model on the context stack by default.
    random_seed : int, array of int, Generator or None
        Seed of everything random in the fit; the same seed on the same machine gives the same
        bits.
    start : dict, optional
        Starting values as in `pymc.fit`, by name of a variable or of its unconstrained value.
        The paths of the start set out around them.
    threads : int, optional
        Threads that evaluate the log density; all cores, up to 4, by default. Results do not
        depend on it.
    **settings
        Fields of `pymc_sph.Settings`, such as ``fluids``, ``particles`` or ``temperature``.

    Raises
    ------
    SettingsError
        For an unknown setting, or a value that has no meaning.
    NoFreeVariablesError, DiscreteVariableError
        If the model has nothing to fit, or something that has no gradient.
    """

    def __init__(
        self,
        model: Any = None,
        random_seed: Any = None,
        start: dict[str, Any] | None = None,
        *,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        # not super().__init__: it builds PyMC's gradient objective, and this is not one
        self.model = pm.modelcontext(model)
        check_free_variables(self.model)
        self.settings = make_settings(settings)
        self.random_seed = random_seed
        self.start = start
        self.threads = threads
        self.hist = np.empty(0)
        self.state: Any = None
        self._ensemble: Ensemble | None = None
        self._options: tuple[Any, Any] | None = None
        self._target: Target | None = None
        self._approx: FluidApproximation | None = None
        self._seconds = 0.0

    @property
    def approx(self) -> FluidApproximation:
        """The approximation, filled by `fit`."""
        if self._approx is None:
            dim = sum(np.size(value) for value in self.model.initial_point(0).values())
            self._approx = FluidApproximation(
                self.model, full=self.settings.full_tensor(dim), random_seed=self.random_seed
            )
        return self._approx

    def fit(
        self,
        n: int = 10_000,
        score: bool | None = None,
        callbacks: Sequence[Callback] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
        *,
        backend: str | None = None,
        include_transformed: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> FluidApproximation:
        """Fit the fluids, from a new start.

        Parameters
        ----------
        n : int
            Largest number of steps; the fit usually stops much earlier, on the ELBO's plateau.
        score : bool, optional
            Keep minus the ELBO of every step in `hist`; True by default.
        callbacks : list of callable, optional
            Called after every step as ``callback(approx, hist or None, i)``. One that raises
            StopIteration ends the fit.
        progressbar : bool
            Show a progress bar.
        progressbar_theme : Theme
            Theme of the progress bar.
        backend : {None, "numba", "c", "jax"}
            Backend of the compiled log density.
        include_transformed : bool
            Whether ``approx.state`` (PyMC 6) holds the unconstrained values too.
        compile_kwargs : dict, optional
            Arguments of `pytensor.function`.
        **kwargs
            Fields of `pymc_sph.Settings`, for this fit and later ones.

        Returns
        -------
        FluidApproximation

        Raises
        ------
        InitialPointError, StartError
            If log p is finite at no starting point.
        GradientError
            If the log density has no gradient.
        """
        if n < 1 or n != int(n):
            raise SettingsError(f"n={n!r}: give a number of steps of at least 1")
        self._take_settings(kwargs)
        with threadpool_limits(1, user_api="blas"):
            target = self._compile(backend, compile_kwargs)
            seed = _integer_seed(self.random_seed)
            began = time.perf_counter()
            target.reseed(seed)
            points = target.initial_points(self.settings.paths, seed, self.start)
            self._ensemble = Ensemble.start(target, points, self.settings, seed, int(n))
            self._seconds = time.perf_counter() - began
            self.hist = np.empty(0)
            self.approx.groups[0].include_transformed = include_transformed
            self._run(score, callbacks, progressbar, progressbar_theme)
        return self.approx

    def refine(
        self,
        n: int,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
    ) -> FluidApproximation:
        """Go on for up to n more steps, with the callbacks of the last fit.

        Raises
        ------
        TypeError
            If nothing has been fitted yet.
        """
        if self._ensemble is None or self.state is None:
            raise TypeError("Need to call `.fit` first")
        if n < 1 or n != int(n):
            raise SettingsError(f"n={n!r}: give a number of steps of at least 1")
        self._ensemble = self._ensemble.extend(int(n))
        with threadpool_limits(1, user_api="blas"):
            score, callbacks = self.state
            self._run(score, callbacks, progressbar, progressbar_theme)
        return self.approx

    def run_profiling(self, n: int = 1000, score: Any = None, **kwargs: Any) -> Any:
        """Raise: there is no single PyTensor function to profile."""
        raise NotImplementedError(
            "SPH has no single PyTensor function to profile; "
            "profile pm.fit(method='sph') with a Python profiler instead"
        )

    # --- steps of a fit

    def _take_settings(self, changes: dict[str, Any]) -> None:
        foreign = [name for name in changes if name.startswith(("obj_", "tf_", "test_", "more_"))]
        if foreign:
            raise TypeError(
                f"{', '.join(foreign)}: SPH has no stochastic-gradient objective, so this "
                "argument of other methods means nothing to it; remove it"
            )
        if changes:
            full = self.settings.tensor
            self.settings = make_settings(
                {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}
                | changes
            )
            if self.settings.tensor != full:
                self._approx = None

    def _compile(self, backend: str | None, compile_kwargs: dict[str, Any] | None) -> Target:
        options = (backend, compile_kwargs)
        if self._target is None or self._options != options:
            self._target = compile_target(
                self.model, threads=self.threads, backend=backend, compile_kwargs=compile_kwargs
            )
            self._options = options
        return self._target

    def _run(
        self,
        score: bool | None,
        callbacks: Sequence[Callback] | None,
        progressbar: bool,
        theme: Any,
    ) -> None:
        """Step until the ensemble is done; keep what there is if the fit ends early."""
        assert self._ensemble is not None and self._target is not None
        score = True if score is None else bool(score)
        callbacks = list(callbacks or [])
        self.state = (score, callbacks)
        losses: list[float] = []
        first = self._ensemble.n_steps
        status = "failed"
        began = time.perf_counter()
        try:
            with _progress(self._ensemble.n - first, progressbar, theme) as show:
                while not self._ensemble.done:
                    self._ensemble, info = self._ensemble.step(self._target)
                    losses.append(-info.elbo)
                    show(info, info.step - first)
                    if callbacks:
                        self.approx.update(self._ensemble.mixture(), self._target)
                        for callback in callbacks:
                            callback(self.approx, np.array(losses) if score else None, info.step)
            status = self._ensemble.status
        except StopIteration as stop:
            status = "stopped"
            logger.info("A callback stopped the fit: %s", stop)
        except KeyboardInterrupt:
            status = "interrupted"
            logger.info("Interrupted at step %d; the fit so far is kept", self._ensemble.n_steps)
        finally:
            if score:
                self.hist = np.concatenate([self.hist, losses])
            self._conclude(status, time.perf_counter() - began)

    def _conclude(self, status: str, seconds: float) -> None:
        """Check the fluids as they are, and hand the result to the approximation."""
        assert self._ensemble is not None and self._target is not None
        began = time.perf_counter()
        result = self._ensemble.finish(self._target, status)
        self._seconds += seconds + time.perf_counter() - began
        self.approx.update(result.mixture, self._target, result)
        self.approx.hist = self.hist
        self.approx.attrs = self._attrs()
        grade = result.verdict.grade
        level = logging.INFO if grade == importance.RELIABLE else logging.WARNING
        logger.log(level, "SPH fit is %s", result.verdict)
        if grade == importance.UNRELIABLE:
            warnings.warn(f"SPH fit is {result.verdict}", UnreliableFitWarning, stacklevel=2)

    def _attrs(self) -> dict[str, Any]:
        """Attributes of the groups of draws."""
        assert self._target is not None
        result = self.approx.result
        assert result is not None
        return {
            "created_at": datetime.now(UTC).isoformat(),
            "inference_library": "pymc_sph",
            "inference_library_version": VERSION,
            "inference_library_settings": json.dumps(self.settings.as_dict()),
            "sampling_time": self._seconds,
            "compile_time": self._target.compile_time,
            "tuning_steps": 0,
            "n_steps": result.n_steps,
            "n_evaluations": result.n_evaluations,
            "n_nonfinite": result.n_nonfinite,
            "elbo": result.elbo,
            "log_evidence": result.log_evidence,
            "log_evidence_se": result.log_evidence_se,
            "pareto_k": result.pareto_k,
            "importance_ess": result.importance_ess,
            "r_hat": result.r_hat,
            "status": result.status,
            "verdict": result.verdict.grade,
            "verdict_reason": f"{result.verdict.reason}. {result.verdict.advice}".strip(),
        }


def fit(
    draws: int = 1000,
    chains: int = 4,
    *,
    model: Any = None,
    random_seed: Any = None,
    n: int = 10_000,
    start: dict[str, Any] | None = None,
    importance: str | None = "psis",
    callbacks: Sequence[Callback] | None = None,
    progressbar: bool = True,
    include_transformed: bool = False,
    backend: str | None = None,
    compile_kwargs: dict[str, Any] | None = None,
    idata_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Fit a model and return importance-corrected draws, a chain per independent fluid.

    Parameters
    ----------
    draws : int
        Draws per chain.
    chains : int
        Number of independent fluids, and chains of the result.
    model, random_seed, n, start, callbacks, progressbar, backend, compile_kwargs
        As in `SPH` and `SPH.fit`.
    importance : {"psis", None}
        "psis" resamples the fluids' draws by Pareto-smoothed importance weights; None returns
        plain draws. See `FluidApproximation.sample_chains`.
    include_transformed : bool
        Add the group ``unconstrained_posterior``.
    idata_kwargs : dict, optional
        ``coords``, ``dims``, ``log_likelihood`` for the result.
    **settings
        Fields of `pymc_sph.Settings`, and ``threads``.

    Returns
    -------
    InferenceData or DataTree
        The container of the installed PyMC.
    """
    if importance not in ("psis", None):
        raise SettingsError(f"importance={importance!r}: choose 'psis' or None")
    if isinstance(draws, bool) or draws != int(draws) or draws < 1:
        raise SettingsError(f"draws={draws!r}: give a number of draws of at least 1")
    if "fluids" in settings:
        raise SettingsError("fluids: pymc_sph.fit has one fluid per chain, give `chains` instead")
    seeds = np.random.SeedSequence(_integer_seed(random_seed)).generate_state(2)
    method = SPH(model, int(seeds[0]), start, fluids=chains, **settings)
    approx = method.fit(
        n,
        callbacks=callbacks,
        progressbar=progressbar,
        backend=backend,
        compile_kwargs=compile_kwargs,
    )
    return approx.sample_chains(
        draws,
        importance=importance,
        random_seed=int(seeds[1]),
        include_transformed=include_transformed,
        **(idata_kwargs or {}),
    )


def make_settings(values: dict[str, Any]) -> Settings:
    """Make `Settings` from keyword arguments; an error for an unknown one suggests the nearest.

    Raises
    ------
    SettingsError
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SettingsError(
                f"unknown setting {name!r}.{hint} The settings are {', '.join(names)}"
            )
    return Settings(**values)


def _integer_seed(random_seed: Any) -> int:
    """One integer seed from whatever PyMC accepts as a random seed."""
    if isinstance(random_seed, np.random.RandomState):
        return int(random_seed.randint(2**30))
    if isinstance(random_seed, np.random.Generator):
        return int(random_seed.integers(2**30))
    return int(np.random.SeedSequence(random_seed).generate_state(1)[0])


@contextmanager
def _progress(
    total: int, progressbar: bool, theme: Any
) -> Iterator[Callable[[StepInfo, int], None]]:
    """PyMC's progress bar; yields a function that shows a step, redrawing now and then."""
    columns = [*Progress.get_default_columns(), TextColumn("{task.fields[figures]}")]
    with CustomProgress(*columns, console=Console(theme=theme), disable=not progressbar) as bar:
        task = bar.add_task("Fitting fluids:", total=total, figures="")
        shown = -np.inf

        def show(info: StepInfo, done: int) -> None:
            nonlocal shown
            now = time.perf_counter()
            if progressbar and now - shown >= PROGRESS_SECONDS:
                shown = now
                figures = f"ELBO {info.elbo:,.2f}, ESS {info.ess:.2f}, T {info.temperature:.1f}"
                bar.update(task, completed=done, figures=figures)

        yield show
        if progressbar:
            done = bar.tasks[0].completed
            bar.update(task, total=done, completed=done)
