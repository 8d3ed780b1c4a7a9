"""A device without torch: runs the programs that its server makes, by onnxruntime.

device.py is the device, job.py what it is told of the job. program.py runs a program, whose two
graphs graph.py makes ready once graph_check.py has looked through them; images.py and texts.py
make samples ready, encoded.py makes frames of what a program gives; measure.py measures memory and
time. Nothing here imports torch, transformers or pydantic.
"""
