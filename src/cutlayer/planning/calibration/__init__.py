"""How much of a model's quality survives each cut, measured once and cached.

calibrate.py chooses what is measured, cut_survey.py measures it (linear_head.py gives an untrained
model predictions), survey_result.py is what it finds, record.py keeps it with what was measured
(record_file.py: its file),
statistics.py is what allocators read of it, view.py shows it on the command line.
"""
