"""What crosses the cut: tokens, bits and frames.

tokens.py chooses the tokens that are sent, places.py says where in a sample they stood. A frame of
the uplink is made by `encode_activations` in codec.py, from labels, mask and hidden states; these
become packed bytes in codecs/quantized.py, which calls rotate.py, quantize.py, packing.py and
entropy.py one after another. activation_frames.py, packing.py and kept_tokens.py make frames of
arrays, without torch, for devices that have none; program_ports.py says what their programs give.
frame.py and headers.py are the envelope, which is checked when it is read. codecs/ says what a
codec is and how to add one; custom_levels.py reads levels of one's own; frame_bytes.py counts bytes
without encoding.
"""
