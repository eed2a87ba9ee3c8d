"""Summaries of reference draws, and the errors of other draws against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

Errors = dict  # "mean", "log_sd", "w1": {component: error}; "max_*" and "mean_*" over components


@dataclass(frozen=True)
class Summary:
    """Mean, sd and quantiles of reference draws, per variable.

    Parameters
    ----------
    mean, sd : dict of str to ndarray
        Shape *shape* of the variable.
    quantiles : dict of str to ndarray, shape (Q, *shape*)
        At the probabilities (i + 1/2) / Q.
    """

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    quantiles: dict[str, np.ndarray]

    @classmethod
    def from_draws(cls, draws: Mapping[str, np.ndarray], n_quantiles: int = 200) -> Summary:
        """Summarise draws, arrays of shape (n, *shape*)."""
        p = mid_probabilities(n_quantiles)
        return cls(
            {name: x.mean(0) for name, x in draws.items()},
            {name: x.std(0) for name, x in draws.items()},
            {name: np.quantile(x, p, axis=0) for name, x in draws.items()},
        )

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read what `save` wrote."""
        with np.load(path) as file:
            parts = {
                field.name: {
                    key.removeprefix(f"{field.name}/"): file[key].astype("float64")
                    for key in file.files
                    if key.startswith(f"{field.name}/")
                }
                for field in fields(cls)
            }
        return cls(**parts)

    def save(self, path: Path, **extra: np.ndarray) -> None:
        """Write to a compressed npz; `extra` arrays are kept beside the summary."""
        arrays = {
            f"{field.name}/{name}": values.astype("float32")
            for field in fields(self)
            for name, values in getattr(self, field.name).items()
        }
        np.savez_compressed(path, **arrays, **extra)  # type: ignore[arg-type]

    def select(self, names: list[str]) -> Summary:
        """Return the summary of these variables alone."""
        return Summary(
            *({name: getattr(self, field.name)[name] for name in names} for field in fields(self))
        )

    def errors(self, draws: Mapping[str, np.ndarray], weights: np.ndarray | None = None) -> Errors:
        """Return the errors of draws, per scalar component, in reference sds.

        Parameters
        ----------
        draws : dict of str to ndarray
            All leading axes (chain, draw) are pooled; variables without a reference are ignored.
        weights : ndarray, optional
            Weights of the pooled draws; any positive scale.

        Returns
        -------
        dict
            "mean", "log_sd", "w1": {component: error}; the error of a mean is absolute, that of
            an sd is log(sd / reference sd), W1 is the Wasserstein-1 distance from the quantiles.
            "max_mean", "mean_mean", ...: largest and mean absolute value over components.
            Draws or weights that are not finite give infinite errors.
        """
        out: Errors = {"mean": {}, "log_sd": {}, "w1": {}}
        for name, index in self._components():
            key = f"{name}[{','.join(map(str, index))}]" if index else name
            x = np.asarray(draws[name], dtype="float64").reshape(-1, *self.mean[name].shape)
            rows: Any = (slice(None), *index)
            errors = _errors(
                x[rows],
                weights,
                self.mean[name][index],
                self.sd[name][index],
                self.quantiles[name][rows],
            )
            out["mean"][key], out["log_sd"][key], out["w1"][key] = errors
        for key in ("mean", "log_sd", "w1"):
            values = np.abs(list(out[key].values()))
            out[f"max_{key}"], out[f"mean_{key}"] = float(values.max()), float(values.mean())
        return out

    def _components(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, values in self.mean.items():
            for index in np.ndindex(values.shape):
                yield name, index


def mid_probabilities(n: int) -> np.ndarray:
    """Return the midpoints of n equal intervals of (0, 1)."""
    return (np.arange(n) + 0.5) / n


def _errors(
    x: np.ndarray, weights: np.ndarray | None, mean: float, sd: float, quantiles: np.ndarray
) -> tuple[float, float, float]:
    """Return |mean error|, log sd ratio and W1 of one component, x of shape (n,)."""
    w = np.full(len(x), 1 / len(x)) if weights is None else np.asarray(weights).ravel()
    if not (np.isfinite(x).all() and np.isfinite(w).all() and w.sum() > 0):
        return np.inf, np.inf, np.inf
    w = w / w.sum()
    m = w @ x
    with np.errstate(divide="ignore"):
        log_sd = 0.5 * np.log(w @ (x - m) ** 2) - np.log(sd)
    order = np.argsort(x)
    cumulative = np.cumsum(w[order]) - w[order] / 2
    own = np.interp(mid_probabilities(len(quantiles)), cumulative, x[order])
    return abs(m - mean) / sd, log_sd, np.abs(own - quantiles).mean() / sd
