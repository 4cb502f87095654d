"""Names of EfficientNet's weights in the packages `efficientnet_pytorch` and `efficientnet_lite_pytorch`, as timm's.

Both number the blocks from first to last, where timm numbers them within each stage, and call the parts of a block
otherwise. The architectures are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}
"""Parts of a block that expands its channels."""
PLAIN = EXPANDED | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of a block that does not, which are those of the first stage."""
BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")
TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")


def with_timm_names(weights: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Rename weights of the two packages to timm's names. Other weights keep their names.

    Args:
        weights: The weights by name.
        wanted: The names in timm's network, which tell how many blocks each stage has.
    """
    if "_conv_stem.weight" not in weights:
        return dict(weights)
    places = {(int(found[1]), int(found[2])) for found in map(TIMM_BLOCK.match, wanted) if found}
    blocks = [f"blocks.{stage}.{block}" for stage, block in sorted(places)]
    expands = {int(found[1]) for found in map(BLOCK.match, weights) if found and found[2] == "_expand_conv"}

    def renamed(name: str) -> str:
        found = BLOCK.fullmatch(name)
        if found is None:
            part, dot, rest = name.partition(".")
            return f"{OUTSIDE.get(part, part)}{dot}{rest}"
        number, part = int(found[1]), found[2]
        parts = EXPANDED if number in expands else PLAIN
        return f"{blocks[number]}.{parts[part]}.{found[3]}" if number < len(blocks) and part in parts else name

    return {renamed(name): tensor for name, tensor in weights.items()}
