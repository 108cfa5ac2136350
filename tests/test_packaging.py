"""pyproject.toml, constraints.txt, environment.yml and whatever else names versions or the address say the same."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
APART = {"sam2", "setuptools", "uv", "wheel"}  # installed by a step of their own
EVERYTHING = ".[all,lab,dev,site]"
ONE_SYSTEM = ("nvidia-", "cuda-", "triton")  # of Linux alone: torch pins them itself
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+-]*)")


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(text):
    """Name -> version of a constraints file; anything but plain exact pins is refused."""
    found = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        match = PIN.fullmatch(line)
        assert match, f"not a plain pin: {line}"
        name = canonicalize_name(match[1])
        assert name not in found, f"pinned twice: {name}"
        found[name] = Version(match[2])
    return found


PINS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
DIRECT = [
    requirement
    for requirement in map(
        Requirement, [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    )
    if requirement.name != PROJECT["name"]
]


def disagreement(requirement, pinned):
    """What is wrong with the pin of a direct dependency, or None."""
    version = pinned.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement.name} is not pinned"
    return None if requirement.specifier.contains(version) else f"{requirement.name}=={version} is not {requirement}"


def named_versions(text, name):
    """Versions that a text gives for a package: `sam2==1.1.0`."""
    return {match[2] for match in PIN.finditer(text) if canonicalize_name(match[1]) == name}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_a_direct_dependency_is_pinned_within_its_range(requirement):
    assert disagreement(requirement, PINS) is None
    assert str(requirement.specifier), f"{requirement.name} has no range"


def test_a_pin_that_disagrees_is_noticed():
    assert disagreement(Requirement("numpy>=2"), {}) and disagreement(Requirement("numpy>=2"), pins("numpy==1.26.4"))
    assert disagreement(Requirement("Foo_Bar>=2"), pins("foo-bar==2.1")) is None


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy", "-f wheels", "-i somewhere", "a @ file:///a", "a==1 --hash=sha256:0"]
)
def test_a_line_that_is_no_plain_pin_is_noticed(line):
    with pytest.raises(AssertionError, match="not a plain pin"):
        pins(line)


def test_the_pins_fit_every_system():
    assert not [name for name in PINS if name.startswith(ONE_SYSTEM)]
    assert not [name for name, version in PINS.items() if version.local]


def test_what_is_installed_apart_is_pinned():
    assert set(PINS) >= APART
    assert not APART & {canonicalize_name(requirement.name) for requirement in DIRECT}


def test_the_conda_environment_is_the_same():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    environment = yaml.safe_load(text)
    *conda, last = environment["dependencies"]
    python = next(Requirement(item.replace("=", "==", 1) + ".*") for item in conda if item.startswith("python="))
    wanted = PROJECT["requires-python"].removeprefix(">=")
    assert any(
        python.specifier.contains(f"{wanted.rsplit('.', 1)[0]}.{minor}")
        for minor in range(int(wanted.split(".")[1]), 14)
    )
    assert sorted(item for item in conda if "python" not in item) == ["pip"], "everything else comes by pip, pinned"
    assert last["pip"] == ["-c constraints.txt", "setuptools", "wheel", f"-e {EVERYTHING}"]
    assert f"--no-deps --no-build-isolation sam2=={PINS['sam2']}" in text
    assert environment["name"] == PROJECT["name"]


def test_the_makefile_installs_every_extra_and_sam2_from_the_same_pins():
    steps = tool("install").STEPS
    what = [" ".join(words) for _, words in steps]
    assert {"setuptools", "wheel", "torch", "torchvision", EVERYTHING} <= set(what[0].split())
    assert what[1] == "--no-deps --no-build-isolation sam2", "sam2 is built after torch"
    assert not [words for words in what if "==" in words], "versions stand in constraints.txt alone"


@pytest.mark.parametrize(
    "name", ["README.md", "environment.yml", "CONTRIBUTING.md", "Makefile", "checkpoints/README.md"]
)
def test_a_version_that_a_text_names_is_the_pinned_one(name):
    text = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).is_file() else ""
    for package, version in PINS.items():
        assert named_versions(text, package) <= {str(version)}


def test_a_text_that_names_another_version_is_noticed():
    assert named_versions("pip install --no-deps sam2==1.0.9", "sam2") == {"1.0.9"}


def test_pre_commit_runs_the_pinned_tools():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    revisions = {repo["repo"].rsplit("/", 1)[1]: Version(repo["rev"]) for repo in repos if repo["repo"] != "local"}
    for repo, package in (("ruff-pre-commit", "ruff"), ("nbstripout", "nbstripout"), ("codespell", "codespell")):
        assert revisions[repo] == PINS[package]


def workflow(name):
    """Jobs of a workflow, and the commands of each."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))["jobs"]
    return jobs, {job: [step["run"] for step in jobs[job]["steps"] if "run" in step] for job in jobs}


