"""Runs the Python blocks of a page, in order and in one namespace, as a reader would.

``python docs/run_code.py docs/get_started.md``, or with headings whose sections to leave out:
``python docs/run_code.py docs/other_packages.md --skip bambi "pymc-extras: discrete variables"``.
A later page may need an earlier one's names: give several pages.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile

from pathlib import Path
from textwrap import dedent
from typing import Any

BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, skip: list[str]) -> list[tuple[str, str]]:
    """Headings and code of the blocks of a page."""
    found = []
    for part in re.split(r"^(?=#+ )", page.read_text(), flags=re.MULTILINE):
        heading = part.partition("\n")[0].lstrip("# ")
        if heading not in skip:
            found += [(heading, dedent(match[2])) for match in BLOCK.finditer(part)]
    return found


def main() -> None:
    """Run the pages given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--skip", nargs="*", default=[], help="headings of sections to leave out")
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    pages = [page.resolve() for page in options.pages]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder:  # what the code writes
        os.chdir(folder)
        for page in pages:
            for heading, code in blocks(page, options.skip):
                print(f"--- {page.name}: {heading}", flush=True)
                exec(compile(code, f"{page.name}, {heading}", "exec"), namespace)


if __name__ == "__main__":
    main()
