"""headset.yaml: the views of a headset, its body frame, the world's up axis and the names of its joints."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from epfv2_jax.core import checks, files
from epfv2_jax.core import config as config_lib
from epfv2_jax.geometry import cameras as cameras_lib
from epfv2_jax.geometry import transforms
from epfv2_jax.geometry.cameras import Camera
from epfv2_jax.geometry.layout import RigLayout
from epfv2_jax.structs import Rig

HEADSET_NAME = "headset.yaml"

Row = tuple[float, float, float, float]


class CalibratedCamera(Protocol):
    """What `rig_of` needs of a camera, as `data.calibration.formats` reads it."""

    name: str
    camera: Camera  # of the stored image
    T_body_cam: np.ndarray | None  # (4, 4) camera to body, metres


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsetView:
    """One view."""

    camera: str  # name of the camera: its folder, or its name in a calibration file
    name: str  # such as left_side
    upright_turns: int = 0  # quarter turns, in the sense of `np.rot90`, that make the stored image upright
    mirror: str | None = None  # the view that replaces this one under a left-right flip

    def __post_init__(self):
        checks.within(-3, 3, upright_turns=self.upright_turns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headset:
    """The content of a headset.yaml. Body is the frame of the poses and of the cameras' extrinsics."""

    format: Literal["epfv2-asl/1"]
    T_headset_body: tuple[Row, Row, Row, Row]  # body to headset (x wearer's left, y up, z forward), metres
    views: tuple[HeadsetView, ...]  # in the order of every array's axis V
    world_up: Literal["x", "y", "z", "-x", "-y", "-z"] = "y"
    joints: dict[str, str] = dataclasses.field(default_factory=dict)  # joint of the skeleton -> name in the recording
    max_pose_gap_ms: float = 20.0  # a frame has a pose, and joints, if a row of theirs is as near in time
    max_skew_ms: float = 5.0  # a view has an image of a frame if one is as near in time
    comment: str = ""

    def __post_init__(self):
        transforms.check_rigid(np.asarray(self.T_headset_body), "T_headset_body")
        checks.not_empty("views", self.views, "list the cameras")
        checks.above(0, max_pose_gap_ms=self.max_pose_gap_ms, max_skew_ms=self.max_skew_ms)
        names = [view.name for view in self.views]
        for v, view in enumerate(self.views):
            checks.equal(f"views[{v}].name {view.name!r}, number of views", names.count(view.name), 1)
            if view.mirror is not None:
                checks.one_of(names, **{f"views[{v}].mirror": view.mirror})
        if any(paired := [view.mirror is not None for view in self.views]):
            checks.equal("views with a mirror", sum(paired), len(paired), "name the partner of all views or of none")
        self.layout  # noqa: B018  (raises where partners do not name each other)

    @property
    def layout(self) -> RigLayout:
        """The views as a layout."""
        names = tuple(view.name for view in self.views)
        paired = self.views[0].mirror is not None
        return RigLayout(
            name="headset",
            view_names=names,
            upright_turns=tuple(view.upright_turns for view in self.views),
            mirror=tuple(names.index(view.mirror) for view in self.views) if paired else None,
        )

    @property
    def R_yup_world(self) -> np.ndarray:
        """The rotation (3, 3) from the recording's world to one whose y is up."""
        up = "xyz".index(self.world_up[-1])
        turn = np.eye(3)[[(up + i) % 3 for i in (2, 0, 1)]]  # the axis before up becomes x, the one after it z
        return np.diag([1.0, -1.0, -1.0]) @ turn if self.world_up.startswith("-") else turn


def read_headset(path: str | os.PathLike) -> Headset:
    """Returns the content of a headset.yaml.

    Raises:
      ValueError: there is none, or a field is unknown, missing or wrong; the message names file, field and value.
    """
    remedy = "docs/own_data.md describes the file"
    content = files.read_yaml(path, remedy)
    with checks.naming(os.fspath(path), remedy=remedy):
        return config_lib.from_mapping(Headset, content, "")


def rig_of(headset: Headset, cameras: Sequence[CalibratedCamera]) -> tuple[Rig, RigLayout]:
    """Returns the rig of a headset, leading axis V, for images as they are stored, and its layout.

    Args:
      headset: says which camera is which view.
      cameras: at least those of the views, in any order.

    Raises:
      ValueError: a view's camera is not there or has no extrinsics, or the lens models differ.
    """
    by_name = {camera.name: camera for camera in cameras}
    T_body_headset = np.linalg.inv(np.asarray(headset.T_headset_body, np.float64))
    lenses, T_cam_headset = [], []
    for v, view in enumerate(headset.views):
        checks.one_of(by_name, **{f"{HEADSET_NAME}: views[{v}].camera": view.camera})
        camera = by_name[view.camera]
        if camera.T_body_cam is None:
            raise ValueError(f"camera {camera.name}: the calibration has no extrinsics; give T_BS in its sensor.yaml")
        transforms.check_rigid(camera.T_body_cam, f"camera {camera.name}: camera to body")
        lenses.append(camera.camera)
        T_cam_headset.append(np.linalg.inv(camera.T_body_cam) @ T_body_headset)
    for (a, one), (b, other) in itertools.pairwise(zip(headset.views, lenses, strict=True)):
        remedy = "one headset has one model: calibrate all cameras with it, or refit the others"
        checks.equal(f"lens model of {b.camera}, beside that of {a.camera}", other.model, one.model, remedy)
    rig = Rig(cameras=cameras_lib.stack(lenses), T_cam_headset=np.stack(T_cam_headset).astype(np.float32))
    return rig, headset.layout
