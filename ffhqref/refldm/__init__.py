"""The restorer: a latent diffusion model of faces that attends to reference pictures (CacheKV).

It knows nothing of building datasets, and nothing else of the package imports it but the command line.
"""
