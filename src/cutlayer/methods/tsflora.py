"""TSFLora: sflora with few tokens in few bits across the cut (arXiv 2605.23988).

Attention-guided token selection, merging of the tokens left out, and low-bit activations. The
settings are the paper's practical point: 40 tokens kept and 8 bits, a uniform quantiser over the
tensor's range with stochastic rounding. Gradients come back in the compressed shape, at the same
number of bits.
"""

from cutlayer.settings.method import Method, Quantizer, Tokens

_EIGHT_BITS = Quantizer(bits=8, per="tensor", rounding="stochastic")

METHOD = Method(
    name="tsflora",
    tokens=Tokens(keep=40, rest="merge"),
    uplink=_EIGHT_BITS,
    downlink=_EIGHT_BITS,
)
