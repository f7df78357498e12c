"""UnrealEgo's network (Akada et al., ECCV 2022) and the importer of its released weights."""
