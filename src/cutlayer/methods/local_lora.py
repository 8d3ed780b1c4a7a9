"""Every device trains an adapter of its own and shares nothing.

The baseline `Local LoRA` of TSFLora (arXiv 2605.23988) and ST-SFLora (arXiv 2605.26120). There is
no aggregated model: accuracy is the mean over devices, each on the common test set.
"""

from cutlayer.settings.method import Method

METHOD = Method(name="local-lora", split=False, aggregate="none")
