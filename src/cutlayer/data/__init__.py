"""Samples, and who holds which."""
