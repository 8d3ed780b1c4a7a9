"""Ours: cut, tokens, bits, bandwidth and power together, at a quality that was measured.

Devices are frozen and send one way, one server adapter is moved by one device's batch after
another's (as in st-sflora), and the least time (or energy, or bytes, by a weight) is spent among
the settings whose measured quality is at least `quality_min`. See allocate/auto.py.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method, Quantizer, Tokens

_BITS = Quantizer(bits=8, levels="gaussian", rotate=True)

METHOD = Method(
    name="auto",
    device="frozen",
    server_adapter="in-turn",
    tokens=Tokens(keep=None, rest="merge"),
    uplink=_BITS,
    downlink=_BITS,
    allocation=Allocation(solver="auto"),
)
