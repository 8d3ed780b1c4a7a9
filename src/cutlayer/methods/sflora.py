"""Parallel split federated LoRA: devices train side by side through the cut, then average.

SplitFed (arXiv 2004.12088, version 1) with LoRA adapters on both sides of the cut: device and
server adapters of a round's cohort are averaged by their numbers of samples. Activations and
gradients cross the cut as float32.
"""

from cutlayer.settings.method import Method, Quantizer

_AS_IT_IS = Quantizer(bits=32, entropy="none")

METHOD = Method(name="sflora", uplink=_AS_IT_IS, downlink=_AS_IT_IS)
