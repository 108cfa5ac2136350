"""The site: executed notebooks as pages with small, described figures; no broken link."""

import base64
import functools
import html
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import site_pages as site  # noqa: E402


def figure(alt=None, size=(2400, 1200)):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1] // 40, size[0] // 40, 3), np.uint8)
    Image.fromarray(noise).resize(size).save(file, "png")
    own = {"image/png": {"alt": alt, "width": 800, "height": 400}} if alt else {}
    return nbformat.v4.new_output(
        "display_data", {"image/png": base64.b64encode(file.getvalue()).decode()}, metadata=own
    )


def executed(name):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    widget = nbformat.v4.new_output("display_data", view)
    bar = nbformat.v4.new_output("display_data", {**view, "text/plain": "  0%|          | 0/10 [00:00<?, ?it/s]"})
    page = f"<script>{get_plotlyjs()}</script><b>cameras</b>"
    frame = f'<div><iframe title="A scene" srcdoc="{html.escape(page)}"></iframe></div>'
    scene = figure("Cameras around a cat")
    scene.data["text/html"] = frame
    badge = f"[![Open in Colab](https://example.com/colab-badge.svg)](https://example.com/{name})"
    cells = [
        nbformat.v4.new_markdown_cell(f"# About {name}\n\n{badge}\n\n**You will** see a cat."),
        nbformat.v4.new_markdown_cell("## First figure"),
        nbformat.v4.new_code_cell("show(cat)", outputs=[figure("A cat & its mask")]),
        nbformat.v4.new_code_cell("show(dog)", outputs=[figure()]),
        nbformat.v4.new_code_cell("widget", outputs=[bar, widget]),
        nbformat.v4.new_code_cell("show_scene()", outputs=[scene]),
    ]
    about = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}, "widgets": {"1": "x" * 1000}}
    return nbformat.v4.new_notebook(cells=cells, metadata=about)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The site of two made notebooks."""
    return build(tmp_path_factory.getbasetemp())


@functools.cache
def build(folder):
    """Build the site once per process; the browser tests, which run on the same worker, use it too."""
    patch = pytest.MonkeyPatch()
    patch.setattr(site, "executed_copy", lambda path: executed(path.stem))
    output = folder / "site" / "out"
    patch.setattr(sys, "argv", ["site", "--output", str(output), "notebooks/00_one.ipynb", "notebooks/01_two.ipynb"])
    status = site.main()
    patch.undo()
    assert status == 0
    return output


def test_figures_are_small_files_with_their_descriptions(built):
    page = (built / "notebooks" / "00_one.html").read_text(encoding="utf-8")
    assert 'alt="A cat &amp; its mask" width="800" height="400"' in page
    assert 'alt="Figure of the section: First figure"' in page
    assert page.count("A widget stands here") == 1 and "0/10" not in page and "x" * 1000 not in page
    assert "colab-badge" not in page and 'href="https://example.com/00_one"' in page
    files = sorted((built / "notebooks" / "figures").glob("*.webp"))
    assert len(files) == 6
    for file in files:
        with Image.open(file) as image:
            assert max(image.size) <= site.WIDEST


def test_a_scene_is_a_picture_with_a_link_to_its_own_page(built):
    page = (built / "notebooks" / "01_two.html").read_text(encoding="utf-8")
    assert 'alt="Cameras around a cat"' in page and 'href="figures/01_two-5-0.html"' in page and "iframe" not in page
    scene = (built / "notebooks" / "figures" / "01_two-5-0.html").read_text(encoding="utf-8")
    assert scene == '<script src="plotly.min.js"></script><b>cameras</b>'
    assert (built / "notebooks" / "figures" / "plotly.min.js").stat().st_size > 1e6


def test_the_index_has_a_card_for_each_notebook(built):
    page = (built / "index.html").read_text(encoding="utf-8")
    assert "About 00_one" in page and "About 01_two" in page and "See a cat." in page
    assert (built / "_static" / "01_two.webp").is_file()


def test_models_measurements_and_docstrings_are_pages(built):
    assert "sam2-hiera-tiny-lite" in (built / "models.html").read_text(encoding="utf-8")
    assert "bench/segment.py" in (built / "measurements.html").read_text(encoding="utf-8")
    assert "redo" in (built / "api" / "nbhelpers.segment.html").read_text(encoding="utf-8")


def test_problems_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "PAGE_MB", 0.001)
    (tmp_path / "big.png").write_bytes(bytes(2000))
    (tmp_path / "page.html").write_text(
        '<a href="gone.html#there">a</a><img src="big.png"><img src="https://example.com/x.png" alt="x">'
    )
    found = "\n".join(site.problems(tmp_path))
    assert "gone.html#there is broken" in found and "big.png has no alt text" in found
    assert "x.png lies on another host" in found and "MB with its pictures" in found and found.count("\n") == 3


@pytest.mark.parametrize("name", ["executed", "other source"])
def test_only_a_copy_with_the_same_code_is_used(tmp_path, monkeypatch, name):
    monkeypatch.setattr(site, "outputs_dir", lambda stem: tmp_path / "outputs")
    (tmp_path / "outputs").mkdir()
    nbformat.write(executed("n"), tmp_path / "outputs" / "n.ipynb")
    present = executed("n")
    present.cells[0].source = "# Another text"
    if name == "other source":
        present.cells[2].source = "show(other)"
    for cell in present.cells[2:]:
        cell.outputs = []
    nbformat.write(present, tmp_path / "n.ipynb")
    ran = []
    monkeypatch.setattr(site, "run", lambda path, timeout: ran.append(path) or 1)
    copy = site.executed_copy(tmp_path / "n.ipynb")
    if name == "executed":
        assert not ran and copy.cells[0].source == "# Another text" and copy.cells[2].outputs
    else:
        assert ran and copy is None
