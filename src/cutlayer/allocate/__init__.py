"""Who takes part in a round, and with which cut, tokens, bits, bandwidth and power."""
