"""The edge server of a network run.

serve.py opens it. connected_devices.py knows which devices are connected and decides that one is
lost: `ConnectedDevices.each` disconnects a device that does not answer in time, whose connection
broke, or that breaks the protocol. remote_fleet.py asks the devices of a round, notes why one was
lost (`RemoteLink.faults`), and disconnects those whose frames train/round.py refuses (`reject`).
claims.py checks what devices say of themselves, measured_world.py plans with their measurements,
roster.py keeps their numbers, light_offers.py has the programs of devices without torch,
logged_progress.py writes the log and the metrics.
"""
