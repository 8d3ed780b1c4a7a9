"""The edge server of a network run.

serve.py opens it. connected_devices.py accepts devices and decides that one is lost:
`ConnectedDevices.each` disconnects a device that does not answer in time, whose connection broke,
or that breaks the protocol. handout.py sends a connected_device.py its task and files, reception.py
handles its messages, presence.py knows which devices are ready and which left, roster.py keeps
their numbers. arrivals.py waits for the devices of a round. remote_link.py asks them, notes why one
was lost (`RemoteLink.faults`), and disconnects those whose frames train/round.py refuses
(`reject`). remote_fleet.py goes from round to round. timeouts.py has all waits of a run. claims.py
checks what devices say of themselves, measured_world.py plans with their measurements,
light_offers.py has the programs of devices without torch, logged_progress.py writes the log and the
metrics.
"""
