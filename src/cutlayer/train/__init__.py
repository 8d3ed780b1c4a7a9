"""The training loop: device, server, one round.

round.py is the loop; it walks the exchanges of exchange.py over a link (link.py: of messages, not
of radio). device.py and pool.py are the devices' side; server.py, server_part.py and
server_adapters.py the server's. task.py has targets, loss and metric. The adapters of
devices of one cut train as rows of one stack (trained_stack.py), which optimizer.py and schedule.py
move; upload.py, aggregate.py (`average_by_samples`) and server_optimizer.py make the
next global adapter. check.py refuses jobs that cannot run; parts.py loads what a run needs.
"""
