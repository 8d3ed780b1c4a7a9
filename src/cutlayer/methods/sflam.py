"""SFLAM: cut at the embedding, quantised activations, bits and radio set together (2504.09114).

Bits, power and bandwidth minimise a weighted sum of latency and energy under a budget on the
quantisation error. With LoRA an embedding has nothing to train and nothing returns; `train: full`
trains every weight on both sides, as the authors' public code does, with one server part that
all devices share.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method, Quantizer

_BITS = Quantizer(bits=8, per="tensor", rounding="stochastic")

METHOD = Method(
    name="sflam",
    cut=0,
    server_adapter="shared",
    uplink=_BITS,
    downlink=_BITS,
    allocation=Allocation(solver="sflam"),
)
