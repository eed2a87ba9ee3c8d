"""The string "sph" in `pymc.fit`, which has no registry of its own."""

from __future__ import annotations

import functools
import inspect
import warnings

from collections.abc import Callable, Mapping
from typing import Any

import pymc as pm
import pymc.variational
import pymc.variational.inference

from pymc_sph.checks import shown
from pymc_sph.links import see

NAME = "sph"
SITES = (pm, pymc.variational, pymc.variational.inference)
"""The modules through which `fit` is reached."""
MARK = "__pymc_sph_wraps__"


def register() -> None:
    """Make ``pm.fit(method="sph")`` work; importing `pymc_sph` does it.

    Calling it again changes nothing. A ``fit`` imported by ``from pymc import fit`` before
    `pymc_sph` stays the plain one: pass it ``method=pymc_sph.SPH(...)``.
    """
    if not hasattr(pymc.variational.inference.fit, MARK):
        wrapped = _wrap(pymc.variational.inference.fit)
        for site in SITES:
            site.fit = wrapped


def unregister() -> None:
    """Undo `register`."""
    original = getattr(pymc.variational.inference.fit, MARK, None)
    if original is not None:
        for site in SITES:
            site.fit = original


def _wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    """`pymc.fit` that knows one method more."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def fit(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        arguments = bound.arguments
        method = arguments.get("method", "advi")
        if not (isinstance(method, str) and method.lower() == NAME):
            if not isinstance(method, str):
                _warn_of_ignored(method, arguments)
            try:
                return original(*args, **kwargs)
            except KeyError as error:
                if isinstance(method, str) and "method should be one of" in str(error):
                    raise KeyError(f"{error.args[0]}; pymc_sph adds {NAME!r}") from None
                raise
        if arguments.get("start_sigma") is not None:
            raise NotImplementedError("start_sigma is only available for method advi")
        inf_kwargs = arguments.pop("inf_kwargs", None) or {}
        if not isinstance(inf_kwargs, Mapping):
            raise TypeError(f"inf_kwargs={shown(inf_kwargs)}: give a dictionary of settings")
        inf_kwargs = dict(inf_kwargs)
        for name in ("random_seed", "start"):
            if arguments.get(name) is not None:
                inf_kwargs[name] = arguments.pop(name)
        inf_kwargs["model"] = arguments.get("model")
        from pymc_sph.inference import SPH  # here, so that importing the package takes no time

        arguments["method"] = SPH(**inf_kwargs)
        return original(*bound.args, **bound.kwargs)

    setattr(fit, MARK, original)
    fit.__signature__ = signature  # type: ignore[attr-defined]
    return fit


def _warn_of_ignored(method: Any, arguments: Mapping[str, Any]) -> None:
    """Warn of arguments that `pymc.fit` drops when its method is an SPH object."""
    from pymc_sph.inference import SPH
    from pymc_sph.process import users_level

    if not isinstance(method, SPH):
        return
    ignored = [
        name for name in ("random_seed", "start", "inf_kwargs") if arguments.get(name) is not None
    ]
    if ignored:
        warnings.warn(
            f"pm.fit ignores {', '.join(ignored)} when the method is an SPH object: "
            "give them to SPH(...), or use method='sph'." + see("arguments-that-are-ignored"),
            stacklevel=users_level(),
        )
