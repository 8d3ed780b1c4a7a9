"""How much of a model's quality survives each cut, measured once and cached.

calibrate.py chooses what is measured, cut_survey.py measures it (linear_head.py gives an untrained
model predictions), record.py keeps it, statistics.py is what allocators read of it, view.py shows
it on the command line.
"""
