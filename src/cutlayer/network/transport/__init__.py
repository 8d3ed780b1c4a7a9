"""The real network below the training: authenticated connections that carry frames of bytes.

A connection (connection.py) has a lane for messages and one for frames each way (lane.py, cut into
pieces by chunks.py), within limits.py. messages.py are the messages. listener.py is the server's
end and admission.py whom it lets in, client.py the device's, backoff.py when that tries again.
certificates.py and keys.py make keys, rotation.py replaces their authority, key_files.py reads and
writes their files. identity.py follows one side's files, peers.py checks the other side,
credentials.py hands both to gRPC; address.py reads HOST:PORT.
link_rates.py measures a link, metrics.py counts for Prometheus, event_log.py writes a log.
"""

import os

# gRPC reads these once, when it is first imported. Its Python API cannot require TLS 1.3. But if
# only RSA suites are allowed for TLS 1.2, our ECDSA certificates can only agree on TLS 1.3.
os.environ.setdefault(
    "GRPC_SSL_CIPHER_SUITES",
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305",
)
# Otherwise gRPC writes a line to standard error for each failed handshake, which anybody can cause.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
