"""Devices, precision, and what happens when memory is full."""

import pytest
import torch

from nbhelpers.core import device
from nbhelpers.core.device import MemoryWarning, autocast, choose_device, describe_device, in_batches, is_out_of_memory
from nbhelpers.core.errors import NbHelpersError


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine with or without accelerators."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.delenv("NBHELPERS_DEVICE", raising=False)
    return pretend


def test_the_best_device_is_chosen_and_can_be_overridden(machine, monkeypatch):
    machine()
    assert choose_device() == "cpu"
    machine(mps=True)
    assert choose_device() == "mps" and choose_device("cpu") == "cpu"
    machine(cuda=2, mps=True)
    assert choose_device() == "cuda" and choose_device("cuda:1") == "cuda:1"
    monkeypatch.setenv("NBHELPERS_DEVICE", "cpu")
    assert choose_device() == "cpu" and choose_device("cuda") == "cuda"


@pytest.mark.parametrize("wish", ["cuda", "mps", "cuda:0", "tpu", "cpu:1", "cuda:x"])
def test_a_device_that_is_not_there_is_told(machine, wish):
    machine()
    with pytest.raises(NbHelpersError, match="cannot be used"):
        choose_device(wish)


def test_the_second_of_one_device_is_told(machine):
    machine(cuda=1)
    with pytest.raises(NbHelpersError, match="cannot be used"):
        choose_device("cuda:1")


def test_the_device_is_described_in_one_line():
    line = describe_device("cpu")
    assert line.startswith("cpu: ") and "threads" in line and "\n" not in line


@pytest.fixture
def processor(monkeypatch, machine):
    """Pretend a processor, with PyTorch's precision as it is at the start; both are put back."""
    before = torch.get_float32_matmul_precision()

    def pretend(name, cuda=0):
        machine(cuda=cuda)
        monkeypatch.setattr(device, "_processor", lambda: name)
        torch.set_float32_matmul_precision("highest")
        device.multiply_by_onednn.cache_clear()

    yield pretend
    torch.set_float32_matmul_precision(before)
    device.multiply_by_onednn.cache_clear()


@pytest.mark.parametrize("name", ["AMD EPYC", "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD"])
def test_on_amd_onednn_multiplies_and_float32_stays_float32(processor, monkeypatch, name):
    processor(name)
    with monkeypatch.context() as patch:
        patch.setattr(device, "_is_exact", lambda: True)
        assert device.multiply_by_onednn() and torch.get_float32_matmul_precision() == "medium"
    processor(name)
    switched = device.multiply_by_onednn()  # not where the processor that is pretended to be AMD's has AMX
    assert torch.get_float32_matmul_precision() == ("medium" if switched else "highest")
    assert device._is_exact()


@pytest.mark.parametrize("name", ["Intel(R) Xeon(R)", "AMD64 Family 6 Model 85 Stepping 7, GenuineIntel", "arm"])
def test_on_other_processors_products_stay_as_they_are(processor, name):
    processor(name)
    assert not device.multiply_by_onednn() and torch.get_float32_matmul_precision() == "highest"


def test_products_stay_as_they_are_where_cuda_would_change_too(processor):
    processor("AMD EPYC", cuda=1)
    assert not device.multiply_by_onednn() and torch.get_float32_matmul_precision() == "highest"


def test_a_precision_that_somebody_chose_is_left(processor):
    processor("AMD EPYC")
    torch.set_float32_matmul_precision("high")
    assert not device.multiply_by_onednn() and torch.get_float32_matmul_precision() == "high"


def test_a_rounded_product_is_noticed_and_the_permission_taken_back(processor, monkeypatch):
    def rounded(left, right):
        return left.bfloat16().float() @ right.bfloat16().float()

    assert not device._is_exact(rounded)
    processor("AMD EPYC")
    monkeypatch.setattr(torch, "matmul", rounded)
    assert not device.multiply_by_onednn() and torch.get_float32_matmul_precision() == "highest"


def test_autocast_changes_nothing_outside_its_block(monkeypatch):
    seen = []
    real = torch.autocast
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(
        torch, "autocast", lambda device, dtype: seen.append((device, dtype)) or real("cpu", dtype=dtype)
    )
    with autocast("cuda:1"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert seen == [("cuda", torch.bfloat16)]
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("gpu", "capability", "half"),
    [
        ("T4", (7, 5), torch.float16),
        ("V100", (7, 0), torch.float16),
        ("A100", (8, 0), torch.bfloat16),
        ("L4", (8, 9), torch.bfloat16),
        ("P100", (6, 0), None),
    ],
)
def test_a_gpu_computes_in_the_half_precision_that_it_has(monkeypatch, gpu, capability, half):
    monkeypatch.delenv(device.PRECISION, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # what torch says of a T4
    assert device.half_precision("cuda:0") == half
    assert device.half_precision("cpu") is None and device.half_precision("mps") is None
    monkeypatch.setenv(device.PRECISION, "float32")
    assert device.half_precision("cuda") is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_recognised(error, full):
    assert is_out_of_memory(error) is full


def test_batches_halve_when_memory_is_full_and_nothing_is_lost():
    asked = []

    def run(start, stop):
        asked.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(start, stop))

    with pytest.warns(MemoryWarning) as caught:
        parts = list(in_batches(run, 10, 12, "clicks"))
    assert "going on with 2 clicks at a time" in str(caught[-1].message)
    assert [item for part in parts for item in part] == list(range(10))
    assert asked == [10, 5, 2, 2, 2, 2, 2]


def test_a_single_item_that_does_not_fit_and_other_errors_pass_through():
    def full(start, stop):
        raise torch.OutOfMemoryError("out of memory")

    def wrong(start, stop):
        raise ValueError("wrong")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(full, 3, 1))
    with pytest.raises(ValueError, match="wrong"):
        list(in_batches(wrong, 3, 2))
    assert list(in_batches(full, 0, 4)) == []


def test_releasing_memory_is_harmless_without_an_accelerator():
    device.release_memory()


def test_a_precision_that_cannot_be_had_is_one_clear_error(monkeypatch):
    monkeypatch.delenv(device.PRECISION, raising=False)
    assert device.choose_precision("cpu") == "auto"
    with pytest.raises(NbHelpersError, match="unknown precision"):
        device.choose_precision("cpu", "half")
    monkeypatch.setenv(device.PRECISION, "fp8")
    with pytest.raises(NbHelpersError, match="fp8"):
        device.choose_precision("cpu")
    monkeypatch.setenv(device.PRECISION, "bfloat16")
    monkeypatch.setattr(device, "has_bfloat16", lambda name: False)
    with pytest.raises(NbHelpersError, match="does not multiply bfloat16"):
        device.choose_precision("cpu")
    assert device.choose_precision("cpu", "float32") == "float32"


def test_a_processor_computes_in_bfloat16_only_if_it_is_chosen(monkeypatch):
    monkeypatch.delenv(device.PRECISION, raising=False)
    monkeypatch.setattr(device, "has_bfloat16", lambda name: True)
    matrix = torch.ones(2, 2)
    with autocast("cpu"):
        assert (matrix @ matrix).dtype == torch.float32
    with autocast("cpu", "bfloat16"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    monkeypatch.setenv(device.PRECISION, "bfloat16")
    with autocast("cpu"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.parametrize("present", [(), ("avx512_bf16",), ("amx_tile",)])
def test_bfloat16_needs_instructions_for_it(monkeypatch, present):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in present, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: (7, 5))
    assert device.has_bfloat16("cpu") == bool(present)
    assert not device.has_bfloat16("cuda")  # a T4 emulates it
