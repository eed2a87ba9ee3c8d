"""Choice between models by their evidence."""

from __future__ import annotations

import math
import warnings

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pymc.distributions.continuous import FlatRV, HalfFlatRV
from scipy.special import logsumexp

from pymc_sph import idata
from pymc_sph.checks import finite_real, shown
from pymc_sph.links import see
from pymc_sph.process import users_level
from pymc_sph.verdict import RELIABLE


class Found(NamedTuple):
    """What a fit found: log evidence with its standard error, and the grade of its verdict."""

    log_evidence: float
    se: float
    grade: str


def compare_evidence(
    fits: Mapping[str, Any], prior_probabilities: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compare models of the same data by their evidence.

    Parameters
    ----------
    fits : mapping
        Name of a model to its fit: a `FluidApproximation`, what `pymc_sph.fit` or
        ``approx.sample`` returned, or the `FitResult` of `fit_density`.
    prior_probabilities : mapping, optional
        Name of every model to its probability before the data; any positive scale. Equal by
        default.

    Returns
    -------
    pandas.DataFrame
        A row per model, the most probable first. ``rank``, from 0; ``log_evidence`` and its
        standard error ``se``, in nats; ``dlog_evidence``, the log Bayes factor of the best
        evidence over this one, and its standard error ``dse``; ``probability`` of the model after
        the data; ``warning`` where the fit's verdict is not "reliable".

    Raises
    ------
    TypeError
        If `fits` is no mapping, or a fit is nothing of the above, or holds no evidence.
    ValueError
        If there is no fit, or a prior probability is missing or not positive.

    Warns
    -----
    UserWarning
        If a model has a flat prior: its evidence has no meaning then.

    Notes
    -----
    The evidence p(y) is the probability of the data before they were seen, averaged over the
    *prior*. Models are comparable if they describe the same observed values (not y here and log y
    there), and all of their priors are proper. It answers another question than `arviz.compare`,
    which estimates how well the *posterior* predicts new data; a prior ten times as wide leaves
    that as it is, and costs up to log 10 nats of log evidence per parameter (Kass and Raftery
    1995, section 5).

    References
    ----------
    Kass, Raftery (1995). Bayes factors. Journal of the American Statistical Association 90.
    """
    if not isinstance(fits, Mapping):
        raise TypeError("fits: give a dictionary from names of models to their fits")
    if not fits:
        raise ValueError("fits: give at least one fit")
    found = [_found(name, fit) for name, fit in fits.items()]
    log_evidence = np.array([f.log_evidence for f in found])
    se = np.array([f.se for f in found])
    log_joint = log_evidence + np.log(_prior(fits, prior_probabilities))
    best = int(np.argmax(log_evidence))
    table = pd.DataFrame(
        {
            "log_evidence": log_evidence,
            "se": se,
            "dlog_evidence": log_evidence[best] - log_evidence,
            # the fits are independent of each other, but the best one of itself is not
            "dse": np.where(np.arange(len(se)) == best, 0.0, np.hypot(se, se[best])),
            "probability": np.exp(log_joint - logsumexp(log_joint)),
            "warning": [f.grade != RELIABLE for f in found],
        },
        index=list(fits),
    )
    table = table.sort_values("probability", ascending=False, kind="stable")
    table.insert(0, "rank", np.arange(len(table)))
    return table


def _found(name: str, fit: Any) -> Found:
    """Read the evidence off a fit of any kind."""
    if hasattr(fit, "log_evidence"):
        _warn_improper(name, fit)
        grade = fit.verdict.grade if fit.verdict is not None else ""
        found = Found(float(fit.log_evidence), float(fit.log_evidence_se), grade)
    else:
        try:
            attrs = idata.group(fit, "posterior").attrs
            found = Found(
                float(attrs["log_evidence"]), float(attrs["log_evidence_se"]), attrs["verdict"]
            )
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as err:
            raise TypeError(
                f"fits[{name!r}] is {shown(fit)}: give an approximation of pm.fit(method='sph'), "
                "draws of it, or the result of fit_density"
            ) from err
    if math.isnan(found.log_evidence):
        raise TypeError(f"fits[{name!r}] has no evidence: the fit has not been finished")
    return found


def _warn_improper(name: str, fit: Any) -> None:
    """Warn of flat priors: any constant times them is the same prior, but another evidence."""
    free = getattr(getattr(fit, "model", None), "free_RVs", ())
    flat = [rv.name for rv in free if isinstance(rv.owner.op, FlatRV | HalfFlatRV)]
    if flat:
        warnings.warn(
            f"The prior of {', '.join(flat)} in {name!r} is flat, so the evidence of this model is "
            "defined up to a constant only, and comparing it has no meaning: give proper priors."
            + see("flat-priors-have-no-evidence"),
            stacklevel=users_level(),
        )


def _prior(fits: Mapping[str, Any], given: Mapping[str, float] | None) -> np.ndarray:
    """Prior probabilities in the order of the fits."""
    if given is None:
        return np.full(len(fits), 1 / len(fits))
    if set(given) != set(fits):
        wrong = ", ".join(sorted(map(str, set(given) ^ set(fits))))
        raise ValueError(f"prior_probabilities: give one for each of the fits, see {wrong}")
    values = [finite_real(given[name]) for name in fits]
    for name, value in zip(fits, values, strict=True):
        if value is None or value <= 0:
            raise ValueError(
                f"prior_probabilities[{name!r}]={shown(given[name])}: give a number above 0"
            )
    p = np.array(values, dtype="float64")
    return p / p.sum()
