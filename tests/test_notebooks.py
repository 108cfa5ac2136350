"""The rules of the notebooks, each as a function that gives complaints, and each shown to be able to complain."""

import ast
import copy
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from nbhelpers import cli

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAME_NAME = {"start_here": "segment"}  # the first notebook tells about the first job

CELLS, CODE_LINES, LINES_A_CELL, MARKDOWN = 60, 150, 25, 2 / 5
ALT_WORDS = 5  # at least, of a figure's description
NO_ALT = {("plt", "show"), ("", "SVG"), ("", "Image"), ("IPython.display", "SVG"), ("IPython.display", "Image")}
CLOSING = ("What to try", "Where to look in nbhelpers")
COLAB = "https://colab.research.google.com/github/"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def headings(notebook, level):
    """Texts of the headings of one level; lines inside of code fences are no headings."""
    found = []
    for text in markdown(notebook):
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        found += re.findall(rf"^#{{{level}}} +(.+?)\s*$", text, re.MULTILINE)
    return [heading.replace("`", "") for heading in found]


def tags(cell):
    return cell.metadata.get("tags", [])


def plain_python(source):
    """The cell without IPython's magics and shell lines."""
    if source.startswith("%%"):
        return ""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


def budget(notebook):
    """Complaints about length."""
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in code(notebook)]
    share = len(markdown(notebook)) / max(1, len(notebook.cells))
    complaints = [f"{len(notebook.cells)} cells"] if len(notebook.cells) > CELLS else []
    complaints += [f"{sum(map(len, lines))} lines of code"] if sum(map(len, lines)) > CODE_LINES else []
    complaints += [f"a cell of {len(cell)} lines" for cell in lines if len(cell) > LINES_A_CELL]
    complaints += [f"only {share:.0%} of the cells are markdown"] if share < MARKDOWN else []
    return complaints


def outline(notebook):
    """Complaints about headings: one H1 at the top, numbered H2, the two closing sections."""
    complaints = [] if len(headings(notebook, 1)) == 1 else [f"{len(headings(notebook, 1))} headings of level 1"]
    if not notebook.cells or not notebook.cells[0].source.lstrip().startswith(("# ", "[![", "<")):
        complaints.append("the first cell is not the title")
    closing = [title for title in headings(notebook, 2) if title.endswith(CLOSING)]
    numbered = [title for title in headings(notebook, 2) if title not in closing or title[0].isdigit()]
    numbers = [re.match(r"(\d+)\. \S", title) for title in numbered]
    complaints += [f"no number: {title}" for title, number in zip(numbered, numbers, strict=True) if not number]
    if all(numbers) and [int(number[1]) for number in numbers] != list(range(1, len(numbers) + 1)):
        complaints.append("the numbers of the sections do not run from 1")
    if not any(title.endswith("result first") or "result first:" in title for title in numbered[:2]):
        complaints.append("the result does not come first")
    every = [title for level in (2, 3) for title in headings(notebook, level)]
    complaints += [f"no section '{end}'" for end in CLOSING if not any(title.endswith(end) for title in every)]
    last = next((text for text in reversed(markdown(notebook)) if text.strip()), "").replace("`", "")
    if CLOSING[1] not in last or not notebook.cells or notebook.cells[-1].cell_type != "markdown":
        complaints.append(f"the last cell is not '{CLOSING[1]}'")
    return complaints


