"""Carry data and summaries of reference draws over from a folder of posteriordb.

``python tests/reference/make_summaries.py ../shared/posteriordb`` expects ``data/NAME.json.gz``
and ``reference/NAME.npz`` (10,000 draws each) there, and writes ``data/NAME.json.gz`` and
``summaries/NAME.npz`` here for every posterior of ``tests/reference_models.py`` and
``benchmarks/posteriordb_models.py``.
"""

from __future__ import annotations

import gzip
import json
import sys

from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "benchmarks")]

from posteriordb_models import ALL  # noqa: E402
from summaries import Summary  # noqa: E402


def main(folder: Path) -> None:
    for name in ALL:
        with gzip.open(folder / "data" / f"{name}.json.gz", "rt") as file:
            data = json.load(file)
        # mtime 0: the same data give the same bytes
        with open(HERE / "data" / f"{name}.json.gz", "wb") as file:
            file.write(gzip.compress(json.dumps(data).encode(), mtime=0))
        with np.load(folder / "reference" / f"{name}.npz") as file:
            draws = {key: file[key].astype("float64") for key in file.files}
        Summary.from_draws(draws).save(HERE / "summaries" / f"{name}.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
