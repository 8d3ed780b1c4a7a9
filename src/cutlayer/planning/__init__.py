"""Decides who takes part in a round, with which cut, tokens, bits, bandwidth and power.

decide.py calls the job's allocator for a round and check_decisions.py checks its answer; plan.py
does so without training (plan_sweep.py: for many values of a setting). virtual_clock.py and
round_timing.py time a round in the job's world. known/ is what an allocator is told. allocators/
turns jobs into problems for the solvers of cutlayer.allocate. calibration/ measures how many
predictions survive each cut.
"""
