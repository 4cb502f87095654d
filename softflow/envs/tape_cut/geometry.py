"""Relative poses of blades, ribbon and hand, and the forces between them, measured from the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from softflow.envs.simulation import Array
from softflow.envs.tape_cut.scene import TapeCutScene

BLADE_REACH = (0.010, 0.074)  # m from the pivot, start and end of the blades' cutting part
BLADE_MARGIN = 0.004  # m by which an edge of the ribbon may lie outside the blades' centre lines
CUT_ZONE = 0.025  # m above and below the seam in which the ribbon can be cut
MIN_INCLINATION = 0.3  # cosine between the ribbon and the blade plane's normal below which they count as parallel


@dataclass(slots=True)
class TapeCutGeometry:
    """Result of ``measure``, in metres, radians and newtons; world frame unless stated otherwise.

    The scissors' frame has its origin at the pivot. Its axes are heading (along the closed blades), lateral, and normal
    (perpendicular to the plane in which the blades move).
    """

    axes: Array
    """Heading, lateral and normal of the scissors, as the rows of (3, 3)."""
    pivot: Array
    """Position (3,) of the pivot."""
    opening: float
    """Angle between the blades."""
    opening_rate: float
    grip_point: Array
    """Point (3,) between the handles."""
    hand_point: Array
    """Point (3,) between the pads of a closing hand."""
    seam: Array
    """Point (3,) where the two halves of the ribbon meet."""
    seam_in_scissors: Array
    """Position (3,) of the seam in the scissors' frame."""
    ribbon_across: Array
    """Unit vector (3,) across the ribbon, in the scissors' frame."""
    crossing: float
    """Distance along the ribbon from the seam up to the plane of the blades; infinite if they are parallel."""
    between_blades: bool
    """Whether both edges of the ribbon are between the blades' cutting parts, within the cut zone."""
    gap: float
    """Distance between the blades at the ribbon's farther edge; infinite outside the cut zone."""
    touch: Array
    """Forces (4,) of thumb, first, middle and ring fingertip on the scissors."""
    pinch: float
    """Smaller of the two blades' lateral forces on the ribbon; 0 unless they oppose each other."""


def measure(scene: TapeCutScene) -> TapeCutGeometry:
    """Measure the geometry in the scene's current state, without simulating."""
    half_a, half_b = scene.rotation["scissors_a"], scene.rotation["scissors_b"]
    heading = half_a[:, 0] + half_b[:, 0]
    heading = heading / math.sqrt(heading @ heading)
    normal = half_a[:, 2]
    (hx, hy, hz), (nx, ny, nz) = heading.tolist(), normal.tolist()
    lateral = np.array([ny * hz - nz * hy, nz * hx - nx * hz, nx * hy - ny * hx])  # normal x heading
    axes = np.array([heading, lateral, normal])
    opening = float(scene.data.qpos[scene.hinge_qpos])

    upper, lower = scene.rotation["ribbon_upper"], scene.rotation["ribbon_lower"]
    seam = scene.upper_link_position - scene.link_length * upper[:, 2]
    seam_in_scissors = axes @ (seam - scene.pivot)
    across = axes @ upper[:, 1]
    # The blades meet the upper link if the seam lies below their plane, and the lower one otherwise.
    along = axes @ (upper[:, 2] if seam_in_scissors[2] < 0 else lower[:, 2])
    crossing, between_blades, gap = _cross(seam_in_scissors, along, across, opening, scene.ribbon_half_width)

    touch = scene.touch_forces
    push_a, push_b = (float(forces @ lateral) for forces in scene.blade_forces.sum(1))
    return TapeCutGeometry(
        axes=axes,
        pivot=scene.pivot.copy(),
        opening=opening,
        opening_rate=float(scene.data.qvel[scene.hinge_dof]),
        grip_point=scene.pivot + scene.grip_x * heading,
        hand_point=scene.hand_point.copy(),
        seam=seam,
        seam_in_scissors=seam_in_scissors,
        ribbon_across=across,
        crossing=crossing,
        between_blades=between_blades,
        gap=gap,
        touch=np.sqrt((touch * touch).sum(1)),
        pinch=min(abs(push_a), abs(push_b)) if push_a * push_b < 0 else 0.0,
    )


def mistake(
    geometry: TapeCutGeometry, grip_x: float, deviation: float, rng: np.random.Generator
) -> tuple[TapeCutGeometry, Array]:
    """Add errors to the poses of scissors and ribbon; forces, opening and fingers stay exact.

    Args:
        geometry: The true geometry.
        grip_x: Position of the handles along the scissors' heading in m.
        deviation: Standard deviation of each coordinate's error in m; that of the scissors' yaw is 10 rad per m.
        rng: Source of the errors.

    Returns:
        The geometry with errors, and the error (3,) of the ribbon's position.
    """
    scissors_error, ribbon_error = rng.normal(0, deviation, (2, 3))
    yaw_error = rng.normal(0, 10 * deviation)
    cos, sin = math.cos(yaw_error), math.sin(yaw_error)
    axes = geometry.axes @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    pivot, seam = geometry.pivot + scissors_error, geometry.seam + ribbon_error
    seen = replace(
        geometry,
        axes=axes,
        pivot=pivot,
        grip_point=pivot + grip_x * axes[0],
        seam=seam,
        seam_in_scissors=axes @ (seam - pivot),
        ribbon_across=axes @ geometry.axes.T @ geometry.ribbon_across,
    )
    return seen, ribbon_error


def _cross(seam: Array, along: Array, across: Array, opening: float, half_width: float) -> tuple[float, bool, float]:
    """Return ``crossing``, ``between_blades`` and ``gap`` for vectors in the scissors' frame; ``along`` points up."""
    (x, y, z), (along_x, along_y, along_z) = seam.tolist(), along.tolist()
    if abs(along_z) <= MIN_INCLINATION:
        return math.inf, False, math.inf
    crossing = -z / along_z
    if abs(crossing) > CUT_ZONE:
        return crossing, False, math.inf
    across_x, across_y = half_width * float(across[0]), half_width * float(across[1])
    edges = [(x + crossing * along_x + s * across_x, y + crossing * along_y + s * across_y) for s in (-1, 1)]
    slope = math.tan(opening / 2)
    between_blades = all(
        BLADE_REACH[0] <= edge_x <= BLADE_REACH[1] and abs(edge_y) <= edge_x * slope + BLADE_MARGIN
        for edge_x, edge_y in edges
    )
    farthest = max(edge_x for edge_x, _ in edges)
    return crossing, between_blades, 2 * farthest * math.sin(max(opening, 0) / 2)
