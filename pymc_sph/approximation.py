"""The fitted fluid as a PyMC approximation: draws from its density q, and what the fit found."""

from __future__ import annotations

import math
import warnings

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymc.backends.base import MultiTrace
from pymc.backends.ndarray import NDArray as Trace
from pymc.model import Model
from pymc.variational.approximations import Empirical

from pymc_sph import checkpoint, files, idata, resampling
from pymc_sph.checks import check_integer
from pymc_sph.fingerprint import fingerprint
from pymc_sph.graph import coordinate_labels
from pymc_sph.group import FluidGroup
from pymc_sph.history import History, to_dataset
from pymc_sph.links import see
from pymc_sph.process import graphs, users_level
from pymc_sph.seeds import random_generator
from pymc_sph.transform import Transform, compile_transform

if idata.PYMC_5:

    class VIState(NamedTuple):
        """Mean and standard deviation of every variable, as in PyMC 6."""

        mean: Any
        std: Any

else:
    from pymc.variational.opvi import VIState  # type: ignore[no-redef]

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from pymc_sph.mixture import FluidMixture
    from pymc_sph.result import FitResult
    from pymc_sph.verdict import Verdict


class FluidApproximation(Empirical):
    """Posterior approximation by a smoothed fluid; what ``pm.fit(method="sph")`` returns.

    Every draw comes from the fluid's normalised density q, never from the particles alone, unless
    the settings ask for ``draws_from="particles"`` (collocated scheme only).
    Symbolic attributes (``mean``, ``std``, ``cov``, ``logq``, ``sample_node`` and so on) are as in
    every PyMC approximation and refer to the unconstrained space.

    Attributes
    ----------
    mixture : FluidMixture or None
        The density q: the independent fluids and their shares.
    result : FitResult or None
        Outcome of the finished fit; None before that, or if an error ended the fit.
    status : str
        "converged", "max_steps" or "non_finite" of a finished fit; "stopped" by a callback,
        "interrupted", "failed" with an error; "running", and "not fitted" before all that.
    hist : ndarray (n_steps,)
        Minus the ELBO of every step, nats.
    history : History
        ELBO, ESS, temperature and the ELBO of each fluid at every step.
    simulations : tuple
        The fluids under way, at every step: of the collocated scheme, `Relaxation` objects whose
        ``particles`` hold positions, velocities, densities and smoothing lengths.
    """

    _group_class = FluidGroup

    def __init__(self, model: Any = None, *, full: bool = True) -> None:
        self.mixture: FluidMixture | None = None
        self.result: FitResult | None = None
        self.status = "not fitted"
        self.hist = np.empty(0)
        self.history = History.of(())
        self.simulations: tuple[Any, ...] = ()
        self.draws_from = "density"
        self.attrs: dict[str, Any] = {}
        self._target: Any = None
        self._transforms: dict[int, tuple[Any, Transform]] = {}
        super().__init__(size=1, model=model, full=full)

    def __repr__(self) -> str:
        """Return what it is and how far to trust it, for a notebook."""
        grade = "none yet" if self.verdict is None else self.verdict.grade
        dim = self.groups[0].ddim
        return f"FluidApproximation(dim={dim}, status={self.status!r}, verdict={grade!r})"

    def update(
        self,
        mixture: FluidMixture,
        target: Any = None,
        result: FitResult | None = None,
        *,
        status: str = "running",
    ) -> None:
        """Take over a mixture, the target it approximates, and the outcome of its fit."""
        self.mixture = mixture
        self.result = result
        self.status = status if result is None else result.status
        self._target = target if target is not None else self._target
        self.groups[0].set_mixture(mixture)

    # --- what the fit found

    elbo = property(lambda self: self._found("elbo"), doc="ELBO of q, nats.")
    log_evidence = property(
        lambda self: self._found("log_evidence"), doc="Log evidence by importance sampling, nats."
    )
    log_evidence_se = property(
        lambda self: self._found("log_evidence_se"), doc="Standard error of `log_evidence`."
    )
    pareto_k = property(
        lambda self: self._found("pareto_k"), doc="Pareto k of the importance weights."
    )
    importance_ess = property(
        lambda self: self._found("importance_ess"), doc="Importance ESS per draw, in [0, 1]."
    )

    @property
    def verdict(self) -> Verdict | None:
        """How far to trust the fit; None before it has finished."""
        return self.result.verdict if self.result is not None else None

    def _found(self, name: str) -> float:
        return float(getattr(self.result, name)) if self.result is not None else math.nan

    def log_density(self, theta: NDArray) -> NDArray:
        """Normalised log density of q.

        Where the posterior's density is zero at a share of q, `result.void`, no draw is taken
        from there: draws have the density of the rest, so that ``sample_stats.log_q`` is larger
        than this by -log(1 - void).

        Parameters
        ----------
        theta : array (n, d) or (d,)
            Points in unconstrained space, coordinates in the order of ``model.value_vars``.

        Returns
        -------
        ndarray (n,) or ()

        Raises
        ------
        ValueError
            For another shape.
        """
        theta, q = np.asarray(theta, dtype="float64"), self._fitted()
        if theta.ndim not in (1, 2) or theta.shape[-1] != q.dim:
            names = ", ".join(value.name for value in self.model.value_vars)
            raise ValueError(
                f"theta of shape {theta.shape}: give (n, {q.dim}) or ({q.dim},), in unconstrained "
                f"space, coordinates in the order {names}"
            )
        out = q.log_density(np.atleast_2d(theta))
        return out if theta.ndim == 2 else out[0]

    # --- draws

    def sample(  # type: ignore[override]
        self,
        draws: int = 500,
        *,
        model: Any = None,
        random_seed: Any = None,
        return_inferencedata: bool = True,
        include_transformed: bool = False,
        **idata_kwargs: Any,
    ) -> Any:
        """Draw independent points from q: one chain.

        Parameters
        ----------
        draws : int
            Number of draws.
        model : Model, optional
            Model that turns draws into variables; by default the one on the context stack, or
            else the fitted one.
        random_seed : int, array of int or Generator, optional
            Source of the randomness.
        return_inferencedata : bool
            InferenceData (ArviZ 0.x) or DataTree (ArviZ 1.x) if True, else a MultiTrace.
        include_transformed : bool
            Add the group ``unconstrained_posterior``, and the particles to the group ``fluid``.
        **idata_kwargs
            ``coords``, ``dims``, ``log_likelihood`` and ``log_prior``, as in
            `pymc.to_inference_data`.

        Returns
        -------
        InferenceData, DataTree or MultiTrace
            ``sample_stats`` holds per draw: ``lp`` (log joint density in unconstrained space),
            ``log_q``, ``log_weight`` (their difference, neither smoothed nor normalised),
            ``fluid`` and ``particle`` (where in the mixture it came from). ``fluid`` holds the
            history of the fit: ``elbo``, ``ess``, ``temperature`` and ``fluid_elbo`` by step.

        Raises
        ------
        RuntimeError
            If nothing has been fitted yet.
        TypeError
            For a keyword that none of this takes.
        """
        self._fitted()
        draws = check_integer("draws", draws, 1, whole_floats=True)
        idata.check_kwargs("sample", idata_kwargs)
        rng = random_generator(random_seed)
        draw = resampling.draw_pooled
        if self.draws_from == "particles":
            draw = resampling.draw_particles
        sample = self._draw(draw, draws, rng)
        model = self._model(model)
        if not return_inferencedata:
            return self._multitrace(sample.theta, model)
        stats = {name: values[None] for name, values in sample.stats().items()}
        return self._container(
            sample.theta[None], stats, model, include_transformed, None, **idata_kwargs
        )

    def sample_chains(
        self,
        draws: int = 1000,
        *,
        importance: str | None = "psis",
        model: Any = None,
        random_seed: Any = None,
        include_transformed: bool = False,
        **idata_kwargs: Any,
    ) -> Any:
        """Draw a chain per independent fluid, importance-corrected by default.

        Parameters
        ----------
        draws : int
            Draws per chain.
        importance : {"psis", None}
            "psis" resamples candidates by Pareto-smoothed importance weights, so that the draws
            follow the posterior as far as q covers it. None returns plain draws from q; models
            with ``pm.Minibatch``, whose weights are noisy, have no others.
        model, random_seed, include_transformed, **idata_kwargs
            As in `sample`.

        Returns
        -------
        InferenceData or DataTree
            As from `sample`.

        Notes
        -----
        All fluids together propose five candidates per draw. They are weighted by p over the
        mixture that they came from, the weights smoothed by PSIS, and the candidates resampled
        systematically: each appears floor or ceil of its expected number of times. That is
        unbiased, and repeats nothing unless its weight exceeds that of a whole draw. (Sampling
        strictly without replacement never repeats, but is biased towards q.)

        The draws of all chains *together* represent the posterior. Chain i holds draws of fluid
        i. Where fluids found different modes, each gets as many draws as its part of the
        posterior asks for, and what does not fit into its own chain fills up the chains of the
        lighter ones: ``sample_stats.fluid`` says where a draw came from. r_hat stays high then,
        as it should: such fluids are not witnesses of one another.
        """
        if importance not in ("psis", None):
            raise ValueError(f"importance must be 'psis' or None, not {importance!r}.")
        particles = self.draws_from == "particles"
        if particles and importance:
            raise ValueError(
                "Particles have no weights that would correct them: give importance=None, or fit "
                "with draws_from='density'."
            )
        mixture = self._fitted()
        if importance and self._target.random:  # the weights would follow the batch
            importance = None
        draws = check_integer("draws", draws, 1, whole_floats=True)
        idata.check_kwargs("sample_chains", idata_kwargs)
        rng = random_generator(random_seed)
        chains = len(mixture.fluids)
        draw = resampling.draw_corrected if importance else resampling.draw_by_share
        if particles:
            draw = resampling.draw_particles
        sample = self._draw(draw, chains * draws, rng)
        sample = sample.take(resampling.deal(sample.fluid, chains, draws, rng))
        return self._container(
            sample.theta, sample.stats(), self._model(model), include_transformed, importance,
            **idata_kwargs,
        )  # fmt: skip

    def initvals(
        self, chains: int = 4, *, model: Any = None, random_seed: Any = None
    ) -> list[dict[str, NDArray]]:
        """Draw a starting point for each chain of a sampler, independent draws from q.

        Parameters
        ----------
        chains : int
            Number of chains.
        model, random_seed
            As in `sample`.

        Returns
        -------
        list of dict
            Per chain, free variable name to value (constrained), as ``pm.sample(initvals=...)``
            takes it. PyMC adds a jitter of up to 1 in unconstrained space unless its ``init``
            is one without, such as "adapt_diag".

        Raises
        ------
        RuntimeError
            If nothing has been fitted yet.

        Examples
        --------
        >>> pm.sample(initvals=approx.initvals(4), init="adapt_diag")  # doctest: +SKIP
        """
        self._fitted()
        chains = check_integer("chains", chains, 1)
        model = self._model(model)
        sample = self._draw(resampling.draw_pooled, chains, random_generator(random_seed))
        transform = compile_transform(model, names=[rv.name for rv in model.free_RVs])
        values = transform(sample.theta)
        return [{name: x[i] for name, x in values.items()} for i in range(chains)]

    @property
    def state(self) -> VIState:
        """Mean and standard deviation of the model's variables under q.

        The moments are those of the variables themselves, over 2,000 draws: the image of a
        standard deviation under a transform, which other approximations return, is none.
        """
        data = self.sample(2000, random_seed=0, include_transformed=True)
        draws = idata.group(data, "posterior")
        if getattr(self.groups[0], "include_transformed", False):
            draws = draws.merge(idata.group(data, "unconstrained_posterior"), compat="override")
        sample_dims = ("chain", "draw")
        return VIState(mean=draws.mean(sample_dims), std=draws.std(sample_dims))

    def evaluate_over_trace(self, node: Any) -> Any:
        """Return nodes evaluated at as many draws from q as there are particles."""
        return self.sample_node(node, size=self.histogram.shape[0])

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit to a file; `pymc_sph.load` reads it again.

        The file holds q, the result, and what is needed to know the model again; not the model
        itself. It is written in one step, and in the place of an older one.

        Parameters
        ----------
        path : path
            Ends in .npz, or in .zarr with the package `zarr`.

        Raises
        ------
        RuntimeError
            If nothing has been fitted yet.
        SettingsError
            If the path has another ending, or its folder does not exist.
        OSError
            If the file cannot be written.
        """
        mixture = self._fitted()
        path = files.check_path("path", path)
        content = {
            name: getattr(self, name)
            for name in (
                "result",
                "status",
                "hist",
                "history",
                "attrs",
                "simulations",
                "draws_from",
            )
        }
        content |= {
            "mixture": mixture,
            "fingerprint": fingerprint(self.model),
            "formulation": self._target.formulation,
            "random": self._target.random,
            "generators": self._target.generators(),
            "options": self._target.portable_options,
            "include_transformed": bool(getattr(self.groups[0], "include_transformed", False)),
        }
        checkpoint.save(path, "fit", content)

    # --- helpers

    @property
    def _void(self) -> float:
        return self.result.void if self.result is not None else 0.0

    def _fitted(self) -> FluidMixture:
        if self.mixture is None:
            raise RuntimeError("Nothing has been fitted yet: call fit() first.")
        return self.mixture

    def _model(self, model: Any) -> Any:
        return model or Model.get_context(error_if_none=False) or self.model

    def _draw(self, draw: Any, n: int, rng: np.random.Generator) -> resampling.Sample:
        """Draw n points by one of the functions of `resampling`; warn if log p is undefined."""
        try:
            logp = self._target.logp
            sample: resampling.Sample = draw(self._fitted(), logp, n, rng, self._void)
        finally:
            self._target.release()
        # of all draws together: those that replace a few draws may all lie where p is zero
        if not np.isfinite(sample.lp).any():
            warnings.warn(
                "log p is not finite at any draw, so `lp` and `log_weight` mean nothing. If "
                "pm.set_data has changed the data since the fit, fit again."
                + see("the-data-have-changed-since-the-fit"),
                stacklevel=users_level(),
            )
        return sample

    def __getstate__(self) -> dict[str, Any]:
        """Leave out compiled functions: they are compiled again when they are needed."""
        return super().__getstate__() | {"_transforms": {}}

    def _container(
        self,
        theta: NDArray,
        stats: dict[str, NDArray],
        model: Any,
        include_transformed: bool,
        importance: str | None,
        **idata_kwargs: Any,
    ) -> Any:
        """Draws (chains, draws, d) as InferenceData or DataTree."""
        transform = self._transform(model)
        attrs = self.attrs | {"importance": importance or "none"}
        if "compile_time" in attrs:  # what it took to get these draws
            attrs["compile_time"] += transform.compile_time
        return idata.to_container(
            transform.chains(theta),
            stats,
            model,
            unconstrained=self._split(theta) if include_transformed else None,
            attrs=attrs,
            others={"fluid": self._fluid_group(include_transformed)},
            **idata_kwargs,
        )

    def _fluid_group(self, particles: bool) -> Any:
        """History of the fit as a Dataset, with the particles if asked for."""
        mixture = self.mixture if particles else None
        labels: list[str] = []
        if particles:
            with graphs():
                labels = coordinate_labels(self.model, self.model.initial_point(0))
        return to_dataset(self.history, self.result, mixture, labels)

    def _transform(self, model: Any) -> Transform:
        """Map from unconstrained points to the model's variables, compiled once."""
        if id(model) not in self._transforms:
            # the model goes in too: an id is only unique as long as its owner lives
            self._transforms[id(model)] = (model, compile_transform(model))
        return self._transforms[id(model)][1]

    def _split(self, theta: NDArray) -> dict[str, NDArray]:
        """Draws (..., d) as value variables, name to array (..., *shape)."""
        ordering = self.groups[0].ordering.values()
        return {
            name: theta[..., part].reshape(*theta.shape[:-1], *shape)
            for name, part, shape, _ in ordering
        }

    def _multitrace(self, theta: NDArray, model: Any) -> MultiTrace:
        """Draws (n, d) as PyMC's own trace."""
        values = self._split(theta)
        dtypes = {name: dtype for name, _, _, dtype in self.groups[0].ordering.values()}
        # the trace evaluates a function of the value variables in the model's order
        names = [v.name for v in model.value_vars]
        points = [
            {k: np.asarray(values[k][i], dtypes[k]) for k in names} for i in range(len(theta))
        ]
        trace = Trace(model=model, test_point=points[0])
        trace.setup(draws=len(points), chain=0)
        for point in points:
            trace.record(point, in_warmup=False)
        trace.close()
        return MultiTrace([trace])
