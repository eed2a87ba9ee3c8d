"""The method as PyMC sees it: `SPH`, an Inference for `pymc.fit`, and the one-call `fit`."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pymc as pm

from pymc.progress_bar import default_progress_theme
from pymc.variational.inference import Inference

from pymc_sph import anchoring, files, idata, verdict
from pymc_sph import checkpoint as checkpointing
from pymc_sph.approximation import FluidApproximation
from pymc_sph.checks import Callback, SettingsError, check_callbacks, check_integer, shown
from pymc_sph.fingerprint import fingerprint
from pymc_sph.graph import check_free_variables
from pymc_sph.links import see
from pymc_sph.process import graphs, one_blas_thread, users_level
from pymc_sph.schemes import settings_of
from pymc_sph.seeds import integer_seed
from pymc_sph.target import Target, compile_target
from pymc_sph.under_way import UnderWay
from pymc_sph.workers import check_executor

logger = logging.getLogger(__name__)

ARGUMENTS = (
    "backend", "callbacks", "checkpoint", "compile_kwargs", "cores", "every", "executor",
    "inf_kwargs", "include_transformed", "method", "model", "progressbar", "progressbar_theme",
    "random_seed", "scheme", "score", "start", "threads",
)  # fmt: skip
"""What `pymc.fit` and `SPH` take besides the settings; an unknown setting may be meant as one."""


class UnreliableFitWarning(UserWarning):
    """The verdict on a fit is "unreliable"; the message says why and what to try."""


class SPH(UnderWay, Inference):
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
    cores, executor
        Processes, or an executor of `concurrent.futures`, Dask, loky and others, that evaluate the
        log density instead of threads; see `compile_target`. Results do not depend on them.
    scheme : {"variational", "collocated"}
        The variational fluid, or SPH as the paper writes it, with every term selectable.
    checkpoint : path, optional
        File, ending in .npz or .zarr, that keeps the fit under way: `pymc_sph.resume` goes on from
        it. It is replaced in one step, so that there is a whole one at any moment.
    every : int
        Steps between two checkpoints. One is also written at the start, when the fluids meet, and
        however the fit ends.
    **settings
        Fields of `pymc_sph.Settings`, such as ``fluids``, ``particles`` or ``temperature``; with
        ``scheme="collocated"``, of `pymc_sph.CollocatedSettings`.

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
        cores: int = 1,
        executor: Any = None,
        scheme: str = "variational",
        checkpoint: str | PathLike[str] | None = None,
        every: int = checkpointing.EVERY,
        **settings: Any,
    ) -> None:
        # not Inference.__init__: it builds PyMC's gradient objective, and this is not one
        UnderWay.__init__(self)
        if not (model is None or isinstance(model, pm.Model)):
            raise TypeError(f"model={shown(model)}: give a pymc.Model, or None for the context's")
        self.model = pm.modelcontext(model)
        check_free_variables(self.model)
        if not (start is None or isinstance(start, Mapping)):
            raise SettingsError(
                f"start={shown(start)}: give a dictionary from names of variables to values"
            )
        self.settings = settings_of(scheme, settings, ARGUMENTS)
        self.scheme = scheme
        self.random_seed = random_seed
        self.start = start
        self._take_workers({"threads": threads, "cores": cores, "executor": executor})
        self._take_checkpoint({"checkpoint": checkpoint, "every": every})
        self.state: Any = None
        self._options: tuple[Any, ...] | None = None
        self._approx: FluidApproximation | None = None

    @property
    def approx(self) -> FluidApproximation:
        """The approximation, filled by `fit`."""
        if self._approx is None:
            dim = self._dim() if self._target is None else self._target.dim
            full = self.settings.full_tensor(dim)
            with graphs():
                self._approx = FluidApproximation(self.model, full=full)
        return self._approx

    def _dim(self) -> int:
        with graphs():
            return sum(np.size(value) for value in self.model.initial_point(0).values())

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
            0 leaves the fluids at their starts, Gaussians found by L-BFGS.
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
            Whether ``approx.state`` holds the unconstrained values too.
        compile_kwargs : dict, optional
            Arguments of `pytensor.function`.
        **kwargs
            ``threads``, ``cores``, ``executor``, ``checkpoint``, ``every``, ``scheme`` and the
            scheme's settings, for this fit and later ones.

        Returns
        -------
        FluidApproximation

        Raises
        ------
        InitialPointError, StartError
            If log p is finite at no starting point.
        GradientError
            If the log density has no gradient and the formulation is "force".
        """
        n = check_integer("n", n, 0, whole_floats=True)
        callbacks = check_callbacks(callbacks)
        self._take_settings(kwargs)
        if self.checkpoint is not None:
            checkpointing.claim(self.checkpoint)
        seed = integer_seed(self.random_seed)
        with one_blas_thread():
            target = self._compile(backend, compile_kwargs)
            try:
                self._begin(target, seed, n)
                self.approx.groups[0].include_transformed = include_transformed
                self._run(score, callbacks, progressbar, progressbar_theme)
            finally:
                target.release()
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
        n = check_integer("n", n, 0, whole_floats=True)
        if self._ensemble is None or self.state is None:
            raise TypeError("Need to call `.fit` first")
        if n == 0:
            return self.approx
        assert self._target is not None
        self._target.employ(self.cores, self.executor)
        # a check has drawn minibatches since; the fit goes on from its last step
        self._target.set_generators(self._marks[2])
        self._ensemble = self._ensemble.extend(n)
        self._first, self._losses, self._marks = self._ensemble.n_steps, [], (0, *self._marks[1:])
        self._known = None  # data may have changed
        score, callbacks = self.state
        with one_blas_thread():
            try:
                self._run(score, callbacks, progressbar, progressbar_theme)
            finally:
                self._target.release()
        return self.approx

    @classmethod
    def resume(
        cls,
        path: str | PathLike[str],
        model: Any = None,
        *,
        callbacks: Sequence[Callback] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
        temperature: Callable[[int], float] | None = None,
        backend: str | None = None,
        compile_kwargs: dict[str, Any] | None = None,
        threads: int | None = None,
        cores: int = 1,
        executor: Any = None,
    ) -> SPH:
        """Go on from a checkpoint to the end of the run that wrote it; see `pymc_sph.resume`.

        Returns
        -------
        SPH
            As it would be without the interruption: its `approx` is the fit, and `refine` goes on.
        """
        callbacks = check_callbacks(callbacks)
        path = files.check_path("path", path)
        saved = checkpointing.read(path, temperature)
        fields = dataclasses.fields(saved.settings)
        self = cls(
            model,
            threads=threads,
            cores=cores,
            executor=executor,
            scheme=saved.scheme,
            checkpoint=path,
            every=saved.options["every"],
            **{field.name: getattr(saved.settings, field.name) for field in fields},
        )
        checkpointing.check_model(saved, fingerprint(self.model))
        kept = saved.options["compile_kwargs"]
        if kept is not None and compile_kwargs is None:
            raise SettingsError(
                f"compile_kwargs: this fit had {kept}, which a file cannot hold; give it again"
            )
        files.clear_leftovers(path)
        with one_blas_thread():
            target = self._compile(backend or saved.options["backend"], compile_kwargs)
            try:
                checkpointing.check_density(saved, target)
                self._take_up(saved, target)
                self._run(saved.score, callbacks, progressbar, progressbar_theme)
            finally:
                target.release()
        return self

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
        self._take_workers(changes)
        self._take_checkpoint(changes)
        before, scheme = self.settings, changes.pop("scheme", self.scheme)
        if scheme != self.scheme:  # nothing of the other scheme's settings carries over
            self.settings = settings_of(scheme, changes, ARGUMENTS)
            self.scheme = scheme
        elif changes:
            given = {f.name: getattr(before, f.name) for f in dataclasses.fields(before)}
            self.settings = settings_of(scheme, given | changes, ARGUMENTS)
        if getattr(self.settings, "tensor", None) != getattr(before, "tensor", None):
            self._approx = None

    def _take_workers(self, changes: dict[str, Any]) -> None:
        if "threads" in changes:
            self.threads = _threads(changes.pop("threads"))
        if "cores" in changes:
            self.cores = check_integer("cores", changes.pop("cores"), 1)
        if "executor" in changes:
            self.executor = check_executor(changes.pop("executor"))

    def _compile(self, backend: str | None, compile_kwargs: dict[str, Any] | None) -> Target:
        """Compile the log density, or take the one of the last fit if nothing has changed."""
        options = (backend, compile_kwargs, self.threads, self.settings.formulation)
        if self._target is not None and self._target.dim != self._dim():
            # pm.set_data has changed a length, and with it the size of a variable
            self._target = self._approx = None
        grown = self._target is not None and not self._target.serves(self.model)
        if self._target is None or grown or self._options != options:
            self._target = compile_target(
                self.model,
                formulation=self.settings.formulation,
                threads=self.threads,
                cores=self.cores,
                executor=self.executor,
                backend=backend,
                compile_kwargs=compile_kwargs,
            )
            self._options = options
        self._target.employ(self.cores, self.executor)
        return self._target

    def _run(
        self, score: bool | None, callbacks: Sequence[Callback], progressbar: bool, theme: Any
    ) -> None:
        """Step until the ensemble is done; keep what there is if the fit ends early."""
        assert self._ensemble is not None and self._target is not None
        self.state = (score, callbacks)
        error: BaseException | None = None
        self._write(strict=True)
        self._since = time.perf_counter()
        try:
            self._take_steps(callbacks, progressbar, theme)
            status = self._ensemble.status
        except StopIteration as stop:
            status = "stopped"
            logger.info("A callback stopped the fit: %s.%s", stop, see("stopped-before-its-end"))
        except KeyboardInterrupt:
            status = "interrupted"
            message = "Interrupted at step %d; the fit so far is kept.%s"
            logger.info(message, self._ensemble.n_steps, see("stopped-before-its-end"))
        except BaseException as err:
            status, error = "failed", err
        self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None
        try:
            self._write()
        finally:
            done, self._losses = self._losses[: self._marks[0]], []
            self.hist = np.concatenate([self.hist, done])
        if error is None:
            self._conclude(status)
        else:
            self._keep_failed(error)
            raise error

    def _conclude(self, status: str) -> None:
        """Check the fluids as they are, and hand the result to the approximation.

        If that raises an error, the approximation still gets the fluids, but no verdict.
        """
        assert self._ensemble is not None and self._target is not None
        began = time.perf_counter()
        try:
            check = anchoring.check_with(self._target, getattr(self.settings, "full_data", False))
            result = self._ensemble.finish(check, status)
            failed = self._target.n_failed - self._failed_before
            result = dataclasses.replace(result, n_failed=failed)
            # a fit that goes on from here has spent those of this check as well
            self._ensemble = dataclasses.replace(self._ensemble, n_evaluations=result.n_evaluations)
        except BaseException as err:
            interrupted = isinstance(err, KeyboardInterrupt)
            self._hand_over(None, "interrupted" if interrupted else "failed")
            raise
        self._seconds += time.perf_counter() - began
        result = anchoring.marked(result, check, self._target)
        self._hand_over(result, status)
        if status == "failed":  # the error on its way says enough
            return
        grade = result.verdict.grade
        if grade == verdict.UNRELIABLE and result.n_steps:  # none: that is what was asked for
            message = f"Verdict on the SPH fit: {result.verdict}"
            warnings.warn(message, UnreliableFitWarning, stacklevel=users_level())
        else:
            level = logging.INFO if grade == verdict.RELIABLE else logging.WARNING
            form = result.formulation
            logger.log(level, "Verdict on the SPH fit (%s form): %s", form, result.verdict)

    def _keep_failed(self, error: BaseException) -> None:
        """Keep the fluids of a fit that `error` ended; nothing here may stand in its way."""
        assert self._ensemble is not None
        checked = False
        if isinstance(error, Exception):
            try:
                self._conclude("failed")
                checked = True
            except Exception as second:
                message = "The fit that failed could not be checked: %r.%s"
                logger.info(message, second, see("stopped-before-its-end"))
        if not checked:
            self._hand_over(None, "failed")
        error.add_note(
            f"pymc-sph: the fit ended at step {self._ensemble.n_steps}. An SPH object given as "
            "`method` keeps the fluids up to there, in its `approx`; its refine(n) goes on."
        )

    def _hand_over(self, result: Any, status: str) -> None:
        """Give the approximation the fluids, and the result of their check if there is one."""
        assert self._ensemble is not None and self._target is not None
        mixture = self._ensemble.mixture() if result is None else result.mixture
        self.approx.update(mixture, self._target, result, status=status)
        self.approx.simulations = self._ensemble.simulations
        self.approx.draws_from = getattr(self.settings, "draws_from", "density")
        if status != "running":
            self.approx.hist = self.hist
            self.approx.history = self._history()
            self.approx.attrs = idata.fit_attrs(
                result, status, self.settings, self._seconds, self._target.compile_time
            )


def _threads(value: Any) -> int | None:
    return None if value is None else check_integer("threads", value, 1)
