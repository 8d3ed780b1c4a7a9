"""The training loop: device, server, one round."""
