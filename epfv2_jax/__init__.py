"""EgoPoseFormer v2 in JAX and Flax: egocentric full-body motion from headset cameras."""

__version__ = "0.1.0"
