"""A device of a network run.

join.py connects and takes part, with a participant.py of one of two kinds: torch_participant.py,
for which device_requests.py does what the server asks, or light_participant.py, which runs programs
without torch. machine.py says what the device can compute.
"""
