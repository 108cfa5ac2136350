"""Benchmarks whose numbers carry their protocol: words, clicks, clips, views and products on published datasets.

>>> from nbhelpers.benchmarks import OpenVocabulary, run_benchmark, vocabulary_protocol
>>> benchmark = OpenVocabulary("data/VOC2012", vocabulary_protocol("pascal-voc", "sclip"))
>>> run_benchmark(benchmark, "outputs/voc21", num_samples=10)["scores"]["miou"]

The names below are loaded when they are first used.
"""

from nbhelpers.core.lazy import lazily

_HOME_OF = {
    "CameraRecovery": "nbhelpers.benchmarks.views",
    "Clicks": "nbhelpers.benchmarks.interactive",
    "FusionComparison": "nbhelpers.benchmarks.fusion",
    "OpenVocabulary": "nbhelpers.benchmarks.open_vocabulary",
    "ProductPhotos": "nbhelpers.benchmarks.products",
    "SceneViews": "nbhelpers.benchmarks.views",
    "SpatialPhrases": "nbhelpers.benchmarks.views",
    "VideoObjects": "nbhelpers.benchmarks.video",
    "WordMasks": "nbhelpers.benchmarks.words",
    "published_numbers": "nbhelpers.benchmarks.protocols",
    "run_benchmark": "nbhelpers.benchmarks.runner",
    "vocabulary_protocol": "nbhelpers.benchmarks.protocols",
    "write_report": "nbhelpers.benchmarks.report",
}

__all__ = list(_HOME_OF)

__getattr__, __dir__ = lazily(__name__, _HOME_OF)
