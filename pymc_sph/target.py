"""From a PyMC model to a batched log density with gradient in unconstrained space."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import time

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytensor

from numpy.typing import ArrayLike, NDArray
from pymc.initial_point import make_initial_point_fn
from pymc.model import Model
from pytensor.compile.mode import Mode, get_mode

from pymc_sph.checks import shown
from pymc_sph.engines import Engine, LoopEngine, VectorizedEngine
from pymc_sph.errors import BackendError, NoFreeVariablesError
from pymc_sph.fluid.simulate import Stepper
from pymc_sph.graph import (
    LogpGraph,
    build_graph,
    check_free_variables,
    coordinate_labels,
    ravel_point,
)
from pymc_sph.initial_points import dispersed_points
from pymc_sph.interrupts import held_interrupts
from pymc_sph.links import see
from pymc_sph.minibatch import MinibatchEngine
from pymc_sph.mixture import row_blocks
from pymc_sph.process import graphs
from pymc_sph.remote_engine import compile_remote
from pymc_sph.row_engine import RowEngine
from pymc_sph.workers import LostWorkersError

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

MAX_THREADS = 4
"""Default bound on the threads of one target."""

ENGINES = ("auto", "loop", "vectorized")
BACKENDS = ("numba", "c", "jax")


def factors_of(model: Model) -> tuple[Any, ...]:
    """Return what the log density of a model is made of, to tell whether it has grown."""
    return (*dict.fromkeys(model.basic_RVs), None, *model.potentials, None, *model.value_vars)


class Target:
    """Joint log density of a model, with the Jacobian, and its gradient, for batches.

    Made by `compile_target`; called as ``logp, grad = target(theta)``. In the pressure form the
    gradient is None.

    Parameters
    ----------
    model : pymc.Model
    engine : Engine or None
        Compiled evaluator; None to compile it from the options when it is first needed.
    labels : list of str
        One name per coordinate, such as ``tau_log__`` or ``theta[3]``.
    formulation : {"force", "pressure"}
        Whether there is a gradient or not.
    random : bool
        Whether the density is random (``pm.Minibatch``).
    options : dict
        Arguments of `compile_target` that made the engine. It is not pickled, but compiled again
        when it is needed.

    Attributes
    ----------
    compile_time : float
        Seconds it took to build and compile.
    n_evaluations : int
        Rows evaluated so far.
    n_failed : int
        Rows so far whose evaluation raised an error.
    """

    def __init__(
        self,
        model: Model,
        engine: Engine | None,
        *,
        labels: list[str],
        formulation: str = "force",
        random: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.labels = labels
        self.formulation = formulation
        self.random = random
        self.compile_time = 0.0
        self.n_evaluations = 0
        self.n_failed = 0
        self._factors = factors_of(model)
        self._compiled: Engine | None = engine
        self._options = dict(options or {})
        self._generators: tuple[dict[str, Any], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled functions and their workers, which belong to this process."""
        return self.__dict__ | {
            "_compiled": None,
            "_generators": self.generators(),
            "_options": self._options | {"cores": 1, "executor": None},
        }

    @property
    def _engine(self) -> Engine:
        if self._compiled is None:
            self._compiled = compile_target(self.model, **self._options)._engine
            if self._generators:
                self._compiled.set_generators(self._generators)
        return self._compiled

    def employ(self, cores: int, executor: Any) -> None:
        """Evaluate with these workers from now on; see `compile_target`."""
        options = self._options | {"cores": cores, "executor": executor}
        if options != {"cores": 1, "executor": None} | self._options:
            self.release()
            self._generators = self.generators()
            self._options, self._compiled = options, None

    @property
    def ahead(self) -> Callable[[Sequence[Array]], None] | None:
        """Takes batches that are about to be asked for; None where no workers could begin."""
        return getattr(self._engine, "ahead", None)

    @property
    def rehearsal(self) -> Callable[[], Callable[[list[Array]], list[Any]]] | None:
        """Begins a rehearsal of paths, see `rehearse`; None where it would not help."""
        return getattr(self._engine, "rehearsal", None)

    def serves(self, model: Model) -> bool:
        """Whether this is the log density of the model as it is now: variables may be added."""
        return self.model is model and self._factors == factors_of(model)

    @property
    def dim(self) -> int:
        """Number of unconstrained coordinates."""
        return len(self.labels)

    @property
    def engine(self) -> str:
        """Name of the engine in use: "loop", "vectorized", "rows" or "jax"."""
        return self._engine.name

    @property
    def stepper(self) -> Stepper | None:
        """Takes the fluids' steps in compiled code, with ``backend="jax"``; else None."""
        return getattr(self._engine, "stepper", None)

    def __call__(self, theta: ArrayLike) -> tuple[Array, Array | None]:
        """Evaluate a batch.

        Parameters
        ----------
        theta : array_like, shape (K, d)
            Points in unconstrained space, coordinates as in `labels`.

        Returns
        -------
        logp : ndarray, shape (K,)
            Not finite where the density is zero or undefined.
        grad : ndarray, shape (K, d), or None
            May be NaN in rows whose log density is not finite. None in the pressure form.

        Raises
        ------
        ValueError
            `theta` does not have shape (K, d). Never for a row that cannot be evaluated.
        """
        theta = np.ascontiguousarray(theta, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != self.dim:
            raise ValueError(f"theta must have shape (K, {self.dim}), got {theta.shape}.")
        logp, grad, failed = self._engine(theta)
        self.n_evaluations += len(theta)
        self.n_failed += int(failed.sum())
        return logp, grad

    def logp(self, theta: ArrayLike) -> Array:
        """Log density (K,) of a batch, for draws from a fit: without workers if they are gone.

        An executor is often shut down after the fit. In blocks: the gradients of many draws would
        take as much memory as the draws.
        """
        theta = np.asarray(theta, dtype=np.float64)
        try:
            return np.concatenate([self(theta[rows])[0] for rows in row_blocks(*theta.shape)])
        except LostWorkersError:
            message = "The workers of the fit are gone; evaluating in this process.%s"
            logger.info(message, see("the-workers-are-gone"))
            self.employ(1, None)
            return self.logp(theta)

    def error_at(self, theta: Array) -> Exception | None:
        """Return the error that evaluating one point ``(d,)`` raises, or None."""
        try:
            self._engine.evaluate_one(theta)
        except Exception as err:
            return err
        return None

    @property
    def portable_options(self) -> dict[str, Any]:
        """What of its options a file can hold; the rest has no part in its values."""
        return {name: self._options.get(name) for name in ("formulation", "engine", "backend")}

    def release(self) -> None:
        """End threads and processes; they start again when needed."""
        if self._compiled is not None:
            with held_interrupts():  # else one may stop it half-way
                self._compiled.release()

    def generators(self) -> tuple[dict[str, Any], ...]:
        """Return the states of the random generators of a model with ``pm.Minibatch``."""
        return self._generators if self._compiled is None else self._compiled.generators()

    def set_generators(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Set these random generators to what `generators` has returned."""
        self._generators = tuple(dict(state) for state in states)
        if self._compiled is not None:
            self._compiled.set_generators(states)

    @property
    def batches(self) -> MinibatchEngine | None:
        """What draws the batches of a model with ``pm.Minibatch``; None for other models."""
        return self._engine if isinstance(self._engine, MinibatchEngine) else None

    def reseed(self, seed: int) -> None:
        """Seed the random numbers of a model with ``pm.Minibatch``."""
        self._engine.reseed(seed)

    def initial_points(
        self, n: int, seed: int, overrides: Mapping[str, Any] | None = None
    ) -> Array:
        """Dispersed starting points with finite log density and gradient.

        Parameters
        ----------
        n : int
        seed : int
            The points are a function of the seed and the overrides.
        overrides : dict, optional
            Starting values as in PyMC's ``start`` or ``initvals``: by the name of the variable
            (``tau``) or of its unconstrained value (``tau_log__``).

        Returns
        -------
        points : ndarray, shape (n, d)
            In unconstrained space. The first is the one PyMC would start from, without jitter.

        Raises
        ------
        InitialPointError
            No try has a finite log density; the message names the variables at fault.
        """
        return dispersed_points(self, n, seed, overrides)


@graphs()
def compile_target(
    model: Model,
    *,
    formulation: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    cores: int = 1,
    executor: Any = None,
    backend: str | None = None,
    compile_kwargs: Mapping[str, Any] | None = None,
) -> Target:
    """Compile the log density and gradient of a model for batches of points.

    Parameters
    ----------
    model : pymc.Model
    formulation : {"auto", "force", "pressure"}
        "force" needs the gradient, "pressure" does without. "auto" is "force" if the gradient can
        be built. In the pressure form rows are evaluated one by one, by code that PyTensor
        compiles to C by default; `engine` and `threads` mean nothing there.
    engine : {"auto", "loop", "vectorized"}
        "loop" compiles the scalar function with Numba and loops over the rows; "vectorized"
        batches the graph. "auto" loops unless the graph draws random numbers or cannot be compiled
        that way.
    threads : int, optional
        Largest number of threads of the loop engine; the number of cores up to 4 by default.
        Results do not depend on it.
    cores : int
        Processes that evaluate the rows, instead of threads. Results do not depend on it. They
        are forked on Linux; elsewhere a script needs the guard ``if __name__ == "__main__"``.
    executor : concurrent.futures.Executor or dask.distributed.Client, optional
        Evaluates the rows instead, `cores` or not: any object with ``submit`` as an Executor has
        it. Each worker gets the model by cloudpickle, and compiles it once.
    backend : {None, "numba", "c", "jax"}
        As in ``pm.fit``; None is Numba. With "jax" the fluids' steps are compiled as well, and
        their probes spread over all devices.
    compile_kwargs : dict, optional
        As in ``pm.fit``: arguments of ``pytensor.function``, among them ``mode``.

    Returns
    -------
    Target

    Raises
    ------
    NoFreeVariablesError, DiscreteVariableError, GradientError
        The model cannot be fitted; the message names the variable or Op.
    BackendError
        The backend is unknown or not installed.
    SettingsError
        Workers for a density that draws random numbers (``pm.Minibatch``).
    """
    began = time.perf_counter()
    if engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    check_free_variables(model)
    mode, kwargs = _resolve_mode(backend, compile_kwargs)
    point = make_initial_point_fn(model=model)(0)
    if not any(np.size(value) for value in point.values()):
        raise NoFreeVariablesError(
            "The free variables have no elements, so there is nothing to fit: "
            f"{', '.join(rv.name for rv in model.free_RVs)} have a dimension of length 0."
        )
    graph = build_graph(model, point, formulation)
    compiled: Engine
    if "JAX" in type(mode.linker).__name__:
        if cores != 1 or executor is not None:
            raise BackendError(
                "cores and executor: backend='jax' spreads the rows over JAX's devices itself: "
                "leave cores=1 and executor=None, or use another backend."
            )
        compiled = _jax_engine(graph, engine, kwargs, ravel_point(model, point))
    elif graph.grad is None:
        # by default to C: Numba would call Ops that it cannot compile through the interpreter
        chosen = backend is not None or "mode" in (compile_kwargs or {})
        mode = mode if chosen else get_mode("CVM")
        compiled = RowEngine(graph, mode, cores, executor, **kwargs)
    else:
        start = ravel_point(model, point)
        compile_ = partial(_compile_engine, graph, mode=mode, kwargs=kwargs, point=start)
        if cores == 1 and executor is None:
            compiled = compile_(engine=engine, threads=threads)
        else:
            compiled = compile_remote(compile_, engine, graph, start, cores, executor)
    target = Target(
        model,
        compiled,
        labels=coordinate_labels(model, point),
        formulation="pressure" if graph.grad is None else "force",
        random=graph.random,
        options={
            "formulation": formulation,
            "engine": engine,
            "cores": cores,
            "executor": executor,
            "threads": threads,
            "backend": backend,
            "compile_kwargs": compile_kwargs,
        },
    )
    target.compile_time = time.perf_counter() - began
    return target


def later_target(
    model: Model, formulation: str, random: bool, options: Mapping[str, Any]
) -> Target:
    """Return a target that compiles itself when it is first needed.

    Parameters
    ----------
    model : pymc.Model
    formulation, random
        As in `Target`.
    options : dict
        Arguments of `compile_target`.
    """
    with graphs():
        labels = coordinate_labels(model, make_initial_point_fn(model=model)(0))
    return Target(
        model, None, labels=labels, formulation=formulation, random=random, options=options
    )


def _resolve_mode(
    backend: str | None, compile_kwargs: Mapping[str, Any] | None
) -> tuple[Mode, dict[str, Any]]:
    """Read the PyTensor mode from the two arguments that may name it."""
    if not (compile_kwargs is None or isinstance(compile_kwargs, Mapping)):
        raise BackendError(f"compile_kwargs={shown(compile_kwargs)}: give a dictionary.")
    kwargs = dict(compile_kwargs or {})
    for name in kwargs:
        if name not in inspect.signature(pytensor.function).parameters:
            raise BackendError(f"compile_kwargs: pytensor.function takes no argument {name!r}.")
    mode = kwargs.pop("mode", None)
    if backend is None:
        try:
            return get_mode("NUMBA" if mode is None else mode), kwargs
        except Exception as err:
            raise BackendError(
                f"compile_kwargs: mode={shown(mode)} is no PyTensor mode; "
                "choose one such as 'NUMBA', 'CVM' or 'FAST_COMPILE'."
            ) from err
    if mode is not None:
        raise BackendError("Give either `backend` or compile_kwargs['mode'], not both.")
    name = str(backend).lower()
    if name not in BACKENDS:
        raise BackendError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    return get_mode("CVM" if name == "c" else name.upper()), kwargs


def _compile_engine(
    graph: LogpGraph,
    engine: str,
    mode: Mode,
    threads: int | None,
    kwargs: dict[str, Any],
    point: Array,
) -> Engine:
    """Compile the engine asked for, or the first that works, and warm it up at `point`."""
    if graph.whole is not None:
        whole = graph.whole
        one = dataclasses.replace(graph, sources=(), whole=None)
        rest = (engine, mode, threads, kwargs, point)
        return MinibatchEngine(
            graph.sources, _compile_engine(one, *rest), lambda: _compile_engine(whole(), *rest)
        )
    loops = "Numba" in type(mode.linker).__name__ and not graph.random
    if engine == "loop" and not loops:
        raise ValueError(
            "engine='loop' needs the Numba backend and a density without random numbers: "
            "use engine='auto'."
        )
    if loops and engine != "vectorized":
        try:
            loop = LoopEngine(graph, mode, threads or _default_threads(), **kwargs)
            loop(point[None, :])
            return loop
        except Exception as err:
            if engine == "loop":
                raise
            message = "The loop engine failed (%s); batching the graph instead.%s"
            logger.info(message, err, see("a-slower-engine"))
    return _compile_vectorized(graph, mode, kwargs, point)


def _jax_engine(graph: LogpGraph, engine: str, kwargs: dict[str, Any], point: Array) -> Engine:
    if engine == "loop" or kwargs:
        what = "engine='loop'" if engine == "loop" else f"compile_kwargs: {', '.join(kwargs)}"
        raise BackendError(
            f"{what}: backend='jax' compiles by JAX, not by pytensor.function; leave it out."
        )
    try:
        from pymc_sph.jax_engine import JaxEngine
    except ImportError as err:
        raise BackendError(
            "backend='jax' needs the package jax, which is not installed: "
            "install it (pip install 'pymc-sph[jax]') or use backend=None."
        ) from err
    return JaxEngine(graph, point)


def _compile_vectorized(
    graph: LogpGraph, mode: Mode, kwargs: dict[str, Any], point: Array
) -> Engine:
    try:
        vectorized = VectorizedEngine(graph, mode, **kwargs)
        vectorized(point[None, :])
        return vectorized
    except Exception as err:
        if "Numba" not in type(mode.linker).__name__:
            raise
        message = "Numba could not compile the batched graph (%s); using C.%s"
        logger.info(message, err, see("a-slower-engine"))
    return VectorizedEngine(graph, get_mode("CVM"), **kwargs)


def _default_threads() -> int:
    """Cores this process may use, up to `MAX_THREADS`."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(cores, MAX_THREADS)
