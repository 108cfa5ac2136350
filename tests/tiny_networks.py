"""Tiny random checkpoints of the publishers' networks: the real classes, in the real format."""

from __future__ import annotations

import torch
import transformers

PATCH = 4
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def dinov3_vit():
    config = transformers.DINOv3ViTConfig(**TINY, intermediate_size=32, patch_size=PATCH, num_register_tokens=3)
    return transformers.DINOv3ViTModel(config), {"processor": transformers.DINOv3ViTImageProcessor()}


def dinov3_convnext():
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 48], depths=[1, 1, 1, 1])
    return transformers.DINOv3ConvNextModel(config), {"processor": transformers.DINOv3ViTImageProcessor()}


# a row of the catalog for each network that an adapter knows
ROWS = {
    "dinov3-vit-small": dinov3_vit,
    "dinov3-convnext-tiny": dinov3_convnext,
}


def save(row, folder, seed=0):
    """Write the checkpoint of a row as the publisher does; returns the network."""
    torch.manual_seed(seed)
    network, parts = ROWS[row]()
    network = network.eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter += torch.randn_like(parameter) * 0.2
    network.save_pretrained(folder)
    for part in parts.values():
        part.save_pretrained(folder)
    return network
