"""People drawn by program, with known identities: the offline default of everything."""

from pathlib import Path

EMBEDDER = Path(__file__).parent / "embedder.onnx"  # how it was made: train_embedder
RESTORER = Path(__file__).parent / "restorer.safetensors"  # what train_restorer makes; not shipped yet
