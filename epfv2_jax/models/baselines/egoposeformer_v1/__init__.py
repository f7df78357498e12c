"""EgoPoseFormer v1 (Yang et al., ECCV 2024) and the importer of its released weights."""
