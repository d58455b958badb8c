"""The restorer: a latent diffusion model of faces that attends to reference pictures (CacheKV).

In: low-quality pictures and references as arrays, and a checkpoint. Out: restored arrays. Of the package it
imports `core` alone. Read `model/` (the networks), `restorer` (DDIM sampling with them), `training/`.
"""
