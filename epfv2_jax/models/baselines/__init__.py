"""The earlier systems that EPFv2 is compared with, in the same trainer, on the same records and metrics."""
