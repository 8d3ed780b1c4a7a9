"""ASFL: the faster a vehicle's link, the earlier its cut (arXiv 2406.15804).

Different cuts stand side by side in one round: every vehicle's part is joined with its server
part, and whole adapters are averaged.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method, Quantizer

_PLAIN = Quantizer(bits=32, entropy="none")

METHOD = Method(name="asfl", uplink=_PLAIN, downlink=_PLAIN, allocation=Allocation(solver="asfl"))
