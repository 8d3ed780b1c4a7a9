"""A device of a network run."""
