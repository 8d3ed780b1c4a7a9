"""Trains and evaluates generators of images.

train.py trains our own diffusion model, evaluate.py and scores.py evaluate any generator, and
settings.py reads the words of the command line. The model itself is in data/diffusion.py.
"""
