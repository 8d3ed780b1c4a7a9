"""Codecs of activations and gradients: rows of numbers to a header and a body, and back.

seam.py says what a codec is (`Codec`). quantized.py is the quantiser: wire/rotate.py,
wire/quantize.py and wire/entropy.py, one after another. klt.py is a fitted transform with an
entropy coder: klt_fit.py fits it, basis.py makes the frame of a fitted basis, klt_laws.py, laws.py
and symbols.py code whole numbers, spatial.py transforms between the patches of an image,
token_scale.py codes the size of a token, drift.py says when the basis must be fitted again;
wire/known_tokens.py says which tokens of a text labels name, for bases with a mean of each.
quantized_body.py and klt_body.py make bodies of whole numbers, without torch.

To change the quantiser: its arithmetic is in wire/quantize.py, wire/levels.py and
wire/dequantize.py, and once more, as nodes of a graph for light devices, in programs/quantizer.py
(its settings there: `Coding` in wire/program_ports.py and `_coding` in programs/keys.py; its body:
`coded_levels` in light/encoded.py, by wire/packing.py). Its settings are `Quantizer` and `LEVELS`
in settings/method.py (train/read_conditions.py says when each has an effect), its header is
`TensorHeader` in wire/headers.py, its bytes are counted in wire/frame_bytes.py. `why_not`
(train/check_light.py) refuses what light devices cannot do. New named levels change all of these
files, and get a row in docs/wire-format.md and docs/extend.md. Levels given by a function that a
job names need no change.

To add a codec: a file here with a class that does what `Codec` asks; its header in wire/headers.py;
its name in `Quantizer.codec` (settings/method.py; `value_bits` there asks for klt) and which
settings it reads in train/read_conditions.py; the frames that carry it in wire/activation_frames.py
(activations), wire/codec.py (gradients), wire/opened.py (both, read) and wire/tail.py (to and from
last blocks on devices), next to those of klt, and in `KINDS` of wire/frame.py where it has kinds of
its own; its bytes in wire/frame_bytes.py; which codec a device encodes a step with in
train/coding.py, and, where it is fitted, who fits it and when in train/server_coding.py and
train/way_coding.py; what a job with it may not do in train/check.py; whether light devices have it
in `why_not` (train/check_light.py), and if so its nodes in programs/ and its body in
light/encoded.py, next to klt's; its layout in docs/wire-format.md; its tests beside those of klt.
"""
