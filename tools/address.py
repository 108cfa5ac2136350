"""Carry the public address and the version of the repository from pyproject.toml to badges, notebooks and citation.

    python tools/address.py            rewrites what disagrees (`make address`)
    python tools/address.py --check    only tells

The address is one value, `[project.urls] Repository`. Addresses of other projects are left alone: ours are the one in
CITATION.cff (`repository-code`) and those that a Colab link to `notebooks/` names. The version is the tag that the
set-up cells of the notebooks install, and that of CITATION.cff.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOSTS = (
    r"(?:github\.com/|raw\.githubusercontent\.com/|colab\.research\.google\.com/github/|img\.shields\.io/github/\w+/)"
)
PLACE = r"[\w-]+/[\w.-]+?"
COLAB = re.compile(rf"colab\.research\.google\.com/github/({PLACE})/blob/[\w.-]+/notebooks/")
CITED = re.compile(rf"^repository-code:\s*[\"']?https://github\.com/({PLACE})[\"']?\s*$", re.MULTILINE)


def address(root: Path = ROOT) -> str:
    """``OWNER/REPO`` as pyproject.toml has it."""
    url = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    match = re.fullmatch(rf"https://github\.com/({PLACE})(?:\.git)?/?", url)
    if not match:
        raise SystemExit(f"pyproject.toml: Repository is {url!r}; expected https://github.com/OWNER/REPO")
    return match[1]


def tagged(text: str, new: str, version: str) -> str:
    """``text`` with the tag of ``version`` where the repository at ``new`` is installed, and in the citation."""
    text = re.sub(rf"(github\.com/{re.escape(new)}@v)\w+(?:\.\w+)*", rf"\g<1>{version}", text)
    return re.sub(r"^(cff-version: .*\n(?:.*\n)*?version: ).*$", rf"\g<1>{version}", text, flags=re.MULTILINE)


def files(root: Path = ROOT) -> list[Path]:
    """The files that name the address, as far as they exist."""
    named = [root / name for name in ("CITATION.cff", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [path for path in [*named, *sorted((root / "notebooks").glob("*.ipynb"))] if path.is_file()]


def carried(text: str, new: str, cited: str | None) -> str:
    """``text`` with every mention of our old address replaced by ``new``."""
    for old in {*COLAB.findall(text), *([cited] if cited else [])} - {new}:
        text = re.sub(rf"({HOSTS}){re.escape(old)}(?![\w-]|\.(?!git\b)\w)", rf"\g<1>{new}", text)
    return text


def disagreeing(root: Path = ROOT) -> dict[Path, str]:
    """Files that name another address or version than pyproject.toml, with the text that they should have."""
    new = address(root)
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = root / "CITATION.cff"
    match = CITED.search(citation.read_text(encoding="utf-8")) if citation.is_file() else None
    out = {}
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        wanted = tagged(carried(text, new, match[1] if match else None), new, version)
        if wanted != text:
            out[path] = wanted
    return out


def main() -> int:
    """Rewrite, or with ``--check`` only tell; 1 when a check finds something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = disagreeing()
    # CITATION.cff goes last: it says which address is the old one, should this be interrupted
    for path in sorted(found, key=lambda path: path.name == "CITATION.cff"):
        if not check:
            path.write_text(found[path], encoding="utf-8", newline="\n")
        print(f"{'disagrees' if check else 'rewritten'}: {path.relative_to(ROOT)}")
    print(f"the address is https://github.com/{address()}")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
