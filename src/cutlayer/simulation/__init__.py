"""Every device and the server in one process."""
