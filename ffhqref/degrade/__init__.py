"""Clean pictures -> low-quality ones: blur, downscale, noise, JPEG, upscale (the paper's section 4).

In: targets (uint8 RGB) and a level. Out: low-quality PNGs and a table of the drawn parameters. Read
`levels`, `operators` (one picture), `blur` (its costly part), `draws` (what is drawn for which picture), then
`stage` (a dataset or a folder) and `stale` (what goes when targets go).
"""
