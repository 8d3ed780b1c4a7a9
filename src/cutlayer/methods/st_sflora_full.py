"""ST-SFLora with all tokens: frozen devices, one way, equal bandwidth (arXiv 2605.26120)."""

from cutlayer.settings.method import Method, Quantizer

_PLAIN = Quantizer(bits=32, entropy="none")

METHOD = Method(
    name="st-sflora-full",
    device="frozen",
    server_adapter="in-turn",
    uplink=_PLAIN,
    downlink=_PLAIN,
)
