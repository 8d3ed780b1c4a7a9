"""Generators of images: trained, judged, and named on the command line."""
