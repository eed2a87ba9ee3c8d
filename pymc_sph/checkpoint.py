"""Checkpoints: a fit under way as a file, from which it goes on to the bit.

An `Ensemble` is a frozen value, and the noise of a step depends on the seed and the step alone. So
a checkpoint is the ensemble as it is after a whole step, with what `SPH` counts beside it, and with
enough of the model to tell it from another one.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor

from pymc_sph import files
from pymc_sph.checks import SettingsError, shown
from pymc_sph.encoding import decode, encode
from pymc_sph.ensemble import Ensemble
from pymc_sph.errors import MismatchError
from pymc_sph.files import FileError
from pymc_sph.fingerprint import other_data, other_variables
from pymc_sph.history import History
from pymc_sph.schemes import AnySettings
from pymc_sph.target import Target
from pymc_sph.version import VERSION

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the files; it grows when older ones can no longer be read."""
EVERY = 25
"""Steps between two checkpoints by default."""
CLOSE = {"float64": 1e-8, "float32": 1e-3}
"""Relative difference of two values of one log density, by PyTensor's floatX."""
OPTIONS = {"backend", "compile_kwargs", "every", "include_transformed"}
"""Keys of `Checkpoint.options`."""
TRIED = 64
"""Steps at which a temperature that is a function is written down, to know it again."""


@dataclass(frozen=True)
class Checkpoint:
    """A fit after a whole step.

    Attributes
    ----------
    ensemble : Ensemble
        The fluids, and everything that their next steps depend on.
    settings : Settings or CollocatedSettings
        Settings as they were given.
    scheme : str
        Their scheme.
    fingerprint : dict
        Of the model; see `fingerprint`.
    point, logp : (d,), float
        A point of unconstrained space and the log density there; NaN if that is random.
    hist, losses : (n,)
        Minus the ELBO of every step: of earlier runs, and of the one under way.
    history : History
        Figures of every step so far.
    score : bool or None
        Whether `losses` is kept.
    first : int
        Steps taken when the run under way began.
    seconds : float
        Seconds spent.
    n_failed : int
        Evaluations that raised an error.
    generators : tuple of dict
        States of the random generators in the log density (``pm.Minibatch``).
    options : dict
        ``backend``, ``include_transformed``, ``every``; ``compile_kwargs`` as text.
    """

    ensemble: Ensemble
    settings: AnySettings
    scheme: str
    fingerprint: dict[str, Any]
    point: np.ndarray
    logp: float
    hist: np.ndarray
    losses: np.ndarray
    history: History
    score: bool | None
    first: int
    seconds: float
    n_failed: int
    generators: tuple[dict[str, Any], ...]
    options: dict[str, Any]


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, in the place of the last one.

    Raises
    ------
    OSError
        If it cannot be written; the last one is still there.
    """
    fields = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    given = checkpoint.settings.temperature
    temperatures = [float(given(t)) for t in range(TRIED)] if callable(given) else None
    save(path, "checkpoint", fields, done=checkpoint.ensemble.done, temperatures=temperatures)


def read(path: Any, temperature: Callable[[int], float] | None = None) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : path
        The file.
    temperature : callable, optional
        The setting, if it was a function: no file can hold one.

    Raises
    ------
    FileError, OSError
        If there is no whole checkpoint.
    SettingsError
        If the temperature was a function and is not given, or another one.
    """
    header, arrays = load(path, "checkpoint")
    before = header.get("temperatures")
    if before is not None and not callable(temperature):
        raise SettingsError(
            "temperature: it was a function in this fit, which a file cannot hold; give it again, "
            "resume(path, model, temperature=...)"
        )
    if before is not None and [float(temperature(t)) for t in range(TRIED)] != before:  # type: ignore[misc]
        raise SettingsError(
            f"temperature={shown(temperature)}: it was another function in this fit"
        )
    if before is None and temperature is not None:
        raise SettingsError(
            f"temperature={shown(temperature)}: this fit goes on with the settings that it had; "
            "only a temperature that was a function has to be given again"
        )
    if header.get("written_by") != versions():
        logger.warning(
            "%s was written with %s; with %s the fit goes on, but perhaps not to the bit.",
            path,
            _listed(header.get("written_by")),
            _listed(versions()),
        )
    fields = decode(header["content"], arrays, temperature)
    try:
        out = Checkpoint(**fields)
        whole = isinstance(out.ensemble, Ensemble) and OPTIONS == set(out.options)
    except TypeError as err:
        raise FileError(f"{path} holds no state of a fit: {err}") from err
    if not whole:
        raise FileError(f"{path} holds no state of a fit")
    return out


