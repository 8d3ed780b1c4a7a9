"""Uses of a finished run: its model is tested, asked about new samples, or exported.

trained.py reads the model of a run back; evaluate_run.py, predict.py, generate.py, export_run.py
and export_device.py are the verbs.
"""
