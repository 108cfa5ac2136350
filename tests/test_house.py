"""The rules of the house, each as a function that gives complaints, and each shown to be able to complain."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbhelpers"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 800  # lines of a module

FLOORS = {
    "core": 1,
    "weights": 2,
    "models": 3,
    "export": 3,
    "plots": 3,
    "plots3d": 3,
    "options": 3,
    "multiview": 4.5,
    "benchmarks": 4.7,  # measures the jobs
    "widgets": 5,
    "app": 5.5,  # pages of the widgets
    "cli": 5.7,
    "__main__": 6,
}
JOBS = 4  # every other module or package at the top: segment, doctor, ...

NETWORKS = {
    "sam2",
    "open_clip",
    "transformers",
    "diffusers",
    "timm",
    "segment_anything",
    "vggt",
    "must3r",
    "depth_anything_3",
}
RUNTIMES = {"onnx", "onnxruntime"}

# in pieces, so that this file does not name them itself
INDEX_HOSTS = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "yarnpkg" + ".com",
    "anaconda" + ".org",
    "download.pytorch" + ".org",
]
INDEX_OPTIONS = ["--index" + "-url", "--extra-index" + "-url", "--find" + "-links", "--trusted" + "-host"]
HOMES = re.compile(r"(?<![\w.~$}])/(?:home|Users|root|work)" + r"/[\w.]+")
TEXT = {".py", ".md", ".ipynb", ".toml", ".txt", ".yml", ".yaml", ".cff", ".json", ".cfg", ".sh", ""}


def room(name):
    """The room of a dotted module name: `nbhelpers.models.sam2` -> `models`; the face of the package has none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def floor(name):
    return FLOORS.get(room(name), JOBS)


def imports(source, name, is_package=False):
    """What a module imports, wherever in it: dotted names with relative ones resolved, and whether for types only."""
    tree, out = ast.parse(source), []
    for_types = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for_types |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + int(is_package)]
                base = ".".join([*parents, *([base] if base else [])])
            # from nbhelpers import weights: the imported name decides
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "nbhelpers" else [base]
        out += [(imported, id(node) in for_types) for imported in names]
    return out


def upward_imports(source, name, is_package=False):
    """Imports from above, and from other rooms of the same floor unless they are for types only."""
    complaints = []
    for imported, for_types in imports(source, name, is_package):
        if imported.split(".")[0] != "nbhelpers":
            continue
        if imported == "nbhelpers.core.lazy":
            continue  # what makes it lazy
        if room(name) is None:
            complaints.append(f"{name} imports {imported}: the face of the package is lazy")
        elif room(imported) != room(name) and floor(imported) >= floor(name) + int(for_types):
            complaints.append(f"{name} (floor {floor(name)}) imports {imported} (floor {floor(imported)})")
    return complaints


def misplaced_networks(source, name, is_package=False):
    """Third-party network code outside of `models`, and graph runtimes outside of `models` and `weights`."""
    complaints = []
    for imported, _ in imports(source, name, is_package):
        top = imported.split(".")[0]
        if (top in NETWORKS and room(name) != "models") or (
            top in RUNTIMES and room(name) not in ("models", "weights")
        ):
            complaints.append(f"{name} imports {imported}")
    return complaints


def tensor_reads(source, name):
    """Lines outside of `models` that read the tensors of an embedding."""
    nodes = ast.walk(ast.parse(source)) if room(name) != "models" else ()
    return [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "tensors"]


def prints(source):
    """Lines that call `print`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def bare_exceptions(source):
    """Lines that raise `Exception`, or catch everything and do nothing."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            lines += [node.lineno] if isinstance(raised, ast.Name) and raised.id == "Exception" else []
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            lines.append(node.lineno)
    return lines


def is_overload(node):
    """Whether a function only declares types for the one that follows it."""
    return any(ast.unparse(decorator) == "overload" for decorator in getattr(node, "decorator_list", ()))


def undocumented(source):
    """Public functions, classes and methods, and the module, that have no docstring."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]

    def look(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_":
                if not is_overload(node) and not ast.get_docstring(node):
                    missing.append(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{node.name}.")

    look(tree.body, "")
    return missing


def foreign_words(text):
    """Hosts of package registries, options that name them, and folders of somebody's machine."""
    found = [word for word in [*INDEX_HOSTS, *INDEX_OPTIONS] if word in text]
    return found + HOMES.findall(text)


