"""The edge server of a network run."""
