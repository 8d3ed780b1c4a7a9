"""FedAvg of LoRA adapters: each device trains the whole model, only adapters travel.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data"
(arXiv 1602.05629), with the trained weights being LoRA's A and B and the classification head.
A and B are averaged apart: the product of averages is not the average of products.
"""

from cutlayer.settings.method import Method

METHOD = Method(name="fedlora", split=False)
