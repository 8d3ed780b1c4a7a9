"""Sums of the devices' numbers of which the server learns nothing but the sum.

The protocol of Bonawitz et al. 2017 (ACM CCS, "Practical Secure Aggregation"), figure 4 without
its round 3, for a server that is curious but does what it says. messages.py: what is asked and
answered, in four steps; device.py and server.py: the two sides; shamir.py: secrets shared so that
enough devices can restore them; masks.py: keys and streams of random numbers (of the package
`cryptography`); fixed_point.py: numbers as integers whose sum is exact.
"""
