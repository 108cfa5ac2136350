"""Click a product once, find that very product in every other photo."""
