"""SAM 2's video predictor with lazy decoding and persistent corrections."""

from nbhelpers.models.sam2_video.tracker import Sam2Tracker, build, build_video_network

__all__ = ["Sam2Tracker", "build", "build_video_network"]
