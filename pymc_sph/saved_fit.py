"""Finished fits as files, and fits that go on from their checkpoints."""

from __future__ import annotations

import warnings

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import pymc as pm

from pymc.progress_bar import default_progress_theme

from pymc_sph import checkpoint
from pymc_sph.approximation import FluidApproximation
from pymc_sph.checks import Callback
from pymc_sph.encoding import decode
from pymc_sph.errors import MismatchError
from pymc_sph.files import FileError
from pymc_sph.fingerprint import fingerprint, other_data, other_variables
from pymc_sph.inference import SPH
from pymc_sph.links import see
from pymc_sph.mixture import FluidMixture
from pymc_sph.process import graphs, users_level
from pymc_sph.target import later_target


def load(path: str | PathLike[str], model: Any = None) -> FluidApproximation:
    """Load a fit that `FluidApproximation.save` has written.

    Draws, densities and verdict are those of the fit, to the bit with the same versions of all
    packages. The log density of the model is compiled when it is first needed.

    Parameters
    ----------
    path : path
        The file.
    model : pymc.Model, optional
        The model of the fit; the one on the context stack by default.

    Returns
    -------
    FluidApproximation

    Raises
    ------
    FileError, OSError
        If the file is damaged, or holds no finished fit.
    MismatchError
        If the model has other variables; the message names them.

    Warns
    -----
    UserWarning
        If the model has other data: q is the posterior of the data of the fit, while `lp`,
        `log_weight` and corrected draws follow the model as it is.
    """
    model = pm.modelcontext(model)
    header, arrays = checkpoint.load(path, "fit")
    saved = decode(header["content"], arrays)
    try:
        approx = _rebuild(saved, model)
    except KeyError as err:
        raise FileError(f"{path} holds no finished fit: {err} is missing") from err
    different = other_data(saved["fingerprint"], fingerprint(model))
    if different:
        warnings.warn(
            f"The model has other data than that of the fit: {'; '.join(different)}. The "
            "approximation is the posterior of the data of the fit; `lp`, `log_weight` and "
            "corrected draws follow the model as it is."
            + see("the-data-have-changed-since-the-fit"),
            stacklevel=users_level(),
        )
    return approx


def _rebuild(saved: dict[str, Any], model: Any) -> FluidApproximation:
    different = other_variables(saved["fingerprint"], fingerprint(model))
    if different:
        raise MismatchError(
            f"The fit is of another model than this: {'; '.join(different)}. Load it with the "
            "model of its fit."
        )
    mixture: FluidMixture = saved["mixture"]
    with graphs():
        approx = FluidApproximation(model, full=mixture.fluids[0].full)
    target = later_target(model, saved["formulation"], saved["random"], saved["options"])
    target.set_generators(saved["generators"])
    approx.update(mixture, target, saved["result"], status=saved["status"])
    for name in ("hist", "history", "attrs", "simulations", "draws_from"):
        setattr(approx, name, saved[name])
    approx.groups[0].include_transformed = saved["include_transformed"]
    return approx


def resume(
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
) -> FluidApproximation:
    """Go on with a fit from its checkpoint, to the end of the run that wrote it.

    With the same versions of all packages the result is, to the bit, what the fit would have given
    without the interruption. The file is written to again.

    Parameters
    ----------
    path : path
        The checkpoint, from ``SPH(checkpoint=...)``.
    model : pymc.Model, optional
        The model of the fit; the one on the context stack by default.
    callbacks, progressbar, progressbar_theme
        As in `SPH.fit`. Callbacks are not in the file; what they remember is theirs.
    temperature : callable, optional
        The setting, if it was a function: no file can hold one.
    backend : str, optional
        As in `SPH.fit`; that of the fit by default.
    compile_kwargs : dict, optional
        As in `SPH.fit`; needed if the fit had any.
    threads, cores, executor
        As in `SPH`. Results do not depend on them.

    Returns
    -------
    FluidApproximation

    Raises
    ------
    FileError, OSError
        If there is no whole checkpoint.
    MismatchError
        If the model has other variables, data or another log density; the message says which.
    SettingsError
        If a function that was a setting is missing.

    See Also
    --------
    SPH.resume : the same, for an `SPH` whose `refine` goes on.
    """
    return SPH.resume(
        path,
        model,
        callbacks=callbacks,
        progressbar=progressbar,
        progressbar_theme=progressbar_theme,
        temperature=temperature,
        backend=backend,
        compile_kwargs=compile_kwargs,
        threads=threads,
        cores=cores,
        executor=executor,
    ).approx
