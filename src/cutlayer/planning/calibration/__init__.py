"""How much of a model's quality survives each cut, measured once and cached.

calibrate.py chooses what is measured and cut_survey.py measures it (linear_head.py gives an
untrained model predictions). survey_result.py holds the tables that are found, record.py stores
them, statistics.py gives allocators what they need of them, view.py shows them on the command line.
"""
