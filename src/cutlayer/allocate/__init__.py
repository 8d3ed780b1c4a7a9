"""Who takes part in a round, and with which cut, tokens, bits, bandwidth and power.

Solvers of arrays that know no job, a file for each problem. token_problem.py is ST-SFLora's P0 and
defines STE; equal.py, st_sflora.py and exact.py (with relaxed.py and close_gap.py) solve it.
sflam.py, asfl.py, asfv.py and genfv.py are the other papers' problems, auto.py and options.py ours.
uploads.py splits bandwidth and power for uploads of known size; radio_math.py has the rates.
planning/allocators/ puts a job into these.
"""
