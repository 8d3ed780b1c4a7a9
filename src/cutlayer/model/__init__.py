"""A pretrained transformer, cut in two.

families.py and names.py know each kind of checkpoint, weights.py reads the tensors of one part,
cut.py runs the device's part and the server's (transformer.py, resnet.py), lora.py and full.py hold
what is trained, compiled.py compiles passes, attention.py scores tokens, cost*.py counts FLOPs and
memory, export.py writes adapters in PEFT's format, adapter_fit.py checks that an adapter fits the
model, merge.py merges an adapter into its model.
"""
