"""A device of a network run.

join.py connects and takes part, as one of two kinds of participant (participant.py):
torch_participant.py, which trains by device_requests.py, or light_participant.py, which runs
programs without torch. machine.py describes the processor, memory and speed of the device.
"""
