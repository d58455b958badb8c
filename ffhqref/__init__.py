"""Build reference datasets of faces as FFHQ-Ref (ReF-LDM, NeurIPS 2024) was built, and restore with them."""

__version__ = "0.1.0"