def opening(notebook, stem):
    """Complaints about what a reader must see before the first code: what, needs, and the Colab badge."""
    first_code = next((i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"), len(notebook.cells))
    text = "\n".join(cell.source for cell in notebook.cells[:first_code])
    complaints = [] if "You will" in text else ["no 'You will'"]
    needs = re.search(r"\bneeds?\b", text, re.IGNORECASE)
    complaints += [] if needs else ["does not say what it needs"]
    for word in ("memory", "minute|second", "model", "download"):
        complaints += [] if re.search(word, text, re.IGNORECASE) else [f"the needs do not tell of: {word}"]
    badge = (
        rf"\(https://colab\.research\.google\.com/github/[\w-]+/[\w.-]+/blob/main/notebooks/{re.escape(stem)}\.ipynb\)"
    )
    return complaints + ([] if re.search(badge, text) else ["no Colab badge of this notebook"])


def special_cells(notebook):
    """Complaints about the set-up cell and the parameters cell."""
    setup = [cell for cell in code(notebook) if '"google.colab" in sys.modules' in cell.source]
    complaints = [] if len(setup) == 1 else [f"{len(setup)} set-up cells"]
    if setup:
        if "enable_custom_widget_manager" not in setup[0].source:
            complaints.append("the set-up cell does not switch on Colab's custom widget manager")
        if setup[0] is not code(notebook)[0]:
            complaints.append("the set-up cell is not the first code")
    parameters = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    complaints += [] if len(parameters) == 1 else [f"{len(parameters)} cells are tagged parameters"]
    for cell in parameters:
        body = ast.parse(plain_python(cell.source)).body
        if cell.cell_type != "code" or not all(isinstance(node, (ast.Assign, ast.AnnAssign)) for node in body):
            complaints.append("the parameters cell does more than to set values")
    return complaints


def definitions(notebook):
    """Functions and classes that are defined where the notebook does not teach them."""
    found = []
    for cell in code(notebook):
        if "teaches" not in tags(cell):
            nodes = ast.walk(ast.parse(plain_python(cell.source)))
            found += [n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    return found


def mistake(notebook):
    """Complaints where no mistake is shown and mended."""
    text = " ".join(" ".join(markdown(notebook)).lower().split())
    return [f"no '{words}'" for words in ("what goes wrong", "it is mended") if words not in text]


def descriptions(notebook):
    """Figures without alt text of their own, which describes them; the title is no description."""
    found = []
    for number, cell in enumerate(code(notebook)):
        for node in ast.walk(ast.parse(plain_python(cell.source))):
            if not isinstance(node, ast.Call):
                continue
            owner, _, name = ast.unparse(node.func).rpartition(".")
            alt = next((each.value for each in node.keywords if each.arg == "alt"), None)
            if owner in ("plots", "plots3d") and name.startswith("show"):
                bare = alt is None or (isinstance(alt, ast.Constant) and len(str(alt.value).split()) < ALT_WORDS)
                found += [f"code cell {number}: {owner}.{name} without a description (alt)"] if bare else []
            elif (owner, name) in NO_ALT:
                found.append(f"code cell {number}: {owner}.{name} cannot have alt text; use plots.show_figure")
    return found


def exercises(notebook):
    """Complaints about the exercises: a question to guess at, code that runs, and its answer, folded."""
    cells, whole = notebook.cells, 0
    for question, run, answer in zip(cells, cells[1:], cells[2:], strict=False):
        if question.cell_type == "markdown" and "predict, then run" in question.source:
            kinds = run.cell_type, answer.cell_type
            whole += kinds == ("code", "markdown") and answer.source.startswith("<details><summary>Answer</summary>")
    return [] if whole >= 2 else [f"{whole} exercises with a folded answer"]


def left_over(notebook):
    """Outputs, counters and widget states that do not belong into git."""
    dirty = [i for i, cell in enumerate(code(notebook)) if cell.outputs or cell.execution_count is not None]
    return dirty + (["widget state"] if "widgets" in notebook.metadata else [])


def complaints(notebook, stem):
    every = budget(notebook), outline(notebook), opening(notebook, stem), special_cells(notebook), exercises(notebook)
    every += mistake(notebook), descriptions(notebook), definitions(notebook), left_over(notebook)
    return [complaint for some in every for complaint in some]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def test_it_is_a_valid_notebook(path):
    notebook = read(path)
    assert notebook.nbformat == 4
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_keeps_the_rules(path):
    assert complaints(read(path), path.stem) == []


def test_on_colab_it_comes_from_the_address_of_pyproject(path):
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    setup = next(cell.source for cell in code(read(path)) if "google.colab" in cell.source)
    assert re.search(re.escape(address) + r"(?![\w-])", setup), "run make address"


def test_it_links_to_its_page_and_installs_the_tag_of_this_version(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"({project['urls']['Documentation']}/notebooks/{path.stem}.html)" in read(path).cells[0].source
    setup = next(cell.source for cell in code(read(path)) if "google.colab" in cell.source)
    assert f'@v{project["version"]}"' in setup and "nbhelpers[all]" not in setup
    # what is there is kept: pip would upgrade torch for the newest version of a package that wants a newer one
    assert "pip list --format=freeze > kept.txt" in setup and "pip install -q -c kept.txt" in setup


def colab_versions():
    """What Colab brings, as far as it is known."""
    lines = (ROOT / "tests" / "data" / "colab.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def changes_on_colab(requirements, brought):
    """Requirements that a version which Colab brings does not meet; `make test-colab` resolves what those require."""
    named = [(canonicalize_name(each.name), each) for each in map(Requirement, requirements)]
    return [str(each) for name, each in named if name in brought and not each.specifier.contains(brought[name])]


def extras_of(path):
    """The requirements of the extras that a notebook's set-up cell installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup = next(cell.source for cell in code(read(path)) if "google.colab" in cell.source)
    todo, found = re.search(r"nbhelpers\[([\w,]+)\]", setup)[1].split(","), list(project["dependencies"])
    while todo:
        for text in project["optional-dependencies"][todo.pop()]:
            own = re.match(r"nbhelpers\[([\w,]+)\]", text)
            todo, found = (todo + own[1].split(","), found) if own else (todo, [*found, text])
    return found


def test_on_colab_it_changes_nothing_that_is_there(path):
    assert changes_on_colab(extras_of(path), colab_versions()) == []


def test_a_change_on_colab_is_noticed():
    assert changes_on_colab(["ipywidgets>=8.1", "torch>=2.5"], colab_versions()) == ["ipywidgets>=8.1"]


def test_module_command_and_test_have_its_name(path):
    name = path.stem.split("_", 1)[1]
    name = SAME_NAME.get(name, name)
    assert importlib.util.find_spec(f"nbhelpers.{name}") is not None
    assert (ROOT / "tests" / f"test_{name}.py").is_file()
    shown = CliRunner().invoke(cli.app, [name.replace("_", "-"), "--help"])
    assert shown.exit_code == 0, shown.output


def test_the_notebooks_are_numbered_without_a_gap():
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(len(NOTEBOOKS))]


SETUP = """import sys
if "google.colab" in sys.modules:
    %pip install -q nbhelpers
    from google.colab import output
    output.enable_custom_widget_manager()"""


EXERCISE = (
    lambda: new_markdown_cell("### Exercise: predict, then run\n\nHow long?"),
    lambda: new_code_cell("len(photo) + 1"),
    lambda: new_markdown_cell("<details><summary>Answer</summary>\n\nEight.\n\n</details>"),
)


@pytest.fixture
def good():
    """A small notebook that keeps every rule."""
    badge = f"[![Colab](badge.svg)]({COLAB}owner/repo/blob/main/notebooks/09_good.ipynb)"
    cells = [
        new_markdown_cell(
            f"# Good\n\n{badge}\n\n**You will** click.\n\n**Needs**: 1 minute, 2 GB of memory, a model to download."
        ),
        new_code_cell(SETUP),
        new_code_cell('photo = "cat.jpg"', metadata={"tags": ["parameters"]}),
        new_markdown_cell("## 1. The result first\n\n```python\n# not a heading\n```"),
        new_code_cell("photo"),
        new_markdown_cell("## 2. A click\n\n**What goes wrong:** one click. **How it is mended:** two."),
        new_code_cell('plots.show(photo, alt="A cat on a red sofa")'),
        *(new() for _ in range(2) for new in EXERCISE),
        new_markdown_cell(
            "## What to try\n\nAnother photo.\n\n## Where to look in `nbhelpers`\n\n`nbhelpers/segment.py`"
        ),
    ]
    return new_notebook(cells=cells)


def test_a_good_notebook_has_no_complaint(good):
    assert complaints(good, "09_good") == []


def source(index, text):
    def change(notebook):
        notebook.cells[index].source = text

    return change


def more(count, cell):
    def change(notebook):
        notebook.cells[-1:-1] = [copy.deepcopy(cell) for _ in range(count)]

    return change


def without(index):
    def change(notebook):
        del notebook.cells[index]

    return change


def word(old, new):
    def change(notebook):
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return change


def output(notebook):
    notebook.cells[4].outputs = [new_output("stream", text="left over")]


def counter(notebook):
    notebook.cells[4].execution_count = 3


def state(notebook):
    notebook.metadata["widgets"] = {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (more(47, new_markdown_cell("words")), "61 cells"),
        (source(4, "a = 1\n" * 26), "a cell of 26 lines"),
        (more(10, new_code_cell("a = 1\n" * 20)), "lines of code"),
        (more(7, new_code_cell("photo")), "markdown"),
        (word("predict, then run", "read"), "0 exercises"),
        (without(8), "1 exercises"),
        (source(5, "# Another title"), "headings of level 1"),
        (source(5, "## 3. A click"), "do not run from 1"),
        (word("What to try", "The end"), "What to try"),
        (lambda notebook: notebook.cells.append(new_code_cell("1")), "the last cell"),
        (word("You will", "We"), "You will"),
        (word("Needs", "With"), "what it needs"),
        (word("memory", "disk"), "memory"),
        (word("download", "buy"), "download"),
        (word("The result first", "Theory"), "result does not come first"),
        (word("What goes wrong", "Also"), "what goes wrong"),
        (word("09_good.ipynb", "08_other.ipynb"), "Colab badge"),
        (without(1), "0 set-up cells"),
        (word("output.enable_custom_widget_manager()", "pass"), "widget manager"),
        (lambda notebook: notebook.cells.insert(1, new_code_cell("1")), "not the first code"),
        (without(2), "0 cells are tagged"),
        (source(2, "photo = 1\nprint(photo)"), "more than to set values"),
        (source(4, "def helper():\n    pass"), "helper"),
        (source(4, "plots.show(photo)"), "plots.show without a description"),
        (source(4, 'plots3d.show_scene(scene, alt="a scene")'), "plots3d.show_scene without a description"),
        (source(4, "plt.show()"), "plt.show cannot have alt text"),
        (output, "2"),
        (counter, "2"),
        (state, "widget state"),
    ],
)
def test_a_broken_rule_is_noticed(good, change, says):
    change(good)
    found = complaints(good, "09_good")
    assert any(says in str(complaint) for complaint in found), found


def test_a_definition_that_is_taught_is_allowed(good):
    good.cells[4].source = "def iou(a, b):\n    return 1"
    good.cells[4].metadata["tags"] = ["teaches"]
    assert definitions(good) == []


def run_tool(home, *sources):
    path = home / "small.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A photo"), *map(new_code_cell, sources)]), path)
    before = path.read_bytes()
    command = [sys.executable, str(ROOT / "tools" / "run_notebook.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert path.read_bytes() == before, "the notebook itself is not touched"
    return done, home / "outputs" / "small"


def test_a_notebook_is_run_with_a_line_for_each_cell_and_kept_as_it_ran(home):
    done, folder = run_tool(home, "import os; os.getcwd()", "6 * 7")
    assert done.returncode == 0, done.stderr
    assert "[ 2/3] A photo" in done.stdout and "[ 3/3] A photo" in done.stdout and done.stderr == ""
    ran = nbformat.read(folder / "small.ipynb", as_version=4)
    assert Path(ast.literal_eval(ran.cells[1].outputs[0].data["text/plain"])).samefile(home)
    assert ran.cells[2].outputs[0].data["text/plain"] == "42"
    assert "42" in (folder / "small.html").read_text(encoding="utf-8")


def test_its_page_has_still_pictures_in_place_of_widgets(home):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    view = '{"model_id": "gone", "version_major": 2, "version_minor": 0}'
    data = f'{{"application/vnd.jupyter.widget-view+json": {view}, "image/png": "{pixel}"}}'
    show = f'display({data}, metadata={{"image/png": {{"alt": "one <pixel>"}}}}, raw=True)'
    done, folder = run_tool(home, show)
    assert done.returncode == 0, done.stderr
    page = (folder / "small.html").read_text(encoding="utf-8")
    assert f'src="data:image/png;base64,{pixel}"' in page and "output_widget_view" not in page
    assert 'alt="one &lt;pixel&gt;"' in page
    assert len(nbformat.read(folder / "small.ipynb", as_version=4).cells[1].outputs[0].data) == 2


def test_a_cell_that_fails_is_told_readably(home):
    done, folder = run_tool(home, "photo = None", "photo.shape", "'never'")
    assert done.returncode == 1
    assert "Cell 3" in done.stderr and "photo.shape" in done.stderr and "AttributeError" in done.stderr
    assert "\x1b" not in done.stderr and "run_notebook.py" not in done.stderr
    assert "AttributeError" in (folder / "small.html").read_text(encoding="utf-8")


def test_a_notebook_that_is_not_there_is_told(home):
    command = [sys.executable, str(ROOT / "tools" / "run_notebook.py"), "missing.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.strip() == "There is no notebook missing.ipynb"
