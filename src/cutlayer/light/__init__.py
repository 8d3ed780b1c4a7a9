"""A device without torch: runs the programs that its server makes, by onnxruntime.

device.py is the device, job.py the part of the job that it knows. program.py runs a program, its
blocks by passes.py; its two graphs are checked by graph_check.py and loaded by graph.py. images.py
and texts.py prepare samples, encoded.py encodes a program's outputs; measure.py measures memory and
time. Nothing here imports torch, transformers or pydantic.
"""
