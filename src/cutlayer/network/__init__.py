"""Devices elsewhere: a server that they join, over authenticated connections.

server/ is the edge server, device/ a device, transport/ the connections between them; part_files.py
says which part of the model a device has, and file_transfer.py fetches it. A run over a network
differs from a simulated one in two classes: `RemoteFleet` (server/remote_fleet.py) takes the place
of `LocalFleet` (who is there, see rounds/loop.py), and `RemoteLink` (server/remote_link.py) that of
`LocalLink` (how frames reach a device, see train/link.py). The rounds, the training loop and the
frames are the same code. Besides, devices are only believed what can be checked (server/claims.py),
allocators go by what was measured (server/measured_world.py), and a device that fails is lost for
its round: ConnectedDevices (server/connected_devices.py) decides so where its connection broke or
it was too slow, and the training loop (train/round.py) where it sent what will not do.
"""
