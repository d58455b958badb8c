"""The restorer's networks and their files: autoencoder, denoiser, schedule, checkpoint.

In: tensors. Out: tensors. Read `layers`, `autoencoder`, `unet`, `schedule`, then `checkpoint` and `publish`
(files); `winograd`, `frozen` and `precision` make them fast without changing what they compute.
"""
