"""Exact draws: an independence Metropolis step for `pymc.sample` with the fluid as proposal."""

from __future__ import annotations

import math

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numpy.typing import NDArray
from pymc.exceptions import SamplingError
from pymc.model import Model, modelcontext
from pymc.step_methods.compound import BlockedStep, StepMethodState
from pymc.step_methods.state import dataclass_state
from pymc.util import get_random_generator

from pymc_sph.approximation import FluidApproximation
from pymc_sph.checks import shown
from pymc_sph.conditional import ConditionalLogp, JointLogp, Logp
from pymc_sph.errors import MismatchError

Array = NDArray[np.float64]

BLOCK = 64
"""Proposals drawn at a time: the density of q costs about the same for 1 and for 64 of them."""

PATIENCE = 1000
"""First proposals without density after which a chain gives up."""


class Place(NamedTuple):
    """A point theta (d,) with its log q and log p; log p is None where it is not known."""

    theta: Array
    log_q: float
    logp: float | None

    @property
    def log_weight(self) -> float:
        """Log p - log q; -inf where p is not finite, which is a point no chain can be at."""
        weight = math.nan if self.logp is None else self.logp - self.log_q
        return weight if math.isfinite(weight) else -math.inf


@dataclass(frozen=True)
class Proposals:
    """Draws from q, and the uniform numbers that decide on them.

    Attributes
    ----------
    theta : (n, d)
        Draws, in unconstrained space.
    log_q, log_uniform : (n,)
        Log density of q at them, and logs of uniform random numbers.
    logp : (n,) or None
        Log joint density, if it depends on nothing but theta.
    """

    theta: Array
    log_q: Array
    log_uniform: Array
    logp: Array | None

    def place(self, i: int) -> Place:
        """Return the i-th draw."""
        logp = None if self.logp is None else float(self.logp[i])
        return Place(self.theta[i], float(self.log_q[i]), logp)


@dataclass_state
class FluidMetropolisState(StepMethodState):
    """What a chain needs to go on where it was, to the bit."""

    _here: Any
    _proposals: Any
    _used: int
    _started: bool


