"""Settings of the documentation site: `sphinx-build -W docs site`."""

import importlib.metadata
import os
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the notebooks' networks are small
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "lra"
author = "The lra authors"
release = version = importlib.metadata.version("lra-e")
html_title = "lra"

extensions = [
    "docstrings",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.katex",
]
exclude_patterns = ["_build", "jupyter_execute"]

# Text
default_role = "py:obj"  # docstrings name code in single backticks
smartquotes_action = "D"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]

# Notebooks. The cache does not notice a change of the library: delete it to run them again.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# The API
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_numpy_docstring = False


def _inventory(name: str) -> str:
    """Compress a list of names that works offline into Sphinx's format."""
    lines = (HERE / "_inventories" / f"{name}.txt").read_text("utf-8")
    target = Path(tempfile.gettempdir()) / f"lra-docs-{os.getpid()}-{name}.inv"
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    target.write_bytes(head.encode() + zlib.compress(lines.encode()))
    return str(target)


# Each project's own inventory, if the network has it, else the short list in _inventories.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", (None, _inventory("python"))),
    "numpy": ("https://numpy.org/doc/stable/", (None, _inventory("numpy"))),
    "torch": ("https://docs.pytorch.org/docs/stable/", (None, _inventory("torch"))),
    "jax": ("https://docs.jax.dev/en/latest/", (None, _inventory("jax"))),
    "keras": ("https://keras.io/", _inventory("keras")),  # publishes no inventory
    # The names by which annotations know the objects of the inventories.
    "aliases": ("https://", _inventory("aliases")),
}
intersphinx_timeout = 10

# Pages
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["lra.css", "api.css"]
html_show_sourcelink = True
html_copy_source = True
katex_css_path = "katex/katex.min.css"
html_theme_options = {
    "github_url": "https://github.com/lra-e/lra",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
}
copyright = "The lra authors. MIT licence"
