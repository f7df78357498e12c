"""How a library names the tensors of a family of encoders."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Third(NamedTuple):
    """Names one third of a tensor that stacks query (0), key (1) and value (2) along its first axis."""

    key: str
    index: int


#: The source of a parameter that the library does not have because it is zero there.
ZEROS = None
Source = str | Third | None

#: Tensors of convolutional encoders that are not needed: pattern of the whole key -> why.
COUNTERS = {r".*\.num_batches_tracked": "counts training steps"}
_CONVOLUTIONAL = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def key_of(source: str | Third) -> str:
    """Returns the key in the file that a parameter is read from."""
    return source.key if isinstance(source, Third) else source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one library names the tensors of one family of encoders."""

    source: Callable[[str], Source]  # of a parameter, by its path below "params" or "batch_stats"
    stem: str  # path of the kernel that reads the image
    markers: tuple[str, ...]  # keys that only a file in this layout has
    ignored: Mapping[str, str]  # pattern of the whole key -> why it is not needed

    def why_ignored(self, key: str) -> str | None:
        """Returns why a tensor of the file is not needed, or None if it is needed or unknown."""
        return next((reason for pattern, reason in self.ignored.items() if re.fullmatch(pattern, key)), None)


def same_names(path: str) -> Source:
    """Returns the key of a parameter whose path keeps the original's names.

    layer1_0/conv1/kernel is layer1.0.conv1.weight.
    """
    module, leaf = path.rsplit("/", 1)
    return re.sub(r"_(?=\d)", ".", module).replace("/", ".") + "." + _CONVOLUTIONAL[leaf]


def by_table(outside: Mapping[str, Source], block: Mapping[str, Source], prefix: str, path: str) -> Source:
    """Returns the source of a transformer's parameter.

    Args:
      outside: sources by path, outside the blocks.
      block: sources by path inside a block, without the block's own name.
      prefix: what precedes the number of a block in the keys of the file.
      path: of the parameter.
    """
    match = re.fullmatch(r"block_(\d+)/(.*)", path)
    if match is None:
        return outside[path]
    source = block[match[2]]
    if source is ZEROS:
        return ZEROS
    start = f"{prefix}{match[1]}."
    return Third(start + source.key, source.index) if isinstance(source, Third) else start + source
