"""What crosses the cut: tokens, bits and frames.

tokens.py chooses the tokens that are sent, places.py says where in a sample they stood. A frame of
the uplink is made by `encode_activations` in codec.py, from labels, mask and hidden states; these
become packed bytes in codecs/quantized.py, which calls rotate.py, quantize.py (`quantize`,
`pack_bits`) and entropy.py one after another. frame.py and headers.py are the envelope, which is
checked when it is read. codecs/ says what a codec is and how to add one; custom_levels.py reads
levels of one's own; tail.py makes the frames of a model whose last blocks are on devices;
frame_bytes.py counts bytes without encoding.
"""
