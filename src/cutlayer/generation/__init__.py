"""Generators of images: trained, judged, and named on the command line.

train.py trains our own diffusion model, evaluate.py and scores.py judge one, settings.py reads the
command line's words. The model itself is data/diffusion.py, which draws for a run too.
"""
