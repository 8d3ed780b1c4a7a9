"""Samples, and who holds which.

sources.py reads what a job names (images.py, tables.py, rows.py), partition.py divides it among the
devices; device_data.py is what one device has, unlabelled.py what a model is asked about.
generate.py draws images (diffusion.py, pipelines.py, drawing.py).
"""