def house_files():
    """Every text file that is in the repository or would be: tracked, and untracked but not ignored."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        skipped = {".venv", ".git", "checkpoints", "data", "outputs", "build", "dist"}
        paths = [path for path in ROOT.rglob("*") if not skipped & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_keeps_the_rules(path):
    source, name = path.read_text(encoding="utf-8"), dotted(path)
    is_package = path.name == "__init__.py"
    assert upward_imports(source, name, is_package) == []
    assert misplaced_networks(source, name, is_package) == []
    assert tensor_reads(source, name) == []
    assert undocumented(source) == []
    assert bare_exceptions(source) == []
    assert prints(source) == [] or room(name) == "cli"
    assert len(source.splitlines()) <= LONGEST, "one concept per module; split it"


UPWARD = [
    ("from nbhelpers.weights import fetch", "nbhelpers.core.images"),
    ("import nbhelpers.segment", "nbhelpers.models.sam2"),
    ("from nbhelpers.plots import show", "nbhelpers.export.masks"),
    ("from nbhelpers.clip_guided import find", "nbhelpers.segment"),
    ("from nbhelpers.app import pages", "nbhelpers.widgets.base"),
    ("from nbhelpers import weights", "nbhelpers.core.files"),
    ("from . import weights", "nbhelpers"),
    ("def f():\n    from ..models.load import load", "nbhelpers.core.files"),
    ("if TYPE_CHECKING:\n    from nbhelpers.segment import ClickSession", "nbhelpers.plots"),
    ("if True:\n    from nbhelpers.models.protocols import Prediction", "nbhelpers.plots"),
]
DOWNWARD = [
    ("from . import errors", "nbhelpers.core.images"),
    ("from nbhelpers.weights.catalog import find\nimport torch", "nbhelpers.models.load"),
    ("from importlib import import_module", "nbhelpers"),
    ("if TYPE_CHECKING:\n    from nbhelpers.models.protocols import Prediction", "nbhelpers.plots"),
]


def test_the_rules_notice_what_they_are_for():
    assert [case for case in UPWARD if not upward_imports(*case, is_package=case[1] == "nbhelpers")] == []
    assert [case for case in DOWNWARD if upward_imports(*case)] == []
    assert misplaced_networks("def f():\n    from sam2.build_sam import build_sam2", "nbhelpers.segment")
    assert misplaced_networks("import transformers", "nbhelpers.weights.convert")
    assert not misplaced_networks("import onnx", "nbhelpers.weights.convert")
    assert tensor_reads('x = e.tensors["image_embed"]', "nbhelpers.multiview.views") == [1]
    assert not tensor_reads("x = e.tensors", "nbhelpers.models.sam2")
    assert prints("def f():\n    print('done')") == [2] and not prints("table.print()")
    assert bare_exceptions("raise Exception('no')\ntry:\n    f()\nexcept:\n    pass") == [1, 4]
    assert not bare_exceptions("try:\n    f()\nexcept ValueError as e:\n    raise NbHelpersError('x') from e")
    source = "def f(): ...\ndef _g(): ...\nclass A:\n    'x'\n    def h(self): ..."
    assert undocumented(source) == ["the module", "f", "A.h"]
    assert all(foreign_words(f"see https://{host}/project/sam2") for host in INDEX_HOSTS)
    assert foreign_words('open("' + "/home" + '/ann/cat.jpg")') and foreign_words("/Users" + "/ann/cat.jpg")
    assert not foreign_words("~/pictures/home/cat.jpg, https://example.com/home/cat and $ROOT/home/x")


def top_names(kind):
    """Public names of the top of all modules -> the modules that define them."""
    where = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, kind) and not node.name.startswith("_") and not is_overload(node):
                where.setdefault(node.name, []).append(dotted(path))
    return where


def test_no_class_name_is_used_twice():
    assert {name: where for name, where in top_names(ast.ClassDef).items() if len(where) > 1} == {}


def test_a_function_name_is_used_twice_only_for_the_same_operation():
    adapters = {"build", "build_lite"}  # what `load` calls
    commands = {"doctor", "fetch", "segment"}  # a command and what it runs
    twice = {name: where for name, where in top_names(ast.FunctionDef).items() if len(where) > 1}
    assert set(twice) - adapters - commands == set()


OLD_NAMES = {
    *("accord", "afar", "alike", "anew", "asked", "ledger", "likeness", "looks", "readings", "recipes", "remembered"),
    *("said", "shall", "thing", "things", "told", "verdict", "wholes", "zoo"),
}
"""Words of an earlier, private vocabulary that must not come back in names; see the table of renames in CHANGELOG.md."""

OLD_PHRASES = re.compile(
    r"\b(anew|shall|by lot|likeness|somebody|told|tells|surest|surer|when left out|looks at the|a few that leave|"
    r"what was said|claims? (a|the|its) pixels?|as it is\b(?! (not|no))|to be had|cannot be had)\b",
    re.IGNORECASE,
)
"""Phrases that a technical writer would not use, in docstrings, comments, messages and the notebooks' text."""

