"""Which device computes, in which precision, and what happens when its memory is full."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nbhelpers.core.errors import NbHelpersError

if TYPE_CHECKING:
    import torch

DEVICES = ("cuda", "mps", "cpu")
PRECISION = "NBHELPERS_PRECISION"
PRECISIONS = ("auto", "float32", "bfloat16")
Result = TypeVar("Result")


class MemoryWarning(UserWarning):
    """Memory ran out and the work goes on in smaller steps or on another device."""


class PrecisionWarning(UserWarning):
    """Half precision overflowed and the step was computed again in float32."""


def choose_device(device: str | None = None) -> str:
    """The device to compute on: ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``.

    Args:
        device: the caller's wish; else ``NBHELPERS_DEVICE``; else the best that this machine has.

    Raises:
        NbHelpersError: a device that this machine or this build of torch does not have.
    """
    import torch

    wanted = device or os.environ.get("NBHELPERS_DEVICE") or None
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted is None:
        return next(name for name in DEVICES if present[name])
    kind, _, number = wanted.partition(":")
    known = kind in present and (not number or (number.isdigit() and kind == "cuda"))
    if not known or not present[kind] or (number and int(number) >= torch.cuda.device_count()):
        raise NbHelpersError(
            "this device cannot be used",
            given=wanted,
            expected="one of " + ", ".join(name for name in DEVICES if present[name]),
            do="leave device out to take the best there is",
        )
    return wanted


def describe_device(device: str | None = None) -> str:
    """One line on the device: its name and memory, e.g. ``cpu: AMD EPYC, 2 threads, 23.4 GB``."""
    import torch

    device = choose_device(device)
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return f"{device}: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    total = ""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        total = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    return f"{device}: {_processor()}, {torch.get_num_threads()} threads{total}"


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def autocast(device: str, precision: str | None = None) -> Iterator[None]:
    """Compute the block in `half_precision` if there is one; in float32 otherwise. Nothing global changes."""
    import torch

    half = half_precision(device, precision)
    if half is None:
        yield
    else:
        with torch.autocast(device.partition(":")[0], dtype=half):
            yield


def half_precision(device: str, precision: str | None = None) -> torch.dtype | None:
    """The 16-bit type in which networks compute on a device; None for float32.

    ``"auto"`` is bfloat16 on CUDA from Ampere on, float16 on a T4 or V100, and float32 elsewhere. (For a T4
    ``torch.cuda.is_bf16_supported()`` is true as well, but it emulates bfloat16 at a fraction of float32's speed.)

    Args:
        device: as `choose_device` returns it.
        precision: see `choose_precision`.
    """
    import torch

    precision = choose_precision(device, precision)
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else None
    generation = torch.cuda.get_device_capability(device)[0] if device.startswith("cuda") else 0
    if generation >= 8:  # from Ampere on
        return torch.bfloat16
    return torch.float16 if generation == 7 else None  # Volta and Turing have tensor cores for float16 alone


def choose_precision(device: str, precision: str | None = None) -> str:
    """``"auto"``, ``"float32"`` or ``"bfloat16"``.

    Args:
        device: as `choose_device` returns it.
        precision: the caller's choice; by default ``NBHELPERS_PRECISION``, else ``"auto"``.

    Raises:
        NbHelpersError: another word, or bfloat16 on a device without instructions for it.
    """
    wanted = precision or os.environ.get(PRECISION) or "auto"
    if wanted not in PRECISIONS:
        raise NbHelpersError("unknown precision", given=wanted, expected=", ".join(PRECISIONS))
    if wanted == "bfloat16" and not has_bfloat16(device):
        raise NbHelpersError(
            "this device does not multiply bfloat16",
            given=describe_device(device),
            expected="CUDA from Ampere on, or a processor with AMX or AVX512-BF16",
            do=f"leave {PRECISION} out, or set it to float32",
        )
    return wanted


def has_bfloat16(device: str) -> bool:
    """Whether a device has instructions that multiply bfloat16; emulation, as on a T4, does not count."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= 8
    tests = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return device == "cpu" and any(test() for test in tests if test is not None)


@functools.cache
def multiply_by_onednn() -> bool:
    """Let PyTorch multiply float32 matrices by oneDNN on an AMD processor; whether it does so now.

    PyTorch asks MKL, which leaves an AMD processor's wide vectors unused: on a Zen 5 it takes more than twice as long.
    (NumPy fares little better there: OpenBLAS 0.3.31 takes a Zen 5 for a Haswell.) The one switch that leads to oneDNN
    is the permission to round to bfloat16, which oneDNN makes use of only where a processor has AMX, as no AMD has.
    Should that change, the test product below shows it and the permission is taken back: results stay float32.
    The switch is global. It is not changed if it was set before, or if CUDA is available and would obey it too.
    """
    import torch

    on_amd = "AuthenticAMD" in _processor() or _processor().startswith("AMD ")
    if not on_amd or torch.cuda.is_available() or torch.get_float32_matmul_precision() != "highest":
        return False
    torch.set_float32_matmul_precision("medium")
    if _is_exact():
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def _is_exact(product: Callable | None = None) -> bool:
    """Whether a product of float32 matrices errs as float32 does (1e-6 of its largest value), not bfloat16 (3e-4)."""
    import torch

    values = torch.linspace(-1, 1, 256 * 384)
    left, right = values.sin().view(256, 384), values.cos().view(384, 256)
    exact = left.double() @ right.double()
    product = product or torch.matmul
    return bool((product(left, right) - exact).abs().max() < 1e-5 * exact.abs().max())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory is full, on any device."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def in_batches(run: Callable[[int, int], Result], count: int, batch: int, what: str = "items") -> Iterator[Result]:
    """Yield ``run(start, stop)`` over ``range(count)`` in steps of ``batch``, halved when memory is full.

    Example:
        >>> list(in_batches(lambda start, stop: stop - start, count=10, batch=4))
        [4, 4, 2]

    Raises:
        whatever ``run`` raises; out of memory only when a single item does not fit.
    """
    start = 0
    while start < count:
        stop = min(start + batch, count)
        try:
            result = run(start, stop)
        except Exception as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
            batch = (stop - start) // 2
            release_memory()
            warnings.warn(f"memory is full: going on with {batch} {what} at a time", MemoryWarning, stacklevel=3)
            continue
        yield result
        start = stop


def release_memory() -> None:
    """Give cached device memory back."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
