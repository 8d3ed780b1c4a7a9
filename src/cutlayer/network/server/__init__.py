"""The edge server of a network run.

serve.py opens it. connected_devices.py knows who is connected and decides that a device is lost: it
did not answer in time, its connection broke, or it sent what is not allowed. remote_fleet.py asks
the devices of a round, measured_world.py plans by what they measured, roster.py remembers them.
"""