def test_continuous_integration_runs_the_same_two_commands():
    jobs, commands = workflow("ci")
    assert {"make demo", ".ci/run"} <= set(commands["notebooks"]) and "make lint" in commands["lint"]
    assert jobs["notebooks"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test")


def test_units_run_on_every_system_and_once_on_the_lowest_versions():
    jobs, commands = workflow("ci")
    matrix = jobs["unit"]["strategy"]["matrix"]
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.13"] and matrix["include"][0]["resolution"] == "lowest-direct"
    assert [line for line in commands["unit"] if '-m "not weights and not browser"' in line]


def test_a_release_is_built_once_and_published_without_a_password():
    jobs, commands = workflow("release")
    assert "uv build" in commands["build"] and jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and commands["publish"] == []
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")


def test_a_release_makes_the_tag_that_the_notebooks_install(tmp_path):
    jobs, commands = workflow("release")
    assert jobs["tag"]["needs"] == ["build", "publish"] and 'gh release create "$TAG"' in commands["tag"][0]
    check = next(command for command in commands["build"] if "GITHUB_OUTPUT" in command).replace(
        "git ls-remote", ": ls"
    )
    output = tmp_path / "output"
    bash = ["bash", "-e", "-c", check]
    assert subprocess.run(bash, cwd=ROOT, env={**os.environ, "GITHUB_OUTPUT": str(output)}, check=False).returncode == 0
    assert output.read_text() == f"tag=v{PROJECT['version']}\n"
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    one = tmp_path / "notebooks" / "01_clip_guided.ipynb"
    one.write_text(one.read_text(encoding="utf-8").replace(f"@v{PROJECT['version']}", "@v0.0.9"), encoding="utf-8")
    env = {**os.environ, "GITHUB_OUTPUT": str(output)}
    assert subprocess.run(bash, cwd=tmp_path, env=env, check=False).returncode == 1


@pytest.mark.parametrize("name", ["bug", "model"])
def test_an_issue_form_asks_for_something(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields)) and any(field["validations"]["required"] for field in form["body"][:1])


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text.splitlines()) > 195
    assert PROJECT["license"] == "Apache-2.0"


