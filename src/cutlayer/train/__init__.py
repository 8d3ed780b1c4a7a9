"""The training loop: device, server, one round.

round.py is the loop. It sends the exchanges of exchange.py over a link (link.py: how the server
reaches its devices; no radio link) and takes devices that fail out of the round. device.py, pool.py
(with pool_inputs.py and pool_moves.py) and shortened.py are the devices' side; server.py,
server_part.py (with server_reading.py) and server_adapters.py the server's. pool_size.py says how
many devices share a pass. Where samples go up as changes, change_coding.py and server_changes.py
are the server's, device_changes.py the devices' and change_buffers.py what both hold. Where a
model's last blocks are on devices, pool_tail.py and server_middle.py do what is more. Codecs are
fitted by fitted_basis.py (activations), change_coding.py (changes) and way_coding.py (what else
crosses: ways.py); coding.py is the devices' side.
The adapters of devices of one cut train as rows of one stack (trained_stack.py), which optimizer.py
and schedule.py move. On its way into the next global adapter an adapter passes adapter_upload.py
(clipping), upload_checks.py (is it sound?), `_weight` in round.py and aggregate.py (samples become
a weight), and server_optimizer.py. task.py has targets, loss and metric; evaluate.py runs a model
on test data and accuracy.py computes the figures. check.py refuses jobs that cannot
run, and settings without effect (unread.py, by the table of settings_read.py and the conditions of
read_conditions.py); parts.py loads what a run needs.
"""
