"""Each third-party package belongs to the core or to an extra, and one that is missing is a clear error."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nbhelpers"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "open_clip": "open-clip-torch"}
APART = {"sam2", "vggt", "google"}  # a step of its own; from its repository; Colab's own module
# modules that are reached only through another one, which checks
BEHIND = {
    "models/colmap_mapping.py": "models/colmap.py",
    "models/colmap_matching.py": "models/colmap.py",
}


def distribution(module):
    return canonicalize_name(DISTRIBUTIONS.get(module, module))


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements} - {"nbhelpers"}


CORE = names(PROJECT["dependencies"])
EXTRAS = {extra: names(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
OPTIONAL = set().union(*(EXTRAS[extra] for extra in EXTRAS if extra not in ("lab", "dev", "site"))) - CORE


def imported(source, but=frozenset()):
    """Top names of third-party modules that are imported, wherever in the code; without the nodes of ``but``."""
    found = set()
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if id(node) in but:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"nbhelpers"}


def third_party(source):
    """The imported modules that the code cannot do without when it runs."""
    tree, but = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            but |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(e.type) for e in node.handlers if e.type):
            but |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    return imported(tree, but)


def checked(source):
    """``{(extra, module)}`` of the calls of `needs` and `missing`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        (node.args[0].value, module.value)
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id in ("needs", "missing")
        for module in node.args[1:]
        if isinstance(module, ast.Constant) and isinstance(node.args[0], ast.Constant)
    }


def undeclared(source, guard_source=""):
    """Complaints about imports that no dependency brings, or that nobody checks before they are used."""
    guards = checked(source) | checked(guard_source)
    complaints = [
        f"{module} is not in the extra {extra}"
        for extra, module in guards
        if " " not in module and distribution(module) not in EXTRAS.get(extra, ())
    ]
    for module in third_party(source) - APART:
        if distribution(module) in CORE:
            continue
        if distribution(module) not in OPTIONAL:
            complaints.append(f"{module} is no dependency")
        elif module not in {guarded for _, guarded in guards}:
            complaints.append(f"{module} is imported without `needs`")
    return complaints


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_import_is_a_dependency_and_an_optional_one_is_checked(path):
    name = path.relative_to(PACKAGE).as_posix()
    guard = PACKAGE / ("widgets/__init__.py" if name.startswith("widgets/") else BEHIND.get(name, name))
    assert undeclared(path.read_text(encoding="utf-8"), guard.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import frobnicate", "no dependency"),
        ("def f():\n    import av", "without `needs`"),
        ("def f():\n    needs('text', 'av')\n    import av", "not in the extra text"),
        ("from timm import data", "without `needs`"),
    ],
)
def test_an_import_that_breaks_a_bare_installation_is_noticed(source, complaint):
    assert [line for line in undeclared(source) if complaint in line]


def test_what_is_declared_is_allowed():
    assert undeclared("if TYPE_CHECKING:\n    import av\nimport numpy, cv2, json\nfrom PIL import Image") == []
    assert undeclared("def f():\n    needs('video', 'av')\n    from av.error import FFmpegError") == []


def test_every_optional_package_is_used_and_every_job_is_in_all():
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    guarded = {distribution(module) for source in sources for _, module in checked(source)}
    tried = {distribution(module) for source in sources for module in imported(source)}  # ipyevents is done without
    assert guarded | tried >= OPTIONAL
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.extras == set(EXTRAS) - {"all", "lab", "dev", "site"}


def draw(photo):
    importlib.import_module("nbhelpers.plots").draw(photo)


def call(path, *args, **options):
    """A function that is looked up when it is called."""
    module, name = path.rsplit(".", 1)
    return lambda tmp: getattr(importlib.import_module(f"nbhelpers.{module}"), name)(
        *(tmp if arg is Path else arg for arg in args), **options
    )


def a_clip(tmp):
    (tmp / "clip.mp4").write_bytes(b"no video")
    importlib.import_module("nbhelpers.core.video").Frames(tmp / "clip.mp4")


def a_sentence_encoder(tmp):
    importlib.import_module("nbhelpers.models.minilm").SentenceEncoder.from_files(tmp, tmp, tmp)


def a_pipeline(tmp):
    inpainters = importlib.import_module("nbhelpers.models.inpainters")
    (tmp / "model_index.json").write_text(json.dumps({"_class_name": inpainters.PIPELINES[0]}))
    inpainters.from_folder(tmp, "cpu")


