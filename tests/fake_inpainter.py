"""An inpainter without weights: paints one colour, tinted by the prompt and seed, and remembers what it was asked."""

import numpy as np


class FakeInpainter:
    """Answers with a flat picture; keeps known pixels unless ``drift`` levels are added to them."""

    name, device = "fake", "cpu"

    def __init__(self, side=64, level=100, drift=0, keeps=True):
        self.side, self.level, self.drift, self.keeps = side, level, drift, keeps
        self.asked = []

    def fill(self, image, mask, prompt=None, seed=0, strength=1.0):
        self.asked.append({"image": image.copy(), "mask": mask.copy(), "prompt": prompt, "seed": seed})
        self.asked[-1]["strength"] = strength
        noise = np.random.default_rng(seed).integers(0, 20, image.shape)
        painted = np.clip(self.level + noise + (len(prompt) if prompt else 0), 0, 255)
        out = np.clip(image.astype(int) + self.drift, 0, 255) if self.keeps else painted.copy()
        out[mask] = painted[mask] + self.drift
        return np.clip(out, 0, 255).astype(np.uint8)
