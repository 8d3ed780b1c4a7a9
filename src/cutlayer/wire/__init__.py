"""What crosses the cut: tokens, bits and frames.

tokens.py chooses the tokens that are sent, places.py says where in a sample they were. A frame of
the uplink is made by `encode_activations` in codec.py, from the labels, mask and hidden states of a
message (messages.py); these become packed bytes in codecs/quantized.py, which calls rotate.py,
quantize.py (with levels.py and bit_stream.py) and entropy.py one after another, for all devices of
a pool at once. opened.py reads frames (with body_parts.py), and dequantize.py undoes quantize.py.
tail.py makes and reads the frames of a model whose last blocks are on devices, adapter_frames.py
those of adapters; change.py marks frames that say what changed. transfer.py copies between the CPU
and what computes. activation_frames.py, packing.py and kept_tokens.py make frames of arrays, for
codec.py and for devices without torch; program_ports.py says what their programs give. frame.py and
headers.py are the envelope, which is checked when it is read. codecs/ says what a codec is and how
to add one; custom_levels.py reads levels of one's own; frame_bytes.py counts bytes without
encoding.
"""
