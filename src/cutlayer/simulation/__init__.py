"""Every device and the server in one process.

simulate.py runs a job or resumes it (`resume`, for `--resume`), compare.py runs several side by
side (comparison.py is what comes out), local_fleet.py makes the devices. The rounds themselves are
those of rounds/loop.py, as over a network.
"""
