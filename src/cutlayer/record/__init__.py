"""What a run writes down and how it is read back: rows, checkpoints, names of files."""
