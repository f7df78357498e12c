"""Auto-labelling: a frozen teacher labels every frame of a directory of records exactly once."""
