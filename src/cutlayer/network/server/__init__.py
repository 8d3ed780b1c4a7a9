"""The edge server of a network run.

serve.py opens it. connected_devices.py lets devices in and decides that one is lost:
`ConnectedDevices.each` disconnects one that does not answer in time, whose connection broke, or
that breaks the protocol. handout.py sends a connected_device.py its task and files, reception.py
hears what it says, presence.py knows who is ready and who left, roster.py who has which number.
arrivals.py waits for the devices of a round, remote_link.py asks them, notes why one was lost
(`RemoteLink.faults`), and lets go of those whose frames train/round.py refuses (`reject`);
remote_fleet.py goes from round to round. timeouts.py has all waits of a run. claims.py checks what
devices say of themselves, measured_world.py plans by what they measured, light_offers.py has the
programs of devices without torch, logged_progress.py writes the log and the metrics.
"""
