"""Ours: the fewest bytes: frozen devices send each sample once, coded by a basis fitted to them.

Devices run their blocks forward only. Activations go through a fitted transform and an entropy
coder at half a bit a value (codec `klt`), and are named, not sent, at every later visit. One
adapter after the cut is moved by the mean gradient of a step. Nothing returns but the basis, once,
and which samples the server holds. With a tail on devices (`model.tail`) hidden states come down
and their gradients go up at every visit, in rotated 4 bits.
"""

from cutlayer.settings.method import Method, Quantizer

_ROTATED = Quantizer(bits=4, levels="gaussian", rotate=True)

METHOD = Method(
    name="lean",
    device="frozen",
    server_adapter="shared",
    uplink=Quantizer(codec="klt", rate_bits=0.5, reuse=True),
    tail_downlink=_ROTATED,
    tail_uplink=_ROTATED,
)
