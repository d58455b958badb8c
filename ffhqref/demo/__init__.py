"""People drawn by program, with known identities: the offline default of everything.

In: a seed and a number of people. Out: their photographs with labels and landmarks, a dataset built of them
by the same stages as any other, and how well it tells them apart. Read `run` (the command), `album` (many
photographs at once), `portrait` (how one is drawn), `likeness` (whether restored pictures show the right
person), then `making` (how the three networks below were trained and judged).
"""

from pathlib import Path

EMBEDDER = Path(__file__).parent / "embedder.onnx"  # how it was made: making.train_embedder
FIRST_STAGE_FILE = Path(__file__).parent / "first-stage.safetensors"  # how: making.train_restorer
RESTORER = Path(__file__).parent / "restorer.safetensors"  # the same; restorer.json says how it was judged
