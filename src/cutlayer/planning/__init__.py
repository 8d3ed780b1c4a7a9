"""Who takes part in a round with what, before and beside the training."""