def test_the_citation_agrees():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    section = re.search(r"\(README, (.*?)\)", citation["message"])[1]
    assert f"\n## {section}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_types_and_the_version_of_the_package_can_be_read():
    assert (ROOT / "nbhelpers" / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["nbhelpers"]
    import nbhelpers

    assert nbhelpers.__version__ == PROJECT["version"]


def test_the_address_is_the_same_everywhere():
    named = [str(path.relative_to(ROOT)) for path in tool("address").disagreeing()]
    assert named == [], "run make address"


OLD, NEW = "https://github.com/old/place", "https://github.com/new-owner/new.place"
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/00_start_here.ipynb"


@pytest.fixture
def tree(tmp_path):
    """A small repository whose address and version have just been changed in pyproject.toml."""
    text = f'[project]\nname = "small"\nversion = "2.0.1"\n[project.urls]\nRepository = "{NEW}"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    (tmp_path / "CITATION.cff").write_text(f'cff-version: 1.2.0\nversion: 1.9\nrepository-code: "{OLD}"\n')
    (tmp_path / "README.md").write_text(
        f"[![CI]({OLD}/actions/workflows/ci.yml/badge.svg)]({OLD}/actions) [colab]({COLAB.format('old/place')})\n"
        f"git clone {OLD}.git\nSAM 2 is https://github.com/facebookresearch/sam2, not {OLD}-holder. See {OLD}.\n"
    )
    (tmp_path / "notebooks").mkdir()
    cell = {
        "cell_type": "code",
        "source": [
            "!pip install git+https://github.com/third/fork@v1.9\n",
            f"git+{OLD}@v1.9",
            COLAB.format("third/fork"),
        ],
    }
    (tmp_path / "notebooks" / "00_start_here.ipynb").write_text(json.dumps({"cells": [cell]}, indent=1))
    return tmp_path


def test_a_changed_address_is_carried_everywhere_and_other_projects_keep_theirs(tree):
    address = tool("address")
    found = address.disagreeing(tree)
    assert {path.name for path in found} == {"CITATION.cff", "README.md", "00_start_here.ipynb"}
    for path, text in found.items():
        path.write_text(text)
    readme = (tree / "README.md").read_text()
    assert readme.count(NEW) == 4 and COLAB.format("new-owner/new.place") in readme
    assert "facebookresearch/sam2" in readme and f"not {OLD}-holder" in readme and readme.count("old/place") == 1
    notebook = (tree / "notebooks" / "00_start_here.ipynb").read_text()
    assert "third/fork" not in notebook and f"{NEW}@v2.0.1" in notebook and "1.9" not in notebook
    citation = yaml.safe_load((tree / "CITATION.cff").read_text())
    assert citation == {"cff-version": "1.2.0", "version": "2.0.1", "repository-code": NEW}
    assert address.disagreeing(tree) == {}


def test_the_address_needs_neither_readme_nor_notebooks(tmp_path):
    (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "1"\n[project.urls]\nRepository = "{NEW}"\n')
    assert tool("address").disagreeing(tmp_path) == {}


def test_an_address_of_another_kind_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.com"\n')
    with pytest.raises(SystemExit, match="OWNER/REPO"):
        tool("address").address(tmp_path)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """tools/install.py on an empty folder, with the commands that it would run written down."""
    install = tool("install")
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(install, "ROOT", tmp_path)
    for name in ("VENV", "PYTHON", "DONE", "BEGUN"):
        monkeypatch.setattr(install, name, tmp_path / getattr(install, name).relative_to(ROOT))
    ran = []

    def run(command, **options):
        ran.append([Path(command[0]).name, *command[1:]])
        install.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        install.PYTHON.touch()
        if install.fail_at in command or (install.uv_fails and Path(command[0]).name.startswith("uv")):
            raise install.stops_by
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    install.uv_fails = False
    install.fail_at, install.stops_by = None, subprocess.CalledProcessError(1, "pip")
    monkeypatch.setattr(install.subprocess, "run", run)
    install.ran = ran
    return install


def test_uv_is_brought_by_pip_and_installs(fresh):
    assert fresh.main() == 0
    _, bring, *steps = fresh.ran
    assert bring[1:] == ["-m", "pip", "install", "--quiet", "-c", "constraints.txt", "uv"]
    for command, (_, what) in zip(steps, fresh.STEPS, strict=True):
        assert command[0].startswith("uv") and command[1:4] == ["pip", "install", "--python"]
        assert command[4] == str(fresh.PYTHON) and command[5:] == ["-c", "constraints.txt", *what]


def test_the_uv_of_the_machine_is_taken(fresh, monkeypatch):
    monkeypatch.setattr(fresh.shutil, "which", {"uv": "/somewhere/uv"}.get)
    assert fresh.main() == 0 and [command[0] for command in fresh.ran[1:]] == ["uv"] * len(fresh.STEPS)


@pytest.mark.parametrize("stops_by", [subprocess.CalledProcessError(2, "uv"), OSError("no such file")])
@pytest.mark.parametrize("which", ["uv fails", "uv cannot be had"])
def test_pip_installs_where_uv_cannot(fresh, which, stops_by, capsys):
    fresh.stops_by = stops_by
    fresh.uv_fails, fresh.fail_at = which == "uv fails", "uv" if which == "uv cannot be had" else None
    assert fresh.main() == 0 and fresh.is_ready()
    for command, (_, what) in zip(fresh.ran[-len(fresh.STEPS) :], fresh.STEPS, strict=True):
        assert command[1:] == ["-m", "pip", "install", "-c", "constraints.txt", *what]
    assert len([line for line in capsys.readouterr().out.splitlines() if "uv could not" in line and "pip" in line]) == 1


def test_variables_that_would_move_the_installation_are_dropped(fresh, monkeypatch):
    seen, run = [], fresh.subprocess.run
    for name in fresh.NOT_OURS:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(
        fresh.subprocess, "run", lambda *a, **options: (seen.append(options["env"]), run(*a, **options))
    )
    assert fresh.main() == 0
    assert not [name for environment in seen for name in fresh.NOT_OURS if name in environment]
    assert {environment["SAM2_BUILD_CUDA"] for environment in seen} == {"0"}


def test_a_second_installation_does_nothing(fresh, capsys):
    assert fresh.main() == 0 and len(fresh.ran) == 2 + len(fresh.STEPS)
    assert "torch" in capsys.readouterr().out
    fresh.ran.clear()
    assert fresh.main() == 0 and fresh.ran == [] and capsys.readouterr().out == ""


def test_changed_pins_are_installed_into_what_is_there(fresh):
    fresh.main()
    (fresh.VENV / "marker").touch()
    with (fresh.ROOT / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    fresh.ran.clear()
    assert fresh.main() == 0 and len(fresh.ran) == 2 + len(fresh.STEPS) and (fresh.VENV / "marker").exists()


def test_a_setting_of_a_tool_installs_nothing(fresh):
    fresh.main()
    with (fresh.ROOT / "pyproject.toml").open("a") as file:
        file.write("[tool.another]\nline = 1\n")
    fresh.ran.clear()
    assert fresh.main() == 0 and fresh.ran == []


def test_a_changed_range_is_installed(fresh):
    fresh.main()
    path = fresh.ROOT / "pyproject.toml"
    path.write_text(path.read_text().replace("numpy>=2.0", "numpy>=2.1"))
    fresh.ran.clear()
    assert fresh.main() == 0 and fresh.ran


@pytest.mark.parametrize("stop", [subprocess.CalledProcessError(1, "pip"), KeyboardInterrupt(), OSError("disk full")])
def test_an_installation_that_was_cut_short_is_begun_afresh(fresh, stop, capsys):
    fresh.fail_at, fresh.stops_by = "torch", stop
    assert fresh.main() != 0
    assert "same command" in capsys.readouterr().err
    (fresh.VENV / "half-a-package").touch()
    fresh.fail_at = None
    assert fresh.main() == 0 and not (fresh.VENV / "half-a-package").exists()


def test_a_removed_environment_is_made_again(fresh):
    fresh.main()
    fresh.PYTHON.unlink()
    fresh.ran.clear()
    assert fresh.main() == 0 and fresh.ran


def test_another_python_gets_an_environment_of_its_own(fresh):
    fresh.main()
    (fresh.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.10.2\n")
    fresh.DONE.write_text("another key\n")
    assert fresh.main() == 0 and not (fresh.VENV / "pyvenv.cfg").exists()


def test_an_old_python_is_told_what_is_needed(fresh, monkeypatch, capsys):
    monkeypatch.setattr(fresh.sys, "version_info", (3, 9, 2, "final", 0))
    assert fresh.main() == 1 and fresh.ran == []
    assert "3.11" in capsys.readouterr().out


def test_a_python_without_venv_is_told_what_to_install(fresh, monkeypatch, capsys):
    monkeypatch.setattr(fresh.subprocess, "call", lambda *_, **__: 1)
    assert fresh.main() == 1 and fresh.ran == []
    assert "python3-venv" in capsys.readouterr().out


def test_make_alone_lists_every_target(tmp_path):
    make = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True)
    if make.returncode == 127:
        pytest.skip("no make here")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert [target for target in targets if f"  {target} " not in make.stdout] == []


def test_a_missing_python_is_told_by_name():
    done = subprocess.run(["make", "PYTHON=no-such-python", "install"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "There is no no-such-python" in done.stdout


def test_the_tools_can_be_read_by_an_old_python():
    # an old python must come as far as the message that it is too old
    ast.parse((ROOT / "tools" / "install.py").read_text(), feature_version=(3, 7))


def test_the_package_that_is_installed_is_this_one():
    done = subprocess.run(
        [sys.executable, "-c", "import importlib.metadata as m; print(m.version('nbhelpers'))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == PROJECT["version"]


@pytest.fixture
def machine(tmp_path):
    """A machine that has next to nothing: `.ci/run` and commands that only write down how they were called."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "env", "cat"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def command(name, body="exit 0"):
        path = tmp_path / "bin" / name
        path.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >> "{tmp_path}/called"\n{body}\n')
        path.chmod(0o755)

    def run():
        done = subprocess.run(
            [tmp_path / ".ci" / "run"], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True
        )
        return done.returncode, (tmp_path / "called").read_text().splitlines(), done.stdout

    for name in ("make", "python3"):
        command(name)
    command("id", "echo 0")
    run.command = command
    return run


@pytest.mark.skipif(sys.platform == "win32", reason="bash is needed")
class TestCi:
    def test_chromium_that_is_there_is_taken(self, machine):
        machine.command("chromium")
        machine.command("apt-get")
        status, called, _ = machine()
        assert status == 0 and called[-1] == "make test" and not [line for line in called if line.startswith("apt")]

    def test_a_missing_chromium_is_installed(self, machine):
        machine.command("apt-get")
        status, called, _ = machine()
        apt = [line for line in called if line.startswith("apt")]
        assert status == 0 and apt[0] == "apt-get update" and apt[1].endswith(" chromium") and called[-1] == "make test"

    def test_without_chromium_the_tests_still_run(self, machine):
        machine.command("apt-get", "exit 100")
        status, called, said = machine()
        assert status == 0 and called[-1] == "make test" and "browser tests will be skipped" in said

    def test_without_root_nothing_is_installed(self, machine):
        machine.command("apt-get")
        machine.command("id", "echo 1000")
        status, called, said = machine()
        assert status == 0 and "apt-get update" not in called and "browser tests will be skipped" in said

    def test_a_failure_is_its_exit_status(self, machine):
        machine.command("chromium")
        machine.command("make", "exit 2")
        assert machine()[0] == 2

    def test_a_machine_without_venv_gets_it(self, machine):
        machine.command("chromium")
        machine.command("python3", "exit 1")
        machine.command("apt-get")
        status, called, _ = machine()
        assert status == 0 and any(line.endswith("python3 python3-venv") for line in called)
