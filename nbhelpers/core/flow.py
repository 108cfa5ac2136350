"""Dense optical flow between frames, and masks warped by it.

Source: dense inverse search, Kroeger et al. 2016, arXiv 1603.03590; OpenCV's ``DISOpticalFlow``.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8


def optical_flow(
    here: UInt8[np.ndarray, "h w"], there: UInt8[np.ndarray, "h w"], fast: bool = False
) -> Float32[np.ndarray, "h w 2"]:
    """Displacement ``(dx, dy)`` of each pixel from one greyscale image to the other, in pixels.

    Args:
        here: the image that the flow starts from.
        there: the other one, of the same size.
        fast: the preset for real time, less exact.
    """
    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    return cv2.DISOpticalFlow.create(preset).calc(here, there, None)  # pyright: ignore - the stubs want a flow to begin with


def resize_flow(flow: Float32[np.ndarray, "h w 2"], size: tuple[int, int]) -> Float32[np.ndarray, "H W 2"]:
    """The flow between larger or smaller copies of the images, of ``(H, W)`` pixels."""
    if flow.shape[:2] == size:
        return flow
    scale = np.array(size[::-1], np.float32) / flow.shape[1::-1]
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR) * scale


def warp_mask(
    mask: Bool[np.ndarray, "h w"], flow: Float32[np.ndarray, "h w 2"], border: int = cv2.BORDER_CONSTANT
) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel a mask of the other image covers, 0 to 1, warped to the image that the flow starts from.

    Args:
        mask: of the other image.
        flow: see `optical_flow`.
        border: what is outside of it, one of OpenCV's constants; nothing by default.
    """
    rows, columns = np.indices(mask.shape, np.float32)
    at = columns + flow[..., 0], rows + flow[..., 1]
    return cv2.remap(mask.astype(np.float32), *at, cv2.INTER_LINEAR, borderMode=border)
