"""The verbs of the command line, a file for each group; console.py is what they share.

Each parses its options, calls one function of the package, and prints what it returns.
training.py: demo, simulate, compare. inference.py: evaluate, predict, export. viewing.py: report,
track, dashboard. planning.py: calibrate, plan. network.py: serve, join. keys.py, generator.py and
world.py: the verbs below those names. names.py: methods, models, data, and settings.py's settings.
"""
