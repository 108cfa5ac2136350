"""Adapters of pretrained networks to the protocols, one file or folder per network family."""
