"""The rounds of a run, wherever its devices are: trained, measured, committed one by one.

loop.py is the one loop; it knows devices only as a `Fleet`, which is local_fleet.py in a simulation
(sharded_fleet.py over ranks) and remote_fleet.py over a network. run_folder.py begins a run's
folder or reads it back, so that `--resume` goes from `resume` (simulation/simulate.py) through
`saved_run` here to `run_rounds` in loop.py. measure_round.py evaluates and makes the round's
record, generated.py adds generated data, progress.py tells a console how a run goes on, result.py
is what a finished run returns, run_stages.py when its stages happened, sent_samples.py keeps the
server's cache of samples in the run folder.
"""
