"""ST-SFLora: frozen devices send few tokens one way, tokens and radio set together (2605.26120).

The device runs its blocks forward only and sends its best tokens in float32; nothing returns. One
server adapter is moved by one device's batch after another's. Each round the paper's alternating
algorithm sets tokens, bandwidth and power for the largest semantic transmission efficiency. The
paper gives no K_min; 16 of 196 is ours.
"""

from cutlayer.settings.allocation import Allocation
from cutlayer.settings.method import Method, Quantizer, Tokens

# The paper sends every sample in every round.
_PLAIN = Quantizer(bits=32, entropy="none", reuse=False)

METHOD = Method(
    name="st-sflora",
    device="frozen",
    server_adapter="in-turn",
    tokens=Tokens(keep=None, rest="merge"),
    uplink=_PLAIN,
    downlink=Quantizer(bits=32, entropy="none"),
    allocation=Allocation(solver="st-sflora", tokens_min=16),
)
