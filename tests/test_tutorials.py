"""The tutorials: executed in order and without complaint, and their code still runs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUN = """
import matplotlib, sys, warnings
matplotlib.use("Agg")
warnings.simplefilter("error")
# of packages to each other (ArviZ 0.23 to matplotlib 3.11): Jupyter does not show them, either
warnings.simplefilter("ignore", DeprecationWarning)
# PyTensor from PyPI, compiling to C, and Numba's advice, as in pyproject.toml
warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS")
warnings.filterwarnings("ignore", r".*np\\.dot.*is faster on contiguous arrays")
if __name__ == "__main__":
    exec(compile(sys.stdin.read(), sys.argv[1], "exec"))
"""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="an sdist has no docs")


def cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def test_the_index_lists_every_tutorial():
    assert NOTEBOOKS
    index = (FOLDER.parent / "index.md").read_text()
    assert [p.stem for p in NOTEBOOKS if f"tutorials/{p.stem}\n" not in index] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_executed_in_order_without_complaints(path):
    code = cells(path)
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c["outputs"]]
    assert outputs
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert path.stat().st_size <= 300_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_parse(path):
    for cell in cells(path):
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_eight_schools", "05_model_comparison", "07_minibatches"])
def test_runs(name):
    # as plain Python, in a process of its own, so that neither Jupyter nor order matter
    code = "\n".join("".join(cell["source"]) for cell in cells(FOLDER / f"{name}.ipynb"))
    path = os.pathsep.join(filter(None, [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", RUN, name],
        input=code,
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "reliable: estimated error" in done.stdout
