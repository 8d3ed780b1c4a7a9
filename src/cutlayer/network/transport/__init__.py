"""The real network below the training: who is who, and frames of bytes between them."""

import os

# gRPC reads these once, when it is first imported. Its Python API cannot ask for TLS 1.3; but with
# only RSA suites left for TLS 1.2, our ECDSA certificates have none to agree on below TLS 1.3.
os.environ.setdefault(
    "GRPC_SSL_CIPHER_SUITES",
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305",
)
# One line on standard error for each handshake that fails would be anybody's to write.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