class FluidMetropolis(BlockedStep):
    """Independence Metropolis-Hastings with the fluid as proposal.

    The chain's law is the posterior, not the approximation. With a good approximation most
    proposals are accepted, and draws are nearly independent of each other; with a bad one they
    repeat themselves, and a chain of finite length may still miss what q all but misses.

    Parameters
    ----------
    approx : FluidApproximation
        What ``pm.fit(method="sph")`` returned.
    model : pymc.Model, optional
        The model to sample: the one on the context stack by default, else the fitted one. It may
        be another model than the fitted one, as long as it has the variables of the fitted one,
        with the same names and shapes in unconstrained space. Its other variables are left to
        other steps.
    rng : Generator or int, optional
        Source of the randomness outside of `pymc.sample`, which brings its own.
    compile_kwargs : dict, optional
        Arguments of `pymc.compile`, for a model that is not the fitted one.

    Raises
    ------
    MismatchError
        If a variable of the approximation is missing in the model, or has another shape there, or
        if the model's log density is random (``pm.Minibatch``).
    RuntimeError
        If `approx` has not been fitted.
    TypeError
        If `approx` is no fluid.
    SamplingError
        From `step`, if log p is finite at none of a thousand first proposals.

    Notes
    -----
    From theta, a proposal theta' ~ q is accepted with the probability

        min(1, w(theta') / w(theta)),   w(theta) = p(theta, others) / q(theta),

    in unconstrained space, with the model's other variables at their values at that moment (Tierney
    1994, section 2.3.3). Beside a step for discrete variables this is Metropolis within Gibbs.

    The first move of every chain is made in any case, to a draw from q with positive density: a
    starting point far outside of q would have a weight that nothing can compete with. The chain
    begins at q, not at the posterior; `tune` is its burn-in, 100 steps by default in PyMC 6.

    ``sample_stats`` gets per draw: ``accept``, the probability of acceptance; ``accepted``;
    ``log_weight``, log w where the chain is after the move; and ``lp``, the log joint density, if
    this step moves all variables.

    References
    ----------
    Tierney (1994). Markov chains for exploring posterior distributions. Annals of Statistics 22.

    Examples
    --------
    >>> with model:  # doctest: +SKIP
    ...     approx = pm.fit(method="sph")
    ...     idata = pm.sample(step=pymc_sph.FluidMetropolis(approx))
    """

    name = "fluid_metropolis"
    default_blocked = True
    default_tune_steps = 100
    stats_dtypes_shapes: dict[str, Any] = {  # noqa: RUF012
        "accept": (np.float64, []),
        "accepted": (np.bool_, []),
        "log_weight": (np.float64, []),
    }
    _state_class = FluidMetropolisState

    def __new__(cls, *args: Any, **kwargs: Any) -> FluidMetropolis:
        """Make an empty object: PyMC's own `__new__` takes the first argument for variables."""
        return object.__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """Arguments of `__new__` when unpickling."""
        return (), {}

    def __init__(
        self,
        approx: FluidApproximation,
        *,
        model: Any = None,
        rng: Any = None,
        compile_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(approx, FluidApproximation):
            raise TypeError(
                f"approx={shown(approx)}: give the approximation that pm.fit(method='sph') returns"
            )
        self._mixture = approx._fitted()
        model = modelcontext(model or Model.get_context(error_if_none=False) or approx.model)
        self.vars = match_variables(approx, model)
        self._names = [value.name for value in self.vars]
        self._logp: Logp
        if len(self.vars) == len(model.value_vars) and JointLogp.serves(approx, model):
            self._logp = JointLogp(approx._target)
        else:
            self._logp = ConditionalLogp(model, self.vars, compile_kwargs)
        if self._logp.random:
            raise MismatchError(
                "FluidMetropolis needs a log density that is the same at every call, and this "
                "model's is random (pm.Minibatch): give the model the whole data."
            )
        if not self._logp.others:  # PyMC renames it to `lp`
            self.stats_dtypes_shapes = self.stats_dtypes_shapes | {"model_logp": (np.float64, [])}
        self.stats_dtypes = [{key: kind for key, (kind, _) in self.stats_dtypes_shapes.items()}]
        self.blocked = True
        self._restart(rng)

    def set_rng(self, rng: Any) -> None:
        """Begin a chain with this generator (PyMC 5)."""
        self._restart(rng)

    def setup_chain(self, rng: Any, tune: int, draws: int) -> None:
        """Begin a chain with this generator (PyMC 6)."""
        self._restart(rng)

    def _restart(self, rng: Any) -> None:
        self.rng = get_random_generator(rng, copy=False)
        self._proposals: Proposals | None = None
        self._used = 0
        self._started = False
        self._missed = 0
        self._here: Place | None = None

    def step(self, point: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Move the chain once.

        Parameters
        ----------
        point : dict
            Values of all value variables of the model, by name. It is not changed.

        Returns
        -------
        point : dict
        stats : list of one dict
        """
        here = self._current(point)
        there, log_uniform = self._propose(point)
        log_ratio = self._log_ratio(here, there)
        accepted = log_uniform < log_ratio
        if accepted:
            here = there
            self._started = True
            point = point | self._split(here.theta, point)
        elif not self._started:
            self._miss()
        self._here = here
        stats: dict[str, Any] = {
            "accept": math.exp(min(log_ratio, 0.0)),
            "accepted": accepted,
            "log_weight": here.log_weight,
        }
        if not self._logp.others:
            stats["model_logp"] = here.logp
        return point, [stats]

    def _miss(self) -> None:
        """Count the first proposals that have no density, and give up in the end."""
        self._missed += 1
        if self._missed == PATIENCE:
            raise SamplingError(
                f"log p is not finite at any of the first {PATIENCE} proposals, so the chain "
                "cannot begin: the approximation does not cover this model's posterior. If the "
                "data have changed since the fit, fit again."
            )

    def _log_ratio(self, here: Place, there: Place) -> float:
        """Log of the acceptance ratio w(there) / w(here)."""
        if there.log_weight == -math.inf:
            return -math.inf
        if not self._started or here.log_weight == -math.inf:
            return math.inf
        return there.log_weight - here.log_weight

    def _current(self, point: dict[str, Any]) -> Place:
        """Where the chain is. The other steps may have moved it, or the density under its feet."""
        theta = np.concatenate([np.ravel(point[name]) for name in self._names]).astype("float64")
        here = self._here
        if here is None or not np.array_equal(theta, here.theta):
            here = Place(theta, float(self._mixture.log_density(theta[None])[0]), None)
        if self._logp.others or here.logp is None:
            here = here._replace(logp=float(self._logp(theta[None], point)[0]))
        return here

    def _propose(self, point: dict[str, Any]) -> tuple[Place, float]:
        """Next draw from q, and the log uniform number that decides on it."""
        if self._proposals is None or self._used == len(self._proposals.theta):
            theta = self._mixture.sample(BLOCK, self.rng).theta
            logp = None if self._logp.others else self._logp(theta, point)
            log_uniform = np.log1p(-self.rng.random(BLOCK))  # of (0, 1]
            self._proposals = Proposals(theta, self._mixture.log_density(theta), log_uniform, logp)
            self._used = 0
        i, self._used = self._used, self._used + 1
        place = self._proposals.place(i)
        if place.logp is None:
            place = place._replace(logp=float(self._logp(place.theta[None], point)[0]))
        return place, float(self._proposals.log_uniform[i])

    def _split(self, theta: Array, point: dict[str, Any]) -> dict[str, Any]:
        """Values (d,) by variable, in the shapes and types that they have in `point`."""
        values, stop = {}, 0
        for name in self._names:
            old = np.asarray(point[name])
            start, stop = stop, stop + old.size
            values[name] = theta[start:stop].reshape(old.shape).astype(old.dtype)
        return values


def match_variables(approx: FluidApproximation, model: Any) -> list[Any]:
    """Value variables of `model` in the order of the approximation's coordinates.

    Raises
    ------
    MismatchError
        If one is missing, discrete, or has another shape.
    """
    found = {value.name: value for value in model.value_vars}
    discrete = {value.name for value in model.discrete_value_vars}
    shapes = {name: np.shape(value) for name, value in model.initial_point(0).items()}
    faults, matched = [], []
    for name, _, shape, _ in approx.groups[0].ordering.values():
        if name not in found:
            faults.append(f"{name} is missing")
        elif name in discrete:
            faults.append(f"{name} is discrete")
        elif shapes[name] != tuple(shape):
            faults.append(f"{name} has the shape {shapes[name]} instead of {tuple(shape)}")
        else:
            matched.append(found[name])
    if faults:
        raise MismatchError(
            "The approximation was fitted to other variables than this model's (in unconstrained "
            f"space): {'; '.join(faults)}. The model has {', '.join(found) or 'none'}. Fit a model "
            "that has the same variables and transforms."
        )
    return matched
