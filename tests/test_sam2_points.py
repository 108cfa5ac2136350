"""The decoder for many clicks against the sam2 package's own, on a random network of the real architecture."""

import numpy as np
import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer

from nbhelpers.models.sam2 import PointDecoder


def tiny_model(pred_obj_scores: bool, dim: int = 32, grid: int = 8, depth: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.sam_prompt_encoder = PromptEncoder(dim, (grid, grid), (grid * 16, grid * 16), mask_in_chans=16)
    model.sam_mask_decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(depth=depth, embedding_dim=dim, num_heads=4, mlp_dim=64),
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=pred_obj_scores,
        pred_obj_scores_mlp=pred_obj_scores,
    )
    for parameter in model.parameters():  # fresh biases and norms are 0 and 1, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def upstream(model, image, finer, coordinates):
    sparse, dense = model.sam_prompt_encoder(
        points=(coordinates[:, None], torch.ones(len(coordinates), 1)), boxes=None, masks=None
    )
    return model.sam_mask_decoder(
        image_embeddings=image,
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        repeat_image=True,
        high_res_features=finer,
    )[:2]


@pytest.mark.parametrize("pred_obj_scores", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_equals_the_decoder_of_sam2(pred_obj_scores, depth, count):
    model = tiny_model(pred_obj_scores, depth=depth)
    dim, grid = 32, 8
    image = torch.randn(1, dim, grid, grid)
    finer = [torch.randn(1, dim // 8, grid * 4, grid * 4), torch.randn(1, dim // 4, grid * 2, grid * 2)]
    coordinates = torch.rand(count, 2) * grid * 16
    with torch.inference_mode():
        masks, ious = upstream(model, image, finer, coordinates)
        logits, scores = PointDecoder(model, image, finer)(coordinates)
        every, guesses = PointDecoder(model, image, finer).candidates(coordinates)
    torch.testing.assert_close(guesses, ious, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(every, masks, atol=1e-4, rtol=1e-4)
    best = ious.argmax(1)
    torch.testing.assert_close(scores, ious.max(1).values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, masks[torch.arange(count), best], atol=1e-4, rtol=1e-4)
    assert np.ptp(logits.numpy()) > 0.1  # not constant: the comparison above means something


def test_clicks_of_a_batch_do_not_touch_each_other():
    model = tiny_model(True)
    image = torch.randn(1, 32, 8, 8)
    finer = [torch.randn(1, 4, 32, 32), torch.randn(1, 8, 16, 16)]
    coordinates = torch.rand(4, 2) * 128
    with torch.inference_mode():
        decoder = PointDecoder(model, image, finer)
        together, _ = decoder(coordinates)
        alone = torch.cat([decoder(coordinates[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
