"""The package `flows` by a second name, for code in which the first one is taken: the same modules, not copies."""

from flows import *  # noqa: F403  (what type checkers see; at run time this module is `flows` itself)
from softflow.same_modules import stand_in

stand_in(__name__, "flows")
