"""A picture -> its faces -> aligned crops -> unit embeddings. The only user of insightface and ONNX Runtime.

In: pictures (uint8 RGB). Out: boxes, five landmarks in px, crops of 112 x 112 px, embeddings of unit length.
Read `geometry` (what five points say), `networks` (the detector and the embedder), `align` (how a photograph
becomes aligned faces), then `framing` (how a face is cut out as FFHQ frames it).
"""

import os

# ONNX Runtime writes a device id and events below ~/.cache, and sends them, as soon as it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
