"""Our SAM 2 against the library's second implementation, `Sam2Model` and `Sam2VideoModel`, on equal weights.

On pictures of the network's own size, where nothing is resized, the two are equal up to rounding. On others they are
not: the ``sam2`` package scales photos in float32 and frames bicubically by Pillow, ``transformers`` both in whole
numbers and bilinearly.
"""

import re

import cv2
import numpy as np
import pytest
import torch
import transformers
from test_sam2_video import CONFIGS, SMALL

from nbhelpers.core.prompts import Prompt
from nbhelpers.models.sam2 import Sam2Segmenter, build_image_network
from nbhelpers.models.sam2_video import Sam2Tracker, build_video_network
from nbhelpers.models.sam_variants import VariantSegmenter, VariantTracker

SIDE = 128
HIERA = {
    "embed_dim_per_stage": [24, 48, 96, 192],
    "blocks_per_stage": [1, 1, 2, 1],
    "global_attention_blocks": [3],
    "hidden_size": 24,
    "image_size": [SIDE, SIDE],
}
VISION = {
    "model_type": "sam2_vision_model",
    "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
    "backbone_channel_list": [192, 96, 48, 24],
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}
PROMPTS = [Prompt([(50, 60)]), Prompt([(50, 60), (100, 20)], [1, 0]), Prompt(box=(30, 35, 75, 85))]
HEADS = r"(output_hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head|obj_ptr_proj)"
NAMES = [  # of the sam2 package -> of transformers, in this order
    (rf"{HEADS}\.layers\.0\.", r"\1.proj_in."),
    (rf"{HEADS}\.layers\.1\.", r"\1.layers.0."),
    (rf"{HEADS}\.layers\.2\.", r"\1.proj_out."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", "prompt_encoder.shared_embedding.positional_embedding"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"\.out_proj\.(weight|bias)$", r".o_proj.\1"),
    (r"^memory_encoder\.o_proj\.", "memory_encoder.projection."),
    (r"pix_feat_proj", "feature_projection"),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"\.fuser\.", ".memory_fuser."),
    (r"\.gamma$", ".scale"),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
]  # fmt: skip


def translated(state):
    """The weights of the sam2 package under the names of transformers."""
    out, points = {}, {}
    for key, value in state.items():
        if found := re.match(r"sam_prompt_encoder\.point_embeddings\.(\d)\.weight", key):
            points[int(found[1])] = value
            continue
        if found := re.match(r"(memory_encoder\.mask_downsampler)\.encoder\.(\d+)\.(.*)", key):
            layer, part = divmod(int(found[2]), 3)
            if layer < 4:
                key = f"{found[1]}.layers.{layer}.{('conv', 'layer_norm')[part]}.{found[3]}"
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        out[key] = value
    out["prompt_encoder.point_embed.weight"] = torch.cat([points[number] for number in range(4)])
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"]
    return out


def filled(network, state):
    """The library's network with the same weights; ``missing`` may only be what a photo does not need."""
    missing, unexpected = network.load_state_dict(translated(state), strict=False)
    assert all("pred_obj_score_head" in name or "obj_score_token" in name for name in missing), missing
    assert all(name.startswith(("memory_", "mask_downsample", "object_pointer", "temporal", "no_memory_p", "no_object",
                                "occlusion")) for name in unexpected), unexpected  # fmt: skip
    return network.eval()


def picture(index=0):
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.stack([90 + rows // 2, 140 + columns // 8, 110 + (rows + columns) // 8], 2).astype(np.uint8)
    image[(columns - 50 - 3 * index) ** 2 + (rows - 60) ** 2 <= 20**2] = (210, 40, 30)
    return image


class Clip:
    size = (SIDE, SIDE)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return picture(index)


def assert_close(ours, theirs, tolerance=2e-4):
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(ours).max()


def test_photos_give_the_same_masks():
    torch.manual_seed(0)
    model = build_image_network(CONFIGS["2.1"], *[change for change in SMALL if "memory" not in change])
    config = transformers.Sam2Config(vision_config=VISION, prompt_encoder_config={"image_size": SIDE})
    network = filled(transformers.Sam2Model(config), model.state_dict())
    ours = Sam2Segmenter(model, "ours", "cpu")
    theirs = VariantSegmenter(network, transformers.Sam2ImageProcessor(), "theirs", "cpu")
    one, other = ours.encode(picture()), theirs.encode(picture())
    for level in range(3):
        np.testing.assert_allclose(ours.features(one, level), theirs.features(other, level), atol=1e-4)
    for prompt in PROMPTS:
        mine, yours = ours.predict(one, prompt), theirs.predict(other, prompt)
        assert_close(mine.logits, yours.logits)
        np.testing.assert_allclose(mine.scores, yours.scores, atol=1e-5)
        assert mine.choice == yours.choice and (mine.best == yours.best).mean() > 0.999
    points = np.array([(20, 30), (50, 60), (100, 90)], np.float32)
    mine, yours = ours.predict_points(one, points), theirs.predict_points(other, points)
    assert_close(mine.logits, yours.logits)


def test_clips_give_the_same_masks_with_a_correction_too():
    torch.manual_seed(0)
    model = build_video_network(CONFIGS["2.1"], *SMALL)
    config = transformers.Sam2VideoConfig(
        vision_config=VISION,
        prompt_encoder_config={"image_size": SIDE},
        image_size=SIDE,
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[8, 8],
    )
    network = filled(transformers.Sam2VideoModel(config), model.state_dict())
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(20)  # else gone at random
    network.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(20)
    ours = Sam2Tracker(model, "ours", "cpu")
    theirs = VariantTracker(network, transformers.Sam2ImageProcessor(), "theirs", "cpu")
    states = ours.open(Clip()), theirs.open(Clip())

    def follow(start, stop):
        pairs = zip(ours.propagate(states[0], start, stop), theirs.propagate(states[1], start, stop), strict=True)
        for mine, yours in pairs:
            one, other = mine.predictions[1], yours.predictions[1]
            assert_close(one.logits, other.logits, 5e-3)  # memories are kept in bfloat16
            assert one.scores[0] == pytest.approx(other.scores[0], abs=1e-3) and mine.gone == yours.gone

    for tracker, state in zip((ours, theirs), states, strict=True):
        tracker.add(state, 0, 1, PROMPTS[0])
    follow(0, 7)
    corrected = [
        tracker.add(state, 4, 1, Prompt([(20, 20)], [0])) for tracker, state in zip((ours, theirs), states, strict=True)
    ]
    assert_close(corrected[0].logits, corrected[1].logits, 5e-3)
    follow(4, 7)
    follow(4, 0)


@pytest.mark.weights
def test_the_lite_weights_give_the_same_masks():
    from nbhelpers import load, load_image, sample

    ours = load("segmenter", "sam2-hiera-tiny-lite", device="cpu")
    backbone = {"blocks_per_stage": [1, 2, 7, 2], "global_attention_blocks": [5, 7, 9]}
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", **backbone}, "model_type": "sam2_vision_model"}
    network = filled(transformers.Sam2Model(transformers.Sam2Config(vision_config=vision)), ours.model.state_dict())
    theirs = VariantSegmenter(network, transformers.Sam2ImageProcessor(), "theirs", "cpu")
    square = cv2.resize(load_image(sample("coffee.png")), (1024, 1024))
    one, other = ours.encode(square), theirs.encode(square)
    for prompt in (Prompt([(500, 500)]), Prompt(box=(250, 150, 850, 850))):
        mine, yours = ours.predict(one, prompt), theirs.predict(other, prompt)
        assert mine.choice == yours.choice and (mine.best == yours.best).mean() > 0.9999
