"""One function over many items: resumable, with an optional Dask client, each result its own file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import file_stem, write_text
from nbhelpers.core.lazy import needs

log = logging.getLogger(__name__)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class ItemResult:
    """The result of one item.

    Attributes:
        key: of the item.
        value: what the function returned, or what the store made of it; None if it failed.
        error: the error message on one line; empty if there was none.
        kept: whether the value is that of an earlier run.
    """

    key: str
    value: Any = None
    error: str = ""
    kept: bool = False


@dataclass(frozen=True)
class BatchProgress:
    """How far `map_items` is.

    Attributes:
        key: of the last item.
        done: items that are finished: computed, kept from an earlier run, or failed.
        total: number of items; None if it is not known.
        kept: items whose results are those of an earlier run.
        failed: items that failed.
        score: mean score of the items so far; None without any.
        seconds: since the start.
        seconds_left: an estimate by the mean time of the items that were computed; None before the first, or
            without a total.
    """

    key: str
    done: int
    total: int | None
    kept: int
    failed: int
    score: float | None
    seconds: float
    seconds_left: float | None


class ResultStore:
    """Where results are kept between runs; this one keeps none. With a Dask client, `save` runs on the workers."""

    def load(self, key: str, item: Any) -> Any:
        """The value of an earlier run, or None."""
        return None

    def save(self, key: str, item: Any, value: Any) -> Any:
        """Store a value; returns `ItemResult.value`, which may be smaller."""
        return value

    def fail(self, key: str, item: Any, error: str) -> None:
        """Record that an item failed."""


class JsonStore(ResultStore):
    """A JSON file for each item: its key and its value, or its error.

    Example:
        >>> json.loads(JsonStore("outputs/run/items").path("davis/bear").read_text())
        {'key': 'davis/bear', 'value': {'j': 0.91, 'f': 0.93}}

    Args:
        folder: of the files; made at the first.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def path(self, key: str) -> Path:
        """The file of a key; where the key is no file name, a bit of its hash is added."""
        stem = file_stem(key)
        return self.folder / f"{stem if stem == key else f'{stem}-{sha256(key.encode()).hexdigest()[:8]}'}.json"

    def load(self, key: str, item: Any) -> Any:
        """See `ResultStore`. A failed item has no value; neither has a damaged file or one of another key."""
        try:
            about = json.loads(self.path(key).read_text(encoding="utf-8"))
            return about["value"] if about["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, key: str, item: Any, value: Any) -> Any:
        """See `ResultStore`; returns the value that is read back.

        Raises:
            NbHelpersError: the value is None or no JSON, the folder cannot be written.
        """
        try:
            text = json.dumps({"key": key, "value": value}, ensure_ascii=False, indent=1)
        except (TypeError, ValueError) as error:
            raise NbHelpersError(
                f"the result of {key!r} cannot be written as JSON",
                given=error,
                expected="numbers, text, lists and dicts",
            ) from error
        if value is None:
            raise NbHelpersError(f"the result of {key!r} is None", expected="a value to keep, such as True")
        write_text(self.path(key), text)
        return json.loads(text)["value"]

    def fail(self, key: str, item: Any, error: str) -> None:
        """See `ResultStore`."""
        write_text(self.path(key), json.dumps({"key": key, "error": error}, ensure_ascii=False, indent=1))


def map_items(
    function: Callable[[Any], Any],
    items: Iterable[tuple[str, Any]],
    folder: str | Path | None = None,
    signature: Mapping[str, Any] | None = None,
    *,
    store: ResultStore | None = None,
    client: Any = None,
    progress: Callable[[BatchProgress], object] | None = None,
    score: Callable[[Any], float | None] | None = None,
) -> Iterator[ItemResult]:
    """Apply a function to many items; started again, it continues with those that are missing.

    Example:
        >>> items = {"bear": "davis/bear", "camel": "davis/camel"}.items()
        >>> signature = {"format": "my run 1", "models": [tracker.name], "threshold": 0.5}
        >>> with progress_bar("sequences") as bar:
        ...     for result in map_items(measure, items, "outputs/run", signature, progress=bar):
        ...         scores[result.key] = result.value

    The signature is written first. A value is written when it is computed, and before the next item begins, so an
    interruption loses the items in work alone. An item for which ``function`` raises `NbHelpersError` is recorded
    with its message, and tried again in the next run; the others continue. Any other error, and a value that cannot
    be written, ends the run. Closing the iterator cancels what has not begun. Memory does not grow with the values:
    they are handed on and not kept, and with a client no more than two items a thread are waiting.

    Args:
        function: of an item. With a client it is sent to the workers once, and must be picklable; models are loaded
            inside, by `nbhelpers.load` and their names, which keeps them for the worker's next item.
        items: pairs of key and item; may be lazy. No key twice.
        folder: for ``run.json``, the signature, and ``items/``, a JSON file for each item. None: nothing is kept,
            unless there is a store.
        signature: all that the values depend on: inputs, models, parameters; needed with a folder.
        store: keeps the values elsewhere, or in another form.
        client: of Dask distributed (``pip install 'nbhelpers[scale]'``). Paths must mean the same on all workers.
            Left out: one item after the other in this process, with equal results.
        progress: called after each item.
        score: a number of a value, or None, for `BatchProgress.score`.

    Yields:
        A result for each item: in their order, or with a client as they are done.

    Raises:
        NbHelpersError: the folder holds results of another signature, or cannot be written; a key comes twice.
    """
    if folder is not None:
        if signature is None or store is not None:
            raise NbHelpersError("a folder needs a signature and no other store", given=folder)
        folder = Path(folder).expanduser()
        sign(folder / "run.json", signature)
        store = JsonStore(folder / "items")
    work = _checked(items)
    store = store or ResultStore()
    task = _Task(function, store)
    results = _in_process(task, work) if client is None else _on_workers(task, work, client)
    return _counted(results, len(items) if isinstance(items, Sized) else None, progress, score)


@contextlib.contextmanager
def progress_bar(description: str = "", unit: str = "item") -> Iterator[Callable[[BatchProgress], None]]:
    """A tqdm bar as the ``progress`` of `map_items`: time left, the running score and the failed items.

    Example:
        >>> with progress_bar("photos", "photo") as bar:
        ...     results = list(map_items(function, items, progress=bar))
    """
    from tqdm.auto import tqdm

    with tqdm(desc=description, unit=unit, smoothing=0) as bar:  # smoothing 0: the time left by the mean of all

        def show(state: BatchProgress) -> None:
            bar.total, bar.initial = state.total, state.kept  # results of an earlier run took no time
            notes = [] if state.score is None else [f"mean {state.score:.3f}"]
            notes += [f"{state.failed} failed"] if state.failed else []
            bar.set_postfix_str(", ".join(notes), refresh=False)
            bar.update(state.done - bar.n)

        yield show


def _checked(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The items, as long as no key comes twice."""
    seen = set()
    for key, item in items:
        if key in seen:
            raise NbHelpersError("two items have the same key", given=key, expected="a key of its own for each item")
        seen.add(key)
        yield key, item


def _counted(results: Generator[ItemResult, None, None], total: int | None, progress, score) -> Iterator[ItemResult]:
    """The results, with a report of the progress after each."""
    started, done, kept, failed, scores, summed = time.monotonic(), 0, 0, 0, 0, 0.0
    with contextlib.closing(results):
        for result in results:
            done, kept, failed = done + 1, kept + result.kept, failed + bool(result.error)
            if result.error:
                log.warning("%s: %s", result.key, result.error)
            elif score is not None and (number := score(result.value)) is not None:
                scores, summed = scores + 1, summed + number
            if progress is not None:
                seconds, computed = time.monotonic() - started, done - kept
                left = seconds / computed * (total - done) if computed and total is not None else None
                mean = summed / scores if scores else None
                progress(BatchProgress(result.key, done, total, kept, failed, mean, seconds, left))
            yield result


@dataclass(frozen=True)
class _Task:
    """What all items have in common; sent to each worker once."""

    function: Callable[[Any], Any]
    store: ResultStore

    def kept(self, key: str, item: Any) -> ItemResult | None:
        """The result of an earlier run."""
        try:
            value = self.store.load(key, item)
        except NbHelpersError as error:
            return ItemResult(key, error=_on_one_line(error))
        return None if value is None else ItemResult(key, value, kept=True)

    def compute(self, key: str, item: Any) -> ItemResult:
        """Compute one item and keep its value."""
        try:
            value = self.function(item)
        except NbHelpersError as error:
            return self.failed(key, item, _on_one_line(error))
        except Exception as error:
            error.add_note(f"in item {key!r}")
            raise
        return ItemResult(key, self.store.save(key, item, value))

    def failed(self, key: str, item: Any, error: str) -> ItemResult:
        """Record an error."""
        self.store.fail(key, item, error)
        return ItemResult(key, error=error)


def _in_process(task: _Task, work: Iterable[tuple[str, Any]]) -> Generator[ItemResult, None, None]:
    """Results one after the other."""
    for key, item in work:
        yield task.kept(key, item) or task.compute(key, item)


def _on_workers(task: _Task, work: Iterator[tuple[str, Any]], client: Any) -> Generator[ItemResult, None, None]:
    """Results of a Dask client's workers, as they are done; those of an earlier run come without a worker."""
    needs("scale", "distributed")
    from distributed import KilledWorker, as_completed

    shared, completed, pending, more = None, as_completed(), {}, True
    try:
        while more or pending:
            while more and len(pending) < max(2, 2 * sum(client.nthreads().values())):
                if (entry := next(work, None)) is None:
                    more = False
                elif (result := task.kept(*entry)) is not None:
                    yield result
                else:
                    # submitted and not scattered: what a worker that died has taken along is made again
                    shared = shared or client.submit(_same, task, pure=False)
                    future = client.submit(_Task.compute, shared, *entry, pure=False)
                    pending[future] = entry
                    completed.add(future)
            if pending:
                future = next(completed)
                key, item = pending.pop(future)
                try:
                    yield future.result()
                except KilledWorker as error:  # several died of this item: for want of memory, most likely
                    yield task.failed(key, item, f"the worker died: {_on_one_line(error)}")
    finally:
        client.cancel(list(pending))


def _same(task: _Task) -> _Task:
    """The task, on a worker."""
    return task


@contextlib.contextmanager
def local_client(workers: int) -> Iterator[Any]:
    """A Dask client of worker processes on this machine, for ``client=``; None for one worker.

    The workers share the cores: each computes with as many threads as there are cores a worker, at least one.

    Example:
        >>> with local_client(4) as client:
        ...     results = list(map_items(function, items, client=client))

    Raises:
        NbHelpersError: ``distributed`` is not installed.
    """
    if workers <= 1:
        yield None
        return
    needs("scale", "distributed")
    from distributed import Client, LocalCluster

    threads = str(max(1, available_cores() // workers))
    shared = dict.fromkeys(THREAD_VARIABLES, threads)
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "env": shared}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def apart(output: str | Path, source: Any) -> None:
    """Refuse to write results into the folder whose photos are the input: the next run would take them too.

    Args:
        output: the folder for results.
        source: of the photos: a folder is compared, anything else is not.

    Raises:
        NbHelpersError: ``source`` is the folder ``output``.
    """
    output = Path(output).expanduser()
    folder = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if folder is not None and output.is_dir() and folder.is_dir() and output.samefile(folder):
        raise NbHelpersError(
            "results would lie among the photos, and the next run would take them for photos",
            given=output,
            do=f"name another folder, such as {output / 'results'}",
        )


def sign(path: Path, signature: Mapping[str, Any]) -> None:
    """Write what a run's results depend on as JSON, or compare it with what stands there.

    Raises:
        NbHelpersError: the folder holds results of another run; the message names what differs.
    """
    signature = json.loads(json.dumps(signature))  # tuples become lists, as they come back
    if not path.exists():
        write_text(path, json.dumps(signature, indent=1, ensure_ascii=False))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != signature:
        known = before if isinstance(before, dict) else {}
        changed = [key for key in signature if known.get(key) != signature[key]]
        raise NbHelpersError(
            "the folder holds results of another run",
            given=f"{path.parent}; different: {', '.join(changed) or path.name}",
            do="name another folder, or remove this one",
        )
