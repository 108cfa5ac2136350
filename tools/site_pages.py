"""Build the site from the executed notebooks (`make site`).

    python tools/site_pages.py [--output outputs/site]

A notebook is executed when `outputs/` has no executed copy of its present cells. Figures become WebP files at the size
they are shown; Sphinx does the rest (`docs/conf.py`).
"""

import argparse
import base64
import html
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from PIL import Image, ImageOps
from plotly.offline import get_plotlyjs
from run_notebook import headings, run

from nbhelpers.core.files import outputs_dir
from nbhelpers.weights.catalog import models

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FIGURES = ("image/png", "image/jpeg", "image/webp")
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = re.compile(r'<iframe [^>]*srcdoc="([^"]*)"')
WIDEST = 1600  # pixels of a figure, twice the width of a page's text
THUMBNAIL = 640, 400  # pixels of a card's picture in the index
PROGRESS = "%|"  # tqdm's bar as text
BADGE = re.compile(r"\[!\[[^]]*\]\([^)]*colab-badge[^)]*\)\]\(([^)]*)\)")
HERE = re.compile(r" \[The executed page\]\([^)]*\)")
QUALITY = 80  # of WebP
PAGE_MB, SITE_MB = 3, 40  # most of a page with its pictures, and of the whole site


def main() -> int:
    """Prepare the pages, build the site, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder of the built site (default: outputs/site)")
    parser.add_argument("notebooks", type=Path, nargs="*", help="only these notebooks (default: all)")
    arguments = parser.parse_args()
    output = arguments.output or outputs_dir("site")
    source = output.with_name(f"{output.name}-source")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(DOCS, source)
    paths = arguments.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    executed = [executed_copy(path) for path in paths]
    if None in executed:
        return 1
    cards = [write_page(path.stem, notebook, source) for path, notebook in zip(paths, executed, strict=True)]
    fill(source / "index.md", cards="\n".join(cards))
    fill(source / "notebooks" / "index.md", pages="\n".join(path.stem for path in paths))
    fill(source / "models.md", models=models_table(), samples=samples_table())
    fill(source / "measurements.md", measurements=readme_section("Measurements"))
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "-b", "html", source, output]
    if status := subprocess.run(list(map(str, command)), check=False).returncode:
        return status
    found = problems(output)
    print("\n".join(found) or f"{output / 'index.html'}: {len(paths)} notebooks, {size_of(output) / 1e6:.0f} MB")
    return int(bool(found))


def executed_copy(path: Path) -> nbformat.NotebookNode | None:
    """The notebook with outputs: the copy in `outputs/` if its code is that of ``path``, else a new one."""
    copy = outputs_dir(path.stem) / path.name
    if (not copy.is_file() or code_of(copy) != code_of(path)) and run(path, timeout=900):
        return None
    executed = nbformat.read(copy, as_version=4)
    for cell, present in zip(executed.cells, nbformat.read(path, as_version=4).cells, strict=True):
        cell.source, cell.metadata = present.source, present.metadata  # texts may have changed since
    return executed


def code_of(path: Path) -> list[tuple[str, str]]:
    """Kind of each cell, with the source of those that are code."""
    cells = nbformat.read(path, as_version=4).cells
    return [(cell.cell_type, cell.source if cell.cell_type == "code" else "") for cell in cells]


def write_page(name: str, notebook: nbformat.NotebookNode, source: Path) -> str:
    """Write the notebook with small figures into ``source``; return its card for the index."""
    figures = source / "_extra" / "notebooks" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    titles, thumbnail = headings(notebook), None
    notebook.metadata.pop("widgets", None)
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            cell.source = HERE.sub("", BADGE.sub(r"[Open in Colab](\1)", cell.source))  # the badge lies on another host
            continue
        if "google.colab" in cell.source:
            cell.metadata.setdefault("tags", []).append("hide-input")
        outputs = []
        for number, output in enumerate(cell.outputs):
            data = output.get("data", {})
            kind = next((kind for kind in FIGURES if kind in data), None)
            if kind:
                file = figures / f"{name}-{index}-{number}.webp"
                scene = FRAME.search(data.get("text/html", ""))
                output = picture(output, kind, file, alt_of(output, kind, titles[index]))
                if scene:
                    output.data["text/html"] += write_scene(file.with_suffix(".html"), html.unescape(scene[1]))
                if thumbnail is None or "thumbnail" in cell.metadata.get("tags", []):
                    thumbnail = file
            elif WIDGET in data and PROGRESS in data.get("text/plain", ""):
                continue
            elif WIDGET in data:
                output = note("A widget stands here when the notebook runs.")
            outputs.append(output)
        cell.outputs = outputs
    nbformat.write(notebook, source / "notebooks" / f"{name}.ipynb")
    return card(name, notebook, thumbnail, source)


def alt_of(output: nbformat.NotebookNode, kind: str, heading: str) -> str:
    """The figure's own description, else the heading that it stands under."""
    own = output.get("metadata", {}).get(kind, {})
    return (own.get("alt") if isinstance(own, dict) else None) or f"Figure of the section: {heading}"