def save(path: Path, kind: str, content: Mapping[str, Any], **more: Any) -> None:
    """Write a value with what says where it comes from."""
    tree, arrays = encode(dict(content))
    header = {
        "kind": kind,
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(),
        "written_by": versions(),
        **more,
        "content": tree,
    }
    files.write(path, header, arrays)


def load(path: Any, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the header and the arrays of a file of this kind.

    Raises
    ------
    FileError, OSError
    """
    header, arrays = files.read(path)
    if header.get("format") != FORMAT:
        raise FileError(
            f"{path} has the format {shown(header.get('format'))}, and this pymc-sph {VERSION} "
            f"reads the format {FORMAT}; it was written by {shown(header.get('written_by'))}"
        )
    if header.get("kind") != kind:
        others = {
            "checkpoint": "a checkpoint of a fit: pymc_sph.resume(path, model) goes on from it",
            "fit": "a finished fit: pymc_sph.load(path, model) reads it",
        }
        raise FileError(f"{path} holds {others.get(str(header.get('kind')), 'something else')}")
    return header, arrays


def versions() -> dict[str, str]:
    """Versions of the packages on which the last bit of a result may depend."""
    return {
        "pymc_sph": VERSION,
        "pymc": pm.__version__,
        "pytensor": pytensor.__version__,
        "numpy": np.__version__,
    }


def _listed(versions: Any) -> str:
    items = versions.items() if isinstance(versions, Mapping) else []
    return ", ".join(f"{name} {version}" for name, version in items) or "unknown versions"


def claim(path: Path) -> None:
    """Prepare for a new fit to write its checkpoints to a path.

    Raises
    ------
    SettingsError
        If there is a file that is no checkpoint: it will not be overwritten.
    """
    files.clear_leftovers(path)
    try:
        header, _ = files.read(path)
    except FileNotFoundError:
        return
    except FileError as err:
        raise SettingsError(
            f"checkpoint={shown(str(path))}: there is another file, which is not overwritten "
            f"({err}). Remove it, or give another path"
        ) from err
    if header.get("kind") != "checkpoint":
        raise SettingsError(
            f"checkpoint={shown(str(path))}: a fit was saved there, which is not overwritten; "
            "remove it, or give another path"
        )
    if not header.get("done"):
        logger.warning(
            "The checkpoint %s of a fit that has not come to its end is overwritten; "
            "pymc_sph.resume would have continued it.",
            path,
        )


def reference(ensemble: Ensemble, target: Target) -> tuple[np.ndarray, float]:
    """Return a point and the log density there, by which the density is known again."""
    point = ensemble.mixture().mean()
    return point, _peek(target, point)


def check_model(checkpoint: Checkpoint, present: dict[str, Any]) -> None:
    """Compare the model's fingerprint with that of the checkpoint.

    Raises
    ------
    MismatchError
    """
    faults = [
        *other_variables(checkpoint.fingerprint, present),
        *other_data(checkpoint.fingerprint, present),
    ]
    if faults:
        raise MismatchError(
            f"The checkpoint is of another model than this: {'; '.join(faults)}. Resume it with "
            "the model and the data of its fit, or start a new one."
        )


def check_density(checkpoint: Checkpoint, target: Target) -> None:
    """Compare the log density of the model with that of the checkpoint, at one point.

    Raises
    ------
    MismatchError
    """
    before, now = checkpoint.logp, _peek(target, checkpoint.point)
    if np.isnan(before) or before == now:
        return
    tolerance = CLOSE.get(checkpoint.fingerprint["floatX"], 1e-3)
    if not abs(before - now) <= tolerance * max(1.0, abs(before)):
        raise MismatchError(
            "The checkpoint is of another model than this: its log density at "
            f"{shown(checkpoint.point)} was {before:.10g} and is {now:.10g}. The variables and "
            "the data are the same, so a prior, a potential or a number in the model must differ."
        )


def _peek(target: Target, point: np.ndarray) -> float:
    """Log density at a point; it does not count as an evaluation. NaN where it is random."""
    if target.random:
        return np.nan
    counts = target.n_evaluations, target.n_failed
    logp = float(target(point[None])[0][0])
    target.n_evaluations, target.n_failed = counts
    return logp
