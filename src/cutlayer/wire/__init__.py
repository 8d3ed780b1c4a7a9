"""What crosses the cut: tokens, bits and frames."""
