"""ASFV: cut, vehicles, bandwidth and power for the least latency (arXiv 2405.18707).

As asfl, but cuts, selection and radio are solved together under energy and stay time.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method, Quantizer

_PLAIN = Quantizer(bits=32, entropy="none")

METHOD = Method(name="asfv", uplink=_PLAIN, downlink=_PLAIN, allocation=Allocation(solver="asfv"))
