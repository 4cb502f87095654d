"""The package `critics` by a second name, for code in which the first one is taken: the same modules, not copies."""

from critics import *  # noqa: F403  (what type checkers see; at run time this module is `critics` itself)
from softflow.same_modules import stand_in

stand_in(__name__, "critics")
