"""Configuration of the site (Sphinx); `make site` builds it from the executed notebooks."""

from importlib.metadata import metadata

PACKAGE = metadata("nbhelpers")

project = "nbhelpers"
author = "The nbhelpers contributors"
copyright = f"{author}, Apache-2.0"
version = release = PACKAGE["Version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_design"]
templates_path = ["_templates"]
default_role = "code"  # a name in single backticks
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables
nb_execution_mode = "off"  # the pages are those of executed notebooks, see tools/site_pages.py

autosummary_generate = True
autosummary_ignore_module_all = False  # the public names of a package are those of its __all__
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
napoleon_use_ivar = True  # attributes are documented once, in the docstring of their class
autodoc_mock_imports = ["sam2"]

html_theme = "pydata_sphinx_theme"
html_title = "nbhelpers"
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["site.css"]
# Navigation at the left is for the package alone; elsewhere the room is for code, figures and tables.
html_sidebars = {page: [] for page in ("notebooks/*", "where", "models", "measurements", "teaching")}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "github_url": dict(url.split(", ") for url in PACKAGE.get_all("Project-URL"))["Repository"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
