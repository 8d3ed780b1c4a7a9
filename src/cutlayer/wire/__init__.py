"""What crosses the cut: tokens, bits and frames.

tokens.py chooses the tokens that are sent. rotate.py and quantize.py turn their values into packed
bits (`quantize`, `pack_bits`) and back, entropy.py compresses the bytes, codec.py makes messages of
activations, gradients and adapters of them, frame.py and headers.py put them into an envelope that
is checked. frame_bytes.py counts bytes without encoding.
"""
