"""A person's traits and a shot's -> a drawn portrait, as a small renderer of its own.

In: a seed, the numbers of a person and a photo. Out: a 512 x 512 portrait (uint8 RGB) and its landmarks. Read
`traits`, `shape` (the head as a mesh), `camera`, `raster` and `light`, `paint`, `features`, `hair` and
`glasses`, then `people`, which joins them.
"""
