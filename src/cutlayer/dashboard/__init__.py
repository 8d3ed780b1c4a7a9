"""Runs in a browser while they go on: a local, read-only web app over run folders."""