UNCLEAN = {"geometry_fusion"}
"""Rooms that still have old words; remove a room from this set when it is clean."""
UNCLEAN_NOTEBOOKS = {"06_geometry_fusion"}
FILE_KEYS = {("rotoscoping", "told")}
"""Keys of the file format."""


def named(source):
    """Every name in a module (functions, classes, arguments, variables, attributes) and its line."""
    for node in ast.walk(ast.parse(source)):
        for field in ("name", "arg", "id", "attr"):
            if isinstance(name := getattr(node, field, None), str):
                yield name, getattr(node, "lineno", 0)


def old_names(source):
    """Names that contain an old word, such as `_said` or `MOST_LIKENESS`, with their lines."""
    return sorted({(line, name) for name, line in named(source) if OLD_NAMES & set(name.lower().split("_"))})


def prose(source):
    """Docstrings, comments and strings of more than one word in a module, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
        if token.type in kinds and " " in token.string:
            yield token.start[0], token.string


def old_phrases(source):
    """Phrases in the text of a module that must not come back, with their lines."""
    found = ((line + text[: hit.start()].count("\n"), hit[0]) for line, text in prose(source) for hit in _hits(text))
    return sorted(found)


def _hits(text):
    code = re.compile(r"``.*?``|`[^`]*`", re.DOTALL)  # names and keys are not prose
    return OLD_PHRASES.finditer(code.sub(lambda part: re.sub(r"[^\n]", "_", part[0]), text))


@pytest.mark.parametrize("path", [path for path in MODULES if room(dotted(path)) not in UNCLEAN], ids=dotted)
def test_a_module_uses_the_terms_of_the_field(path):
    source = path.read_text(encoding="utf-8")
    keys = {name for where, name in FILE_KEYS if where == room(dotted(path))}
    assert [found for found in old_names(source) if found[1] not in keys] == []
    assert old_phrases(source) == []


CLEAN_NOTEBOOKS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem not in UNCLEAN_NOTEBOOKS]


@pytest.mark.parametrize("path", CLEAN_NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_the_terms_of_the_field(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert [hit[0] for cell in text for hit in _hits(cell)] == []
    assert [word for cell in text for word in re.findall(r"\b[Tt]hings?\b", cell)] == []
    code = [re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", "".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    assert [found for cell in code for found in [*old_names(cell), *old_phrases(cell)]] == []


def test_old_words_are_noticed():
    bad = 'class Zoo:\n    """Tells what was said."""\n\n    def _said(self, things):  # made anew\n        self.likeness = 1\n'
    assert old_names(bad) == [(1, "Zoo"), (4, "_said"), (4, "things"), (5, "likeness")]
    assert old_phrases(bad) == [(2, "Tells"), (2, "what was said"), (4, "anew")]
    good = (
        'class Catalog:\n    """See `told`: something is foretold."""\n\n    def nothing(self, retold):\n        pass\n'
    )
    assert old_names(good) == [] and old_phrases(good) == []


def test_old_words_do_not_come_back_as_module_names():
    assert [dotted(path) for path in MODULES if OLD_NAMES & set(path.stem.split("_"))] == []


def test_no_file_names_a_registry_or_somebodys_folder():
    found = {}
    for path in house_files():
        if words := foreign_words(path.read_text(encoding="utf-8", errors="replace")):
            found[str(path.relative_to(ROOT))] = words
    assert found == {}


def test_every_file_is_looked_at():
    names = {str(path.relative_to(ROOT)) for path in house_files()}
    assert {"pyproject.toml", "constraints.txt", "Makefile", "nbhelpers/core/files.py", "tests/test_house.py"} <= names


def test_the_package_is_imported_alone():
    """Without the packages that take seconds to import."""
    command = [sys.executable, "-c", "import nbhelpers, sys; print(*sys.modules)"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    assert not {"torch", "matplotlib", "cv2", "numpy", "sam2", "onnxruntime", "ipycanvas"} & loaded


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    done = subprocess.run([ruff, *command, "--quiet", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "package",
    ["", ".benchmarks", ".editing", ".geometry_fusion", ".multiview", ".product_matching", ".rotoscoping", ".weights"],
)
def test_a_name_that_is_loaded_lazily_is_there_and_is_no_module(package):
    import importlib
    import pkgutil

    home = importlib.import_module(f"nbhelpers{package}")
    modules = {module.name for module in pkgutil.iter_modules(home.__path__)}
    assert set(home.__all__) and not modules & set(home.__all__)  # the import of a module would take the name's place
    assert all(getattr(home, name) is not None for name in home.__all__) and set(home.__all__) <= set(dir(home))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = home.nothing
