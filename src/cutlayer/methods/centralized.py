"""All data in one place, one model, no cut: the reference every other method is held against.

Each round trains on as many samples as a cohort of the same job would hold, drawn from the pool
of all devices without replacement, so that rounds of all methods cost the same training.
"""

from cutlayer.settings.method import Method

METHOD = Method(name="centralized", split=False, pooled=True, aggregate="none")
