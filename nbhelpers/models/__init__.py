"""Floor 3: one file per network family, behind the protocols."""
