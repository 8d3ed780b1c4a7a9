"""Sequential split learning of LoRA adapters: devices take turns and hand the adapter on.

The `Split LoRA` baseline of TSFLora and ST-SFLora, after Gupta and Raskar (arXiv 1810.06060) and
SplitLoRA (arXiv 2407.00952): one device adapter and one server adapter, each updated device after
device within a round.
"""

from cutlayer.settings.method import Method, Quantizer

_AS_IT_IS = Quantizer(bits=32, entropy="none")

METHOD = Method(name="split-lora", order="sequential", uplink=_AS_IT_IS, downlink=_AS_IT_IS)
