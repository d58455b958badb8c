"""Small network files written by hand, for tests that need some network and no real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

# A picture is what lies between the first and the last row and column that are not black: it is padded with
# black. Its face lies where FFHQ's frame has it (drawn people are framed so), unless the picture is flat. The
# answer stands at the first anchor of stride 32, whose place is 0, 0; all other anchors have the score 0.
DETECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
stand_in (float[1, 3, height, width] x) => (
  float[n8, one] score8, float[n16, one] score16, float[n32, one] score32,
  float[n8, four] box8, float[n16, four] box16, float[n32, four] box32,
  float[n8, ten] points8, float[n16, ten] points16, float[n32, ten] points32
)
<
  float zero = {0}, float score = {0.9}, float black = {-0.99}, float contrast = {0.15}, float stride = {32},
  float[4] box = {0.2, 0.2, 0.8, 0.85}, float[4] inwards = {-1, -1, 1, 1},
  float[10] points = {0.376, 0.477, 0.625, 0.478, 0.498, 0.607, 0.416, 0.702, 0.579, 0.703},
  int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i3 = {3},
  int64[1] first = {0}, int64[1] second = {1}, int64[1] end = {1000000},
  int64[2] column_shape = {-1, 1}, int64[2] four_shape = {1, 4}, int64[2] ten_shape = {1, 10}
>
{
  # left, top, right, bottom of the picture, px
  shape = Shape (x)
  height64 = Gather (shape, i2)
  width64 = Gather (shape, i3)
  columns64 = Range (i0, width64, i1)
  rows64 = Range (i0, height64, i1)
  columns = Cast <to = 1> (columns64)
  rows = Cast <to = 1> (rows64)
  column_light = ReduceMax <axes = [0, 1, 2], keepdims = 0> (x)
  row_light = ReduceMax <axes = [0, 1, 3], keepdims = 0> (x)
  column_seen = Greater (column_light, black)
  row_seen = Greater (row_light, black)
  far = Cast <to = 1> (end)
  lefts = Where (column_seen, columns, far)
  tops = Where (row_seen, rows, far)
  rights = Where (column_seen, columns, zero)
  bottoms = Where (row_seen, rows, zero)
  left = ReduceMin <keepdims = 1> (lefts)
  top = ReduceMin <keepdims = 1> (tops)
  right = ReduceMax <keepdims = 1> (rights)
  bottom = ReduceMax <keepdims = 1> (bottoms)

  # how much the picture varies
  light = ReduceMax <axes = [1], keepdims = 1> (x)
  inside = Greater (light, black)
  darkest = Where (inside, light, far)
  low = ReduceMin <keepdims = 0> (darkest)
  high = ReduceMax <keepdims = 0> (light)
  range = Sub (high, low)
  varied = Greater (range, contrast)
  sure = Cast <to = 1> (varied)
  answer = Mul (sure, score)

  # the places in it, as distances from 0, 0 in strides
  place = Concat <axis = 0> (left, top)
  opposite = Concat <axis = 0> (right, bottom)
  sides = Sub (opposite, place)
  place5 = Concat <axis = 0> (place, place, place, place, place)
  sides5 = Concat <axis = 0> (sides, sides, sides, sides, sides)
  place2 = Concat <axis = 0> (place, place)
  sides2 = Concat <axis = 0> (sides, sides)
  box_inside = Mul (box, sides2)
  box_px = Add (box_inside, place2)
  box_away = Mul (box_px, inwards)
  box_strides = Div (box_away, stride)
  points_inside = Mul (points, sides5)
  points_px = Add (points_inside, place5)
  points_strides = Div (points_px, stride)
  answer1 = Reshape (answer, column_shape)
  box1 = Reshape (box_strides, four_shape)
  points1 = Reshape (points_strides, ten_shape)

  # two anchors at each place of each stride, all without a face
  %(strides)s
  no_score32 = Slice (empty32, second, end, first)
  score32 = Concat <axis = 0> (answer1, no_score32)
  zero_box = Mul (box, zero)
  no_box32 = Mul (no_score32, zero_box)
  box32 = Concat <axis = 0> (box1, no_box32)
  zero_points = Mul (points, zero)
  no_points32 = Mul (no_score32, zero_points)
  points32 = Concat <axis = 0> (points1, no_points32)
  score8 = Identity (empty8)
  score16 = Identity (empty16)
  box8 = Mul (empty8, zero_box)
  box16 = Mul (empty16, zero_box)
  points8 = Mul (empty8, zero_points)
  points16 = Mul (empty16, zero_points)
}
"""
ANCHORS = """
  places{s} = AveragePool <kernel_shape = [{s}, {s}], strides = [{s}, {s}]> (light)
  column{s} = Reshape (places{s}, column_shape)
  both{s} = Concat <axis = 0> (column{s}, column{s})
  empty{s} = Mul (both{s}, zero)
"""


def write_detector(path: Path) -> Path:
    """A file that answers as SCRFD does: it finds one face in each picture that is not flat."""
    strides = "".join(ANCHORS.format(s=stride) for stride in (8, 16, 32))
    onnx.save(onnx.parser.parse_model(DETECTOR % {"strides": strides}), path)
    return path


# Means of a face over 8 x 8 px, mixed by random weights: no two faces have one answer, and none means much.
EMBEDDER = """
<ir_version: 8, opset_import: ["" : 17]>
stand_in (float[%(batch)s, 3, 112, 112] x) => (float[%(batch)s, 128] y)
<int64 i0 = {0}, int64[2] row_shape = {-1, 588}>
{
  means = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (x)
  rows = Reshape (means, row_shape)
  mixed = MatMul (rows, weights)
  %(last)s
}
"""
RIGHT = "y = Identity (mixed)"
WRONG_IN_BATCHES = """
  first = Gather <axis = 0> (mixed, i0)
  shape = Shape (mixed)
  y = Expand (first, shape)
"""


def write_embedder(path: Path, *, batch: int | str = "N", wrong_in_batches: bool = False) -> Path:
    """A file that answers as ArcFace does with 128 numbers; for a batch with the first face's, if `wrong`."""
    text = EMBEDDER % {"batch": batch, "last": WRONG_IN_BATCHES if wrong_in_batches else RIGHT}
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((588, 128)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    onnx.save(model, path)
    return path
