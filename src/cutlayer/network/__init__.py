"""Devices elsewhere: a server that they join, over authenticated connections.

server/ is the edge server, device/ a device, transport/ the connections between them; part_files.py
says which part of the model a device has, and file_transfer.py fetches it. A run over a network
differs from a simulated one in two classes: `RemoteFleet` (server/remote_fleet.py) takes the place
of `LocalFleet` (which devices are there, see rounds/loop.py), and `RemoteLink`
(server/remote_link.py) that of `LocalLink` (how frames reach a device, see train/link.py). The
rounds, the training loop and the frames are the same code. Besides, the server believes devices
only what it can check (server/claims.py), and allocators use measurements
(server/measured_world.py). A device that fails is lost for its round: ConnectedDevices
(server/connected_devices.py) decides this if its connection broke or it was too slow, the training
loop (train/round.py) if it sent something invalid.
"""
