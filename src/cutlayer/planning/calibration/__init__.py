"""How much of a model's quality survives each cut, measured once and cached."""
