"""Executes the tutorials in place, in order, each in a fresh kernel.

``python docs/tutorials/execute.py [NOTEBOOK ...]``, after ``pip install -e '.[docs,plots]'`` and,
for the tutorial on NUTS, ``pip install nutpie``. A notebook that raises, or writes anything to
stderr (warnings and log messages do), or becomes larger than 300 kB, is not written, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from pathlib import Path
from typing import Any

import nbformat

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
MAX_BYTES = 300_000
KEPT = ("image/png", "text/html", "text/plain")
"""Forms of an output that the docs show; the first of these that there is, and plain text."""


def execute(path: Path, timeout: int) -> list[str]:
    """Run a notebook and write it, unless there is something to complain of: that is returned."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": HERE}}
    )
    try:
        client.execute()
    except CellExecutionError as err:
        return [str(err)]
    complaints = []
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                complaints.append(f"{cell.source}\nwrote to stderr:\n{output.text}")
            elif "data" in output:
                output.data = shown(output.data)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version: it says nothing here
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MAX_BYTES:
        complaints.append(f"{len(text.encode())} bytes, more than {MAX_BYTES}: use smaller figures")
    if not complaints:
        path.write_text(text)
    return complaints


def shown(data: Any) -> Any:
    """Return what is worth keeping of an output's forms."""
    richest = next((form for form in KEPT if form in data), "text/plain")
    return type(data)({form: data[form] for form in dict.fromkeys([richest, "text/plain"])})


def main() -> int:
    """Execute the notebooks given, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("notebooks", type=Path, nargs="*")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for a cell")
    options = parser.parse_args()
    # without it PyTensor from PyPI warns that it found no BLAS, which is no fault of a notebook
    os.environ.setdefault("PYTENSOR_FLAGS", "blas__ldflags=")
    failed = 0
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        start = time.perf_counter()
        complaints = execute(path, options.timeout)
        failed += bool(complaints)
        outcome = "FAILED" if complaints else "ok"
        print(f"{path.name}: {outcome}, {time.perf_counter() - start:.0f} s")
        for complaint in complaints:
            print(complaint, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
