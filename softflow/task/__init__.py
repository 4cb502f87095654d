"""What a robot sees and does: names, shapes, units and bounds."""

from softflow.task.parts import ActionPart, ObservationPart
from softflow.task.spec import TaskMismatch, TaskSpec

__all__ = ["ActionPart", "ObservationPart", "TaskMismatch", "TaskSpec"]
