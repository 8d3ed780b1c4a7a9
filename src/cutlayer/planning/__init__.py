"""Who takes part in a round with what, before and beside the training.

decide.py calls the job's allocator for a round, plan.py does so without training, virtual_clock.py
and round_timing.py time a round in the job's world. known/ is what an allocator is told,
allocators/ puts jobs into the solvers of cutlayer.allocate, calibration/ measures what survives
each cut.
"""
