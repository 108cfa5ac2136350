"""Successors of SAM 2 that keep its prompts, mask decoder and memory: EdgeTAM, SAM 3's tracker; by ``transformers``."""

from nbhelpers.models.sam_variants.segmenter import VariantSegmenter, build_segmenter
from nbhelpers.models.sam_variants.tracker import VariantTracker, build_tracker

__all__ = ["VariantSegmenter", "VariantTracker", "build_segmenter", "build_tracker"]
