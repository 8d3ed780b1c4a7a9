"""Who takes part in a round, and with which cut, tokens, bits, bandwidth and power.

Solvers of arrays that know no job, a file for each problem. token_problem.py is ST-SFLora's P0 and
computes STE (`plan_with_costs`); equal.py, st_sflora.py and exact.py solve it. In exact.py
bandwidth has a price (`bandwidth_price` in relaxed.py), what is left of it buys tokens
(`_fill_bandwidth`), and each device gets what its tokens need (`plan_for_time` in
token_problem.py); close_gap.py tries the plans that are left. sflam.py, asfl.py, asfv.py and
genfv.py are the other papers' problems, auto.py and options.py ours. uploads.py splits bandwidth
and power for uploads of known size; radio_math.py has the rates, device_arrays.py the checks of
what is given for each device. planning/allocators/ puts a job into these.
"""
