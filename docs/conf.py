"""Sphinx settings; build with ``sphinx-build -W --keep-going -b html docs docs/_build``."""

from pymc_sph import __version__

project = "pymc-sph"
author = "the pymc-sph developers"
copyright = "the pymc-sph developers"
release = version = __version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "paper/*.md"]  # included in paper.md, or its raw tables
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"  # outputs are stored; tutorials/execute.py makes them

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3  # the messages of the package point to them

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections have the types
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autosummary_generate = False  # numpydoc loads it, and nothing here uses it

html_theme = "pydata_sphinx_theme"
html_title = "pymc-sph"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "header_links_before_dropdown": 6,
}
html_show_sourcelink = False
