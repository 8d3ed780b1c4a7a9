"""Programs of light devices: a device's part of a model as ONNX graphs, made by the server.

core.py exports the blocks; selection.py, quantizer.py and klt_nodes.py add the nodes after them,
with graph.py. weights_file.py keeps large tensors in one file beside the graphs, which all cuts
share. keys.py says which programs a round needs, make.py makes them when they are needed;
run_here.py runs blocks in this process, for a simulated device and for a calibration.
packages.py says what this needs. For which jobs there are no programs: train/check_light.py.
"""
