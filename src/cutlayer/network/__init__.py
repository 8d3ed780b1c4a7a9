"""Devices elsewhere: a server that they join, over authenticated connections."""
