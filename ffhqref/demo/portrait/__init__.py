"""A person's traits and a shot's -> a drawn portrait, as a small renderer of its own.

In: two seeds. Out: a 512 x 512 portrait (uint8 RGB) and its landmarks. Read `traits`, `shape` (the head as a
mesh), `raster` and `light`, `paint`, `features`, `hair`, `glasses`, then `people`, which joins them.
"""