def picture(output: nbformat.NotebookNode, kind: str, file: Path, alt: str) -> nbformat.NotebookNode:
    """Write a figure as WebP and return the output that shows it."""
    image = Image.open(io.BytesIO(base64.b64decode(output.data[kind]))).convert("RGB")
    image.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
    image.save(file, quality=QUALITY, method=6)
    own = output.get("metadata", {}).get(kind, {})
    width = own.get("width") or image.width
    height = round(width * image.height / image.width)
    tag = (
        f'<a href="figures/{file.name}"><img src="figures/{file.name}" alt="{html.escape(alt)}" width="{width}" '
        f'height="{height}" loading="lazy" class="figure"></a>'
    )
    return nbformat.v4.new_output("display_data", data={"text/html": tag})


def write_scene(file: Path, page: str) -> str:
    """Write the page of an interactive figure, with one copy of its script for all; return a link to it."""
    script = get_plotlyjs()
    assert script in page, "an interactive figure of another version of plotly"
    (file.parent / "plotly.min.js").write_text(script, encoding="utf-8")
    text = page.replace(f">{script}</script>", ' src="plotly.min.js"></script>')
    file.write_text(text, encoding="utf-8")
    return f'<p><a href="figures/{file.name}">Turn and zoom this scene</a> (loads a script of 5 MB)</p>'


def note(text: str) -> nbformat.NotebookNode:
    """An output that says what the static page cannot show."""
    return nbformat.v4.new_output("display_data", data={"text/html": f'<p class="live">{html.escape(text)}</p>'})


def card(name: str, notebook: nbformat.NotebookNode, thumbnail: Path | None, source: Path) -> str:
    """A card of the index: picture, title, and the first sentence of "You will"."""
    text = "\n".join(cell.source for cell in notebook.cells[:2])
    title = re.search(r"^# (.+)$", text, re.M)[1]
    sentence = re.search(r"\*\*You will\*\* (.+?[.:])(?:\s|$)", text, re.S)
    words = " ".join(sentence[1].split()).rstrip(".:") if sentence else ""
    lines = [f":::{{grid-item-card}} {title}", f":link: notebooks/{name}", ":link-type: doc"]
    if thumbnail:
        image = ImageOps.fit(Image.open(thumbnail), THUMBNAIL, Image.Resampling.LANCZOS, centering=(0.5, 0.3))
        small = source / "_static" / f"{name}.webp"
        image.save(small, quality=QUALITY, method=6)
        lines += [f":img-top: _static/{small.name}", f":img-alt: {title}"]
    return "\n".join([*lines, "", words[:1].upper() + words[1:] + ".", ":::"])


def fill(path: Path, **values: str) -> None:
    """Replace each ``<!-- name -->`` of a page by its text."""
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        assert f"<!-- {name} -->" in text, f"{path} has no place for {name}"
        text = text.replace(f"<!-- {name} -->", value)
    path.write_text(text, encoding="utf-8")


class Links(HTMLParser):
    """What a page refers to, and its pictures without a description."""

    def __init__(self, page: Path):
        super().__init__()
        self.links, self.pictures, self.undescribed = set(), set(), []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note one tag."""
        attributes = dict(attrs)
        if tag == "img":
            self.pictures.add(attributes["src"])
            if not attributes.get("alt"):
                self.undescribed.append(attributes["src"])
        self.links |= {attributes[key] for key in ("href", "src") if attributes.get(key)}


def problems(site: Path) -> list[str]:
    """Broken links, pictures without alt text or from other hosts, and pages that are too large."""
    found = []
    for page in sorted(set(site.rglob("*.html")) - set((site / "_static").rglob("*"))):
        here, name = Links(page), page.relative_to(site)
        found += [f"{name}: {source} has no alt text" for source in here.undescribed]
        found += [f"{name}: {source} lies on another host" for source in here.pictures if urlsplit(source).netloc]
        files = {link: page.parent / unquote(urlsplit(link).path) for link in here.links if local(link)}
        found += [f"{name}: {link} is broken" for link, file in sorted(files.items()) if not file.exists()]
        size = page.stat().st_size + sum(files[link].stat().st_size for link in here.pictures & files.keys())
        if size > PAGE_MB * 1e6:
            found.append(f"{name}: {size / 1e6:.1f} MB with its pictures, more than {PAGE_MB}")
    if size_of(site) > SITE_MB * 1e6:
        found.append(f"the site has {size_of(site) / 1e6:.0f} MB, more than {SITE_MB}")
    return found


def local(link: str) -> bool:
    """Whether a link leads to a file of the site."""
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc and bool(parts.path)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def models_table() -> str:
    """The catalog of models as a Markdown table."""
    rows = [
        f"| `{model.name}` | {model.task.replace('_', ' ')} | {model.set} | {model.licence} | "
        f"{model.bytes / 1e6:,.0f} MB |"
        for model in models()
    ]
    return "\n".join(["| model | task | set | licence | download |", "|---|---|---|---|---|", *rows])


def samples_table() -> str:
    """The sample pictures and clips, from `data/README.md`."""
    lines = (ROOT / "data" / "README.md").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def readme_section(title: str) -> str:
    """The text below one heading of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.M | re.S)[1].strip()


if __name__ == "__main__":
    sys.exit(main())
