"""People drawn by program, with known identities: the offline default of everything."""

from pathlib import Path

EMBEDDER = Path(__file__).parent / "embedder.onnx"  # how it was made: train_embedder
FIRST_STAGE = Path(__file__).parent / "first-stage.safetensors"  # how it was made: train_restorer
RESTORER = Path(__file__).parent / "restorer.safetensors"  # the same; restorer.json says how it was judged
