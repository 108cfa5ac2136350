"""What the adapters of torch networks share: precision, overflow of half precision, and embeddings kept on disk."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_label_propagation import ColourSegmenter

from nbhelpers.core import device
from nbhelpers.core.device import PrecisionWarning
from nbhelpers.core.prompts import Prompt
from nbhelpers.models import adapters
from nbhelpers.models.adapters import CachedSegmenter
from nbhelpers.models.protocols import FeatureSegmenter
from nbhelpers.models.values import Embedding


@pytest.fixture
def adapter(monkeypatch):
    monkeypatch.delenv(device.PRECISION, raising=False)
    monkeypatch.setattr(device, "has_bfloat16", lambda name: True)
    return SimpleNamespace(name="tiny", device="cpu", model=torch.nn.Linear(4, 4), precision=None)


def dtype_of(adapter, **options):
    return adapters.in_precision(adapter, lambda: adapter.model(torch.ones(1, 4)), **options).dtype


def test_the_precision_is_that_of_the_call_then_the_adapter_then_the_environment(adapter, monkeypatch):
    assert dtype_of(adapter) == torch.float32
    monkeypatch.setenv(device.PRECISION, "bfloat16")
    assert dtype_of(adapter) == torch.bfloat16
    adapter.precision = "float32"
    assert dtype_of(adapter) == torch.float32
    assert dtype_of(adapter, precision="bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda values: values,
        lambda values: (values, 3),
        lambda values: {"found": [values.float().numpy()]},
        lambda values: Embedding((4, 4), "tiny", {"map": values}),
    ],
)
def test_what_overflows_is_computed_again_in_float32(adapter, wrapped):
    adapter.precision, dtypes = "bfloat16", []

    def run():
        values = adapter.model(torch.ones(1, 4))
        dtypes.append(values.dtype)
        return wrapped(values / 0 if values.dtype == torch.bfloat16 else values)

    with pytest.warns(PrecisionWarning, match="tiny computed this step again in float32"):
        adapters.in_precision(adapter, run)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_infinity_in_float32_is_the_networks_own(adapter):
    assert np.isinf(adapters.in_precision(adapter, lambda: torch.tensor([float("inf")])).numpy()).all()


def test_a_copy_in_another_precision_shares_the_network(adapter):
    tracker = SimpleNamespace(name="tracker", device="cpu", segmenter=adapter)
    other = adapters.with_precision(tracker, "bfloat16")
    assert other.segmenter.model is adapter.model
    assert (other.segmenter.precision, adapter.precision) == ("bfloat16", None)


def test_a_cache_knows_the_precision_and_keeps_its_name_in_float32(adapter):
    assert adapters.model_signature(adapter) == "tiny"
    adapter.precision = "bfloat16"
    assert adapters.model_signature(adapter) == "tiny (bfloat16)"
    assert adapters.precision_name(adapter) == "bfloat16"


def test_an_image_is_encoded_once_and_all_get_the_same(tmp_path):
    inner = ColourSegmenter()
    segmenter = CachedSegmenter(inner, tmp_path)
    assert isinstance(segmenter, FeatureSegmenter) and segmenter.name == "colours"
    for member in ("name", "device", "encode", "predict", "predict_points", "features"):
        inspect.getattr_static(segmenter, member)  # how isinstance looks from Python 3.12 on
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    first, second = segmenter.encode(image), segmenter.encode(image.copy())
    assert inner.encoded == 1 and len(list(tmp_path.rglob("*.pt"))) == 1
    assert torch.equal(segmenter.features(first), segmenter.features(second))
    assert torch.allclose(segmenter.features(first), inner.features(inner.encode(image)), atol=1e-3)
    segmenter.encode(image[:, ::-1])
    assert inner.encoded == 3
    assert segmenter.predict(first, Prompt([(4, 4)])).best.shape == (20, 30)
