"""What a finished run is used for: its model is tested, asked about new samples, or exported.

trained.py reads the model of a run back; evaluate_run.py, predict.py, generate.py and export_run.py
are the verbs.
"""
