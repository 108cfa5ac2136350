"""One runner for all benchmarks: resumable, on one machine or many, every number with its protocol beside it."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nbhelpers.core.batch import BatchProgress, available_cores, map_items
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import check_writable, write_text

FORMAT = "nbhelpers benchmark 1"
VERSIONS = ("nbhelpers", "torch", "numpy", "sam2", "open-clip-torch", "onnxruntime", "opencv-python-headless")
NO_FRACTIONS = ("noc", "degrees")  # parts of the names of scores that are no fractions
SCORE_EVERY = (
    50  # the running score is computed after 1, 2, ... items, of n items after n / 50: else it takes n * n steps
)
BLIND_GRID = 64**2  # prompts of a blind grid, with which the cost is compared


@runtime_checkable
class Benchmark(Protocol):
    """A benchmark as `run_benchmark` needs it; picklable, so that it can be sent to workers.

    ``measure`` gives a record of one item as JSON: its scores, and under ``cost`` the prompts and the seconds of the
    parts. ``summarize`` makes the scores of many records; the first of them is the score that is shown.
    """

    kind: str

    @property
    def measure_name(self) -> str:
        """What its main score is."""
        ...

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        ...

    def names(self) -> list[str]:
        """The items, in their order."""
        ...

    def facts(self) -> dict[str, Any]:
        """All that the score depends on, as JSON."""
        ...

    def measure(self, name: str) -> dict[str, Any]:
        """The record of one item."""
        ...

    def summarize(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Scores of the records, the main one first."""
        ...


