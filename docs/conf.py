"""How Sphinx builds these pages.

``python -m sphinx -W --keep-going -b html docs docs/_build/html``: warnings are errors.
``-D sphinx_gallery_conf.plot_gallery=0`` builds without running the examples.
"""

import importlib.util
import pathlib
import sys
import urllib.request

import laplace_al

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import house

project = "laplace_al"
author = "The laplace_al developers"
copyright = "The laplace_al developers"
version = release = laplace_al.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "templates", "study/README.rst"]
templates_path = ["templates"]
default_role = "literal"
nitpicky = False  # names of peers are links only where their inventories can be fetched

# -- the reference ---------------------------------------------------------------------------------

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the docstrings
autodoc_mock_imports = [] if importlib.util.find_spec("modAL") else ["modAL"]
numpydoc_show_class_members = False  # the templates say what is shown
numpydoc_use_plots = False

# -- equations -------------------------------------------------------------------------------------

math_number_all = False
math_eqref_format = "({number})"

# -- links to peers, where there is a network ------------------------------------------------------


def reachable(inventories, timeout=3):
    """Those that can be fetched now, as ``-W`` makes an error of one that cannot."""
    try:
        for url in inventories.values():
            urllib.request.urlopen(f"{url}objects.inv", timeout=timeout).close()
    except OSError:
        return {}
    return {name: (url, None) for name, url in inventories.items()}


intersphinx_mapping = reachable(
    {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "sklearn": "https://scikit-learn.org/stable/",
        "skorch": "https://skorch.readthedocs.io/en/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }
)

# -- the gallery -----------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_)",
    "nested_sections": False,
    "doc_module": "laplace_al",
    "backreferences_dir": None,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,  # seconds of one machine say nothing
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
}


def pass_over_missing_figures(app, config):
    """Pages that show figures of the gallery can be built without them, if none is wanted."""
    if config.sphinx_gallery_conf["plot_gallery"] in (0, "0", False, "False"):
        config.suppress_warnings.append("image.not_readable")


def draw_the_house(app):
    """The contributing page shows the rooms as they are now."""
    house.draw(pathlib.Path(app.srcdir) / "generated" / "house.svg")


def setup(app):
    """Sphinx calls this."""
    app.connect("config-inited", pass_over_missing_figures, priority=900)
    app.connect("builder-inited", draw_the_house)


# -- what it looks like ----------------------------------------------------------------------------

toc_object_entries_show_parents = "hide"  # else methods are cut off beside their page

html_theme = "pydata_sphinx_theme"
html_title = "laplace_al"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "laplace_al"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "coming_from": []},
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
_PAGES_OF_THEIR_OWN = [
    "index",
    "start",
    "user_guide",
    "strategies",
    "beyond_one_machine",
    "theory",
    "coming_from",
    "changelog",
    "contributing",
    "security",
]
html_sidebars = {page: [] for page in [*_PAGES_OF_THEIR_OWN, "auto_examples/*", "study/*"]}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
