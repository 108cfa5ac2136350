"""Tiny random checkpoints of the publishers' networks: the real classes, in the real format."""

from __future__ import annotations

import torch
import transformers
from safetensors.torch import save_file

PATCH = 4
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def dinov3_vit():
    config = transformers.DINOv3ViTConfig(**TINY, intermediate_size=32, patch_size=PATCH, num_register_tokens=3)
    return transformers.DINOv3ViTModel(config), {"processor": transformers.DINOv3ViTImageProcessor()}


def dinov3_convnext():
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 48], depths=[1, 1, 1, 1])
    return transformers.DINOv3ConvNextModel(config), {"processor": transformers.DINOv3ViTImageProcessor()}


SIDE = 64
WIDTH = 128  # twice that of the memory, which is fixed in places
PROMPTS = {"hidden_size": WIDTH, "image_size": SIDE}
DECODER = {"hidden_size": WIDTH, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
MEMORY = {
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_num_layers": 1,
    "memory_encoder_hidden_size": WIDTH,
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": 32,
    "num_maskmem": 3,
    "max_object_pointers_in_encoder": 4,
}


def sizes_of(patch):
    return [[factor * SIDE // patch] * 2 for factor in (4, 2, 1)]


def edgetam():
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 2,
        "model_args": {
            "in_chans": 3,
            "features_only": True,
            "out_indices": [0, 1, 2, 3],
            "embed_dim": [8, 8, 16, 16],
            "depth": [1, 1, 1, 1],
        },
    }
    config = transformers.EdgeTamVideoConfig(
        vision_config=transformers.EdgeTamVisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[16, 16, 8, 8],
            backbone_feature_sizes=sizes_of(16),
            fpn_hidden_size=WIDTH,
        ),
        prompt_encoder_config=PROMPTS,
        mask_decoder_config=DECODER,
        image_size=SIDE,
        **MEMORY,
        memory_attention_mlp_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_attention_rope_k_sizes=[2, 2],
        perceiver_resampler_num_latents=4,
        perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_mlp_intermediate_size=16,
    )
    return transformers.EdgeTamVideoModel(config), {}


def sam3():
    patch = 8
    backbone = {**TINY, "hidden_size": 32, "intermediate_size": 32, "image_size": SIDE, "patch_size": patch}
    backbone |= {
        "model_type": "sam3_vit_model",
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 32,
    }
    vision = {"backbone_config": backbone, "fpn_hidden_size": WIDTH, "backbone_feature_sizes": sizes_of(patch)}
    layers = {"hidden_size": WIDTH, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 300,
        "eos_token_id": 53,
        "hidden_size": 32,
        "intermediate_size": 32,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": {**layers, "num_queries": 6},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {**PROMPTS, "patch_size": patch},
        "mask_decoder_config": DECODER,
        "image_size": SIDE,
        "memory_attention_feed_forward_hidden_size": 32,
        **MEMORY,
    }
    config = transformers.Sam3VideoConfig(detector_config=detector, tracker_config=tracker, low_res_mask_size=32)
    letters = [f"{letter}{end}" for end in ("", "</w>") for letter in "abcdefghijklmnopqrstuvwxyz."]
    vocabulary = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.Sam3VideoModel(config), {"tokenizer": transformers.CLIPTokenizer(vocabulary, merges=[])}


def tipsv2():
    """Its tokenizer knows the letters."""
    letters = [f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + list("▁abcdefghijklmnopqrstuvwxyz.")
    vocabulary = {"<pad>": 0, "<unk>": 1} | {token: number for number, token in enumerate(letters, 2)}
    width = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**width, "vocab_size": len(vocabulary), "intermediate_size": 32, "max_position_embeddings": 64}
    vision = {**width, "patch_size": 14, "image_size": 56, "mlp_ratio": 2}
    config = transformers.Tipsv2Config(text_config=text, vision_config=vision)
    return transformers.Tipsv2Model(config), {"tokenizer": transformers.Tipsv2Tokenizer(vocab=vocabulary, merges=[])}


def vitmatte():
    backbone = {"model_type": "vitdet", **TINY, "hidden_size": 24, "num_channels": 4, "image_size": 64}
    backbone |= {"patch_size": 16, "pretrain_image_size": 64, "window_size": 2, "out_features": ["stage2"]}
    config = transformers.VitMatteConfig(
        backbone_config=backbone,
        hidden_size=24,
        convstream_hidden_sizes=[4, 6, 8],
        fusion_hidden_sizes=[16, 12, 8, 4],
    )
    return transformers.VitMatteForImageMatting(config), {"processor": transformers.VitMatteImageProcessor()}


# a row of the catalog for each network that an adapter knows
ROWS = {
    "dinov3-vit-small": dinov3_vit,
    "dinov3-convnext-tiny": dinov3_convnext,
    "tipsv2-b14": tipsv2,
    "tipsv2-b14-patches": tipsv2,
    "vitmatte-small": vitmatte,
    "edgetam": edgetam,
    "edgetam-video": edgetam,
    "sam3-segmenter": sam3,
    "sam3-video": sam3,
    "sam3": sam3,
    "sam3-detector": sam3,
}


def save(row, folder, seed=0):
    """Write the checkpoint of a row as the publisher does; returns the network."""
    torch.manual_seed(seed)
    network, parts = ROWS[row]()
    network = network.eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += torch.randn_like(parameter) * 0.2
    network.save_pretrained(folder)
    if (
        network.config.model_type == "sam3_video"
    ):  # save_pretrained writes the tracker's prefix twice; the hub's has it once
        save_file({name: value.clone() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    for part in parts.values():
        part.save_pretrained(folder)
    return network
