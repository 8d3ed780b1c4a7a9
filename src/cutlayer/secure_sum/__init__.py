"""Sums of numbers of devices, of which the server learns only the sum.

The protocol of Bonawitz et al. 2017 (ACM CCS, "Practical Secure Aggregation"), figure 4 without
its round 3, for a server that is curious but follows the protocol. messages.py: the questions and
answers of its four steps; device.py and server.py: the two sides; shamir.py: secrets that enough
devices together can restore; masks.py: keys and streams of random numbers (by the package
`cryptography`); fixed_point.py: numbers as integers whose sum is exact.
"""