def a_cloud(tmp):
    cloud = importlib.import_module("nbhelpers.export.pointcloud")
    points = np.zeros((1, 3))
    cloud.save_glb(
        tmp / "a.glb", cloud.Cloud(points, np.zeros((1, 3), np.uint8), np.zeros(1, int), ("a",), [(0, 0, 0)])
    )


def a_scene(_):
    from scene_maker import make_scene

    scene = make_scene({"ball": ((0, 0, 0), (1, 1, 1))})
    importlib.import_module("nbhelpers.plots3d").draw_scene(scene[0] if isinstance(scene, tuple) else scene)


def a_cluster(_):
    with importlib.import_module("nbhelpers.core.batch").local_client(2):
        pass


def a_dinov2(tmp):
    importlib.import_module("nbhelpers.models.patches").build_dinov2("d", {"checkpoint": tmp, "config": tmp}, "cpu")


MISSING = [
    ("edit", "diffusers", a_pipeline),
    ("edit", "transformers", a_pipeline),
    ("video", "av", a_clip),
    ("multiview", "kornia", call("models.matchers.build", "m", {}, "cpu", "disk")),
    ("multiview", "pycolmap", call("models.colmap.build", "colmap", {}, "cpu")),
    ("multiview", "plotly", a_scene),
    ("multiview", "trimesh", a_cloud),
    ("match", "transformers", a_dinov2),
    ("official", "transformers", call("models.patches.build_dinov3", "d", {}, "cpu")),
    ("text", "open_clip", call("models.openclip.build_clip", "ViT-B-32")),
    ("text", "supervision", call("clip_guided.selection.empty_detections")),
    ("text", "timm", call("models.conse.class_texts")),
    ("text", "tokenizers", a_sentence_encoder),
    ("widgets", "matplotlib", lambda _: draw(np.zeros((8, 8, 3), np.uint8))),
    ("widgets", "ipycanvas", lambda _: importlib.reload(importlib.import_module("nbhelpers.widgets"))),
    ("scale", "distributed", a_cluster),
]


@pytest.mark.parametrize(("extra", "module", "use"), MISSING, ids=[f"{extra}-{name}" for extra, name, _ in MISSING])
def test_a_missing_package_is_one_error_with_the_command(extra, module, use, tmp_path, monkeypatch):
    if module == "ipycanvas":
        pytest.importorskip("ipycanvas")
        importlib.import_module("nbhelpers.widgets")
    if module == "transformers":
        pytest.importorskip("diffusers")  # it notes at its first import, for good, that transformers is missing
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NbHelpersError, match=re.escape(f"pip install 'nbhelpers[{extra}]'")) as told:
        use(tmp_path)
    assert module in told.value.what


def test_a_missing_sam2_says_how_it_is_built(monkeypatch):
    from nbhelpers.models.sam2 import builders

    monkeypatch.setitem(sys.modules, "sam2.build_sam", None)
    with pytest.raises(NbHelpersError, match="SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation sam2=="):
        builders()


def test_what_is_installed_raises_nothing():
    needs("video", "json", "pathlib")


BARE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
import nbhelpers, nbhelpers.cli
"""


def bare(code, *args):
    """Run code in a process that has only the packages of a bare `pip install nbhelpers`, and sam2."""
    modules = {distribution(module): module for module in DISTRIBUTIONS}
    blocked = {modules.get(name, name.replace("-", "_")) for name in OPTIONAL} | {"IPython"}
    command = [sys.executable, "-c", BARE.format(blocked=blocked) + code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_installation_has_every_name_and_the_command_line():
    said = bare("for name in nbhelpers.__all__: getattr(nbhelpers, name)\nnbhelpers.cli.app(['--help'])")
    assert "segment" in said


@pytest.mark.weights
def test_a_bare_installation_segments_a_photo_by_a_click(tmp_path, photo):
    from nbhelpers.core.images import save_image

    save_image(tmp_path / "photo.png", photo)
    code = "nbhelpers.cli.app(sys.argv[1:])"
    bare(code, "segment", "--image", tmp_path / "photo.png", "--point", "50,60", "--output", tmp_path / "out")
    assert list((tmp_path / "out").glob("*mask.png"))
