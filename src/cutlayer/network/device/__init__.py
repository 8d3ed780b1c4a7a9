"""A device of a network run.

join.py connects and takes part; device_requests.py does what the server asks; machine.py says what
the device can compute.
"""
