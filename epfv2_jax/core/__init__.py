"""Things that every layer may use: configuration, checks, the shape legend.

Shape legend, used in every docstring of this package:

    B batch   T time (frames)   V views (cameras)   J joints   H, W image height and width
    N tokens  C width           A attention heads   K width of one head
"""
