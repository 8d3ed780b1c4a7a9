"""A pretrained transformer, cut in two."""