def run_benchmark(
    benchmark: Benchmark,
    output: str | Path,
    *,
    num_samples: int | None = None,
    client: Any = None,
    progress: Callable[[BatchProgress], object] | None = None,
) -> dict[str, Any]:
    """Measure, and write ``results.json`` and ``summary.txt``; started again, it continues where it was cut off.

    Example:
        >>> run_benchmark(benchmark, "outputs/voc", num_samples=10)["scores"]["miou"]
        0.4523

    Each item's record is a file of its own in ``output/items``, written when it is measured. ``run.json`` is the
    signature of dataset, models and protocol; a folder of another run is refused. The number of samples is no part of
    it, so a run can be extended.

    Args:
        benchmark: what to measure.
        output: the folder.
        num_samples: the first so many items; default: all.
        client: of Dask distributed, see `nbhelpers.core.batch.map_items`; the results are the same.
        progress: called after each item, with the running score.

    Returns:
        What ``results.json`` holds: ``scores``, ``protocol``, ``failed`` (item -> error), ``cost``, ``items``,
        ``versions`` and ``machine``.

    Raises:
        NbHelpersError: no items, a dataset that is not there, an output folder of another run or without room, or
            not one item that could be measured.
    """
    output = Path(output).expanduser()
    names = _chosen(benchmark, num_samples)
    check_writable(output)
    everything = benchmark.names()
    digest = sha256("\n".join(everything).encode()).hexdigest()[:16]
    signature = {"format": FORMAT, "kind": benchmark.kind, **benchmark.facts(), "items": [len(everything), digest]}
    started, records, failed, kept = time.perf_counter(), {}, {}, 0
    running: list[Mapping[str, Any]] = []
    shown: dict[str, Any] = {"score": None, "next": 1}

    def show(state: BatchProgress) -> None:
        """With the score over all items so far, which is not the mean of theirs; of many, not after each."""
        if progress is None:
            return
        if len(running) >= shown["next"]:
            shown["score"] = main_score(benchmark.summarize(running))
            shown["next"] = len(running) + 1 + len(running) // SCORE_EVERY
        progress(replace(state, score=shown["score"]))

    measure = _Measure(benchmark)
    for result in map_items(
        measure, [(name, name) for name in names], output, signature, client=client, progress=show, score=running.append
    ):
        kept += result.kept
        if result.error:
            failed[result.key] = result.error
        else:
            records[result.key] = result.value
    if not records:
        name, error = next(iter(failed.items()))
        raise NbHelpersError("nothing could be measured", given=f"{len(failed)} items, such as {name}: {error}")
    ordered = [records[name] for name in names if name in records]
    results = {
        "format": FORMAT,
        "kind": benchmark.kind,
        "dataset": benchmark.dataset,
        "measure": benchmark.measure_name,
        "scores": benchmark.summarize(ordered),
        "protocol": {**benchmark.facts(), "samples": len(ordered), "of": len(benchmark.names())},
        "failed": failed,
        "cost": _cost(ordered),
        "seconds_of_this_run": round(time.perf_counter() - started, 2),
        "kept_from_before": kept,
        "versions": {name: found for name in VERSIONS if (found := _version(name))}
        | {"python": sys.version.split()[0]},
        "machine": machine(),
        "items": {name: records[name] for name in names if name in records},
    }
    write_text(output / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    write_text(output / "summary.txt", summary_text(results))
    return results


def _chosen(benchmark: Benchmark, num_samples: int | None) -> list[str]:
    if num_samples is not None and num_samples < 1:
        raise NbHelpersError("no samples are no benchmark", given=num_samples, expected="1 or more")
    names = benchmark.names()[:num_samples]
    if not names:
        raise NbHelpersError("the dataset has no items", given=benchmark.dataset)
    return names


@dataclass(frozen=True)
class _Measure:
    """Measure one item, and add seconds and memory; sent to the workers."""

    benchmark: Benchmark

    def __call__(self, name: str) -> dict[str, Any]:
        started = time.perf_counter()
        record = self.benchmark.measure(name)
        record["seconds"] = round(time.perf_counter() - started, 3)
        record["peak_memory_mb"] = peak_memory_mb()
        return record


def main_score(scores: Mapping[str, Any]) -> float | None:
    """The first of the scores."""
    return next(iter(scores.values()), None)


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the items; and what a blind grid costs by the same seconds a prompt."""
    costs = [record.get("cost", {}) for record in records]
    out: dict[str, Any] = {
        key: round(float(np.mean([cost.get(key, 0) for cost in costs])), 3) for cost in costs[:1] for key in cost
    }
    out["seconds"] = round(float(np.mean([record["seconds"] for record in records])), 3)
    out["peak_memory_mb"] = max(record["peak_memory_mb"] for record in records)
    if out.get("prompts") and "decoder" in out and "text" in out:
        out["blind_grid"] = {
            "prompts": BLIND_GRID,
            "decoder": round(out["decoder"] / out["prompts"] * BLIND_GRID, 1),
            "fewer_prompts": round(BLIND_GRID / out["prompts"], 1),
            "how": "seconds a prompt of this run times 4096; --budgets 4096 measures it",
        }
    return out


def summary_text(results: Mapping[str, Any]) -> str:
    """The results for a person: scores, cost, what failed, the protocol."""
    scores, protocol, cost = results["scores"], results["protocol"], results["cost"]
    lines = [f"{results['dataset']}: {protocol['samples']} of {protocol['of']} items, {results['kind']}", ""]
    lines += [f"  {key}: {_percent(key, value)}" for key, value in scores.items() if isinstance(value, (int, float))]
    if "curve" in scores:
        lines += ["", "  prompts  decoder s  mIoU"]
        lines += [f"  {row['prompts']:7.1f} {row['decoder']:10.2f} {row['miou']:6.1%}" for row in scores["curve"]]
    lines += ["", "Cost, mean of an item:"]
    lines += [f"  {key}: {value}" for key, value in cost.items() if key != "blind_grid"]
    if grid := cost.get("blind_grid"):
        lines.append(
            f"  a blind grid of 64 x 64: {grid['prompts']} prompts ({grid['fewer_prompts']} times as many), "
            f"about {grid['decoder']} s in the decoder ({grid['how']})"
        )
    if failed := results["failed"]:
        lines += ["", f"{len(failed)} items could not be measured and are not in the scores:"]
        lines += [f"  {name}: {error}" for name, error in failed.items()]
    lines += ["", "Protocol:"]
    lines += [f"  {key}: {_short(value)}" for key, value in protocol.items()]
    lines += ["", f"Machine: {results['machine']}"]
    lines.append("Versions: " + ", ".join(f"{name} {found}" for name, found in results["versions"].items()))
    return "\n".join(lines) + "\n"


def _percent(key: str, value: float) -> str:
    """Fractions as percent; clicks and degrees as they are."""
    is_fraction = isinstance(value, float) and 0 <= value <= 1 and not any(unit in key for unit in NO_FRACTIONS)
    return f"{value:.2%}" if is_fraction else f"{value:g}"


def _short(value: Any, most: int = 160) -> str:
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= most else f"{text[:most]} ... ({len(value)} in all)"


def read_results(folder: str | Path) -> dict[str, Any]:
    """``results.json`` of a run.

    Raises:
        NbHelpersError: there is none, or it is damaged.
    """
    path = Path(folder).expanduser() / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NbHelpersError("there are no results of a benchmark", given=f"{path}: {error}") from error
    if results.get("format") != FORMAT:
        raise NbHelpersError("these results are of another program", given=path, expected=FORMAT)
    return results


def peak_memory_mb() -> float:
    """The most memory that this process has had so far, in megabytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def machine() -> str:
    """Processor, cores, and the GPU where there is one."""
    text = f"{platform.system()} {platform.machine()}, {available_cores()} cores"
    torch = sys.modules.get("torch")
    return f"{text}, {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else text


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
