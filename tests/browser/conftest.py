"""One JupyterLab and one Chromium for all browser tests."""

import pytest
from lab import CHROMIUM, Notebook, chromium, lab_server


def pytest_collection_modifyitems(items):
    here = [item for item in items if item.path.parent.name == "browser"]
    for item in here:
        item.add_marker("browser")
        # An open playwright and the server's log are closed at the end of the session, not of a test.
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        if CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="no Chromium on this machine: browser tests are left out"))


@pytest.fixture(scope="session")
def browser_page(tmp_path_factory):
    """The first page of the one Chromium: playwright can be open only once in a process."""
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


@pytest.fixture(scope="session")
def lab(tmp_path_factory, browser_page):
    """A notebook opener: ``lab(name, *cells)`` runs a new notebook in the one page."""
    folder = tmp_path_factory.mktemp("lab")
    opened, page = [], browser_page
    with lab_server(folder) as server:

        def open_notebook(name, *cells):
            opened.append(Notebook(page, server, folder / "work", name, *cells))
            return opened[-1]

        open_notebook.work = folder / "work"
        yield open_notebook
        for notebook in opened:
            notebook.close()
