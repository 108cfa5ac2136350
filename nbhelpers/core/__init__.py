"""Floor 1: plain values and array functions; imports nothing else of this package."""
