"""All devices simulated, in one process or over those that `torchrun` starts.

simulate.py runs a job or resumes it (`resume`, for `--resume`), compare.py runs several side by
side (demo.py is `cutlayer demo`), local_fleet.py makes the devices. The rounds themselves are those
of rounds/loop.py, as over a network. comparison.py is what a comparison tells of its lines
(lines.py): budgets and targets are in protocols.py, devices that drop out in drop_outs.py.
workers.py runs whole runs in processes, spread_runs.py over ranks. ranks.py joins the ranks of
torchrun, which send each other parcels (parcel.py); sharded_fleet.py has them train their part of
each round, which shards.py chooses.
"""
