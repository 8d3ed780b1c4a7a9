"""Programs of light devices: a device's part of a model as ONNX graphs, made by the server.

core.py exports the blocks; selection.py, quantizer.py and klt_nodes.py add the nodes after them,
with graph.py. weights_file.py keeps large tensors in one file beside the graphs, which all cuts
share. keys.py says which programs a round needs, make.py makes them when they are needed. For which
jobs there are none: train/check_light.py.
"""
