"""Training of the autoencoder, the LDM and ReF-LDM.

In: a configuration (manifests/train/) and a built dataset. Out: a run's folder with checkpoints. Read
`config`, `data` and `augment` (what is trained on), `losses`, `first_stage` and `stages` (what is trained),
`optimise`, then `train` (the loop) and `runs` (its files).
"""
