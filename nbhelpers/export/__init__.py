"""Floor 3: files that other tools read."""
