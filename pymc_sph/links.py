"""Where messages send their readers: the sections of the page on troubleshooting."""

from __future__ import annotations

PAGE = "docs/troubleshooting.md"
"""The page, in the repository; the address of the built page once it is hosted somewhere."""


def see(section: str) -> str:
    """Return a sentence, with a space before it, that names a section of the page by its anchor.

    Anchors are the headings in lower case, hyphens between the words. A test looks for each.
    """
    return f" See {PAGE}#{section}."
