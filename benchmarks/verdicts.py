"""Calibrate the verdict: what it says of good fits and of deliberately bad ones, against the truth.

Run ``python benchmarks/verdicts.py calibration --json out.json``, or ``held-out``; with
``--judge out.json`` the rule is applied again to the figures of an earlier run, without fitting.
A fit's true error is the worst, over coordinates, of the errors of mean and log sd of 20,000 draws
of q, in sds, as they come and with their importance weights. See ``docs/verdict.md``.
"""

from __future__ import annotations

import os

# before NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import warnings

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import verdict_fits
import verdict_targets

from verdict_fits import Subject

from pymc_sph.verdict import GRADES, RELIABLE, USE_WEIGHTS, Evidence, judge

Row = dict[str, Any]
Collection = tuple[list[Callable[[], Subject]], tuple[int, ...]]
BANDS = (0.1, 0.3)
"""Errors, in sds, that part good fits from middling ones, and these from bad ones."""

POSTERIORS = {
    "calibration": ["eight_schools-eight_schools_noncentered", "kidiq-kidscore_momiq",
                    "low_dim_gauss_mix-low_dim_gauss_mix", "garch-garch11"],
    "held-out": ["nes2000-nes", "mesquite-mesquite", "arK-arK", "gp_pois_regr-gp_regr"],
}  # fmt: skip
TARGETS = {"calibration": verdict_targets.CALIBRATION, "held-out": verdict_targets.HELD_OUT}
SEEDS = {"calibration": (101, 102), "held-out": (401, 402)}
"""Bad fits are made with the first seed, good ones with each."""


def collection(name: str) -> Collection:
    """Return the subjects of a set of fits, each to be made, and its seeds."""
    subjects: list[Callable[[], Subject]] = [
        partial(verdict_fits.exact, target) for target in TARGETS[name]
    ]
    subjects += [partial(verdict_fits.carried, posterior) for posterior in POSTERIORS[name]]
    return subjects, SEEDS[name]


def measure(name: str) -> Iterator[Row]:
    """Fit and judge a whole set, a row at a time."""
    subjects, seeds = collection(name)
    for make in subjects:
        subject = make()
        for seed in seeds:
            for label, ensemble in verdict_fits.fits(subject, seed, bad=seed == seeds[0]):
                yield verdict_fits.measure(subject, label, ensemble, seed)


def graded(row: Row) -> Row:
    """Apply the rule to the figures of a row."""
    verdict = judge(Evidence(**row["evidence"]))
    return row | {"grade": verdict.grade, "verdict": str(verdict)}


def band(error: float) -> str:
    """Name the band that an error falls into."""
    low, high = BANDS
    return (
        f"< {low:g}" if error < low else f"{low:g} to {high:g}" if error <= high else f"> {high:g}"
    )


def confusion(rows: list[Row]) -> str:
    """Return the table of true error against grade, in markdown."""
    out = ["| worst error of the draws, sd | fits | " + " | ".join(GRADES) + " |"]
    out.append("|---" * 5 + "|")
    for error in (0.0, 0.2, 1.0):
        inside = [row for row in rows if band(row["plain"]) == band(error)]
        counts = [sum(row["grade"] == grade for row in inside) for grade in GRADES]
        out.append(f"| {band(error)} | {len(inside)} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(out)


def summary(rows: list[Row]) -> str:
    """Return the figures of the target, and how good the weights are where they are advised."""
    bad = [row for row in rows if row["plain"] > BANDS[1]]
    silent = [row for row in bad if row["grade"] == RELIABLE]
    good = [row for row in rows if row["plain"] < BANDS[0]]
    kept = [row for row in good if row["grade"] == RELIABLE]
    advised = [row for row in rows if row["grade"] == USE_WEIGHTS]
    mended = [sum(row["weighted"] < limit for row in advised) for limit in BANDS]
    return (
        f"{len(silent)} of {len(bad)} fits with an error above {BANDS[1]:g} sd are called reliable;"
        f" {len(kept)} of {len(good)} with an error below {BANDS[0]:g} sd are"
        f" ({len(kept) / max(len(good), 1):.0%}). Where the verdict is {USE_WEIGHTS!r}, the"
        f" weighted draws have an error below {BANDS[0]:g} sd in {mended[0]}, below {BANDS[1]:g} sd"
        f" in {mended[1]} of {len(advised)} fits."
    )


def misjudged(row: Row) -> bool:
    """Whether a verdict is wrong: too good, too bad, or its weights do not mend the draws."""
    if row["grade"] == RELIABLE:
        return bool(row["plain"] > BANDS[1])
    if row["grade"] == USE_WEIGHTS:
        return bool(row["plain"] < BANDS[0] or row["weighted"] > BANDS[1])
    return bool(row["plain"] < BANDS[0])


def listing(rows: list[Row]) -> str:
    """Return the table of fits, in markdown."""
    out = [
        "| posterior | fit | seed | error | with weights | estimated | verdict |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        found = row["evidence"]
        cells = [row["target"], row["fit"], str(row["seed"])]
        cells += [f"{row['plain']:.2f}", f"{row['weighted']:.2f}"]
        cells += [f"{found['error']:.2f} / {found['left']:.2f}"]
        cells += [row["verdict"].split(";")[0] if row["grade"] != RELIABLE else RELIABLE]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def main() -> int:
    """Fit or read the rows, print the tables; return the number of bad fits called reliable."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("set", choices=list(SEEDS), nargs="?", default="calibration")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    parser.add_argument("--judge", type=Path, metavar="IN", help="judge these figures again")
    parser.add_argument("--all", action="store_true", help="list every fit")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    if arguments.judge:
        rows = [graded(row) for row in json.loads(arguments.judge.read_text())]
    else:
        for row in measure(arguments.set):
            rows.append(graded(row))
            print(row["target"], row["fit"], rows[-1]["grade"], file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows))
    print(confusion(rows), "\n", summary(rows), "\n", sep="\n")
    print(listing([row for row in rows if arguments.all or misjudged(row)]))
    return sum(row["grade"] == RELIABLE and row["plain"] > BANDS[1] for row in rows)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
