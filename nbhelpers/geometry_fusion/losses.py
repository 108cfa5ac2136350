"""The losses that SAM 2 was trained with: focal, dice, IoU and occlusion.

Ravi et al. 2024, arXiv 2408.00714, appendix D; the numbers are those of ``training/loss_fns.py`` in sam2 1.1.0
(``MultiStepMultiMasksAndIous`` with L1 for the IoU, object scores without focal weighting), which needs packages that
are not needed for anything else here.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

WEIGHTS = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "occlusion": 1.0}
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


@dataclass(frozen=True, eq=False)
class FrameOutput:
    """What a model says of ``n`` objects on one frame.

    Attributes:
        masks: ``(n, m, h, w)`` logits of ``m`` candidates.
        ious: ``(n, m)``, the IoU that is predicted for each.
        presence: ``(n, 1)``, logit of the object being in sight.
    """

    masks: Float[Tensor, "n m h w"]
    ious: Float[Tensor, "n m"]
    presence: Float[Tensor, "n 1"]


def frame_losses(output: FrameOutput, target: Bool[Tensor, "n h w"]) -> dict[str, Tensor]:
    """The four losses of a frame, each divided by the number of objects, and their weighted sum ``total``.

    Focal, dice and IoU losses count for the candidate with the smallest sum of the first two, and where the object is
    in sight.

    Args:
        output: of the model.
        target: true masks.
    """
    count = max(len(target), 1)
    truth = target[:, None].float().expand_as(output.masks)
    present = target.flatten(1).any(1, keepdim=True).float()
    focal = focal_loss(output.masks, truth).flatten(2).mean(2) / count
    probability = output.masks.sigmoid().flatten(2)
    shared = 2 * (probability * truth.flatten(2)).sum(2)
    dice = (1 - (shared + 1) / (probability.sum(2) + truth.flatten(2).sum(2) + 1)) / count
    inside = output.masks > 0
    both, either = ((inside & (truth > 0)).flatten(2).sum(2), (inside | (truth > 0)).flatten(2).sum(2))
    iou = (output.ious - both / either.clamp(min=1)).abs() / count
    best = (WEIGHTS["focal"] * focal + WEIGHTS["dice"] * dice).argmin(1, keepdim=True)
    losses = {
        name: (values.gather(1, best) * present).sum()
        for name, values in (("focal", focal), ("dice", dice), ("iou", iou))
    }
    losses["occlusion"] = functional.binary_cross_entropy_with_logits(output.presence, present)
    losses["total"] = sum(WEIGHTS[name] * value for name, value in losses.items())
    return losses


def focal_loss(logits: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Focal loss of each pixel (Lin et al. 2017, arXiv 1708.02002)."""
    probability = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = probability * truth + (1 - probability) * (1 - truth)
    balance = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    return balance * entropy * (1 - right) ** FOCAL_GAMMA
