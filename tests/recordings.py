"""Recordings as docs/own_data.md describes them, for tests: people seen by three made-up headsets, and mistakes."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import yaml
from PIL import Image
from scipy.spatial.transform import Rotation

from epfv2_jax.data import images
from epfv2_jax.geometry import cameras, kinematics, skeleton

BODY = skeleton.EGOBODY3M
FRAME_NS = 33_333_333
START_NS = 1_700_000_000_000_000_000


@dataclasses.dataclass(frozen=True)
class View:
    """A camera: where it is and looks in headset axes, and how its sensor is turned."""

    name: str
    position_m: tuple[float, float, float]
    yaw_deg: float = 0.0  # to the left
    pitch_deg: float = 0.0  # down
    turns: int = 0  # that make the stored image upright
    mirror: str | None = None
    size_wh: tuple[int, int] = (64, 48)  # of the stored image
    coefficients: tuple[float, ...] = (-0.02, 0.01, -0.003, 0.0005)
    lens: str = "equidistant"  # as sensor.yaml names the distortion
    image_format: str = "png"


@dataclasses.dataclass(frozen=True)
class Headset:
    """A headset and the conventions of its recordings."""

    views: tuple[View, ...]
    R_headset_body: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(3))
    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the body, headset frame
    world_up: str = "y"
    joint_frame: str | None = "world"  # None: no joints0
    prefix: str = ""  # of the recording's joint names
    poses: str = "gt"  # or "tum", "aria"


FRONT = Headset(
    views=(
        View("left", (0.04, 0.02, 0.03), yaw_deg=15, pitch_deg=50, mirror="right"),
        View("right", (-0.04, 0.02, 0.03), yaw_deg=-15, pitch_deg=50, mirror="left"),
    )
)
FOUR = Headset(
    views=(
        View("left_side", (0.07, 0.0, 0.0), 70, 40, -1, "right_side", image_format="jpg"),
        View("left_front", (0.03, 0.0, 0.05), 10, 30, 1, "right_front", (80, 64), image_format="jpg"),
        View("right_front", (-0.03, 0.0, 0.05), -10, 30, -1, "left_front", (80, 64), image_format="jpg"),
        View("right_side", (-0.07, 0.0, 0.0), -70, 40, 1, "left_side", image_format="jpg"),
    ),
    R_headset_body=np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),  # body: x ahead, y left, z up
    origin_m=(0.0, 0.01, -0.06),
    world_up="z",
    joint_frame="headset",
    prefix="mocap_",
    poses="tum",
)
ONE = Headset(
    views=(View("centre", (0.0, 0.03, 0.06), 0, 60, 2, coefficients=(-0.1, 0.02, 0.001, 0.0), lens="radtan"),),
    joint_frame=None,
    world_up="-x",
    poses="aria",
)
HEADSETS = {"front": FRONT, "four": FOUR, "one": ONE}


def person(frames: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns T_world_headset (n, 4, 4) of someone who walks, turns and nods, and joints_world_m (n, J, 3)."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, frames / 30, frames)
    waves = rng.uniform(0.5, 2, (3, BODY.num_joints)), rng.uniform(0, 6, (3, BODY.num_joints))
    angles = 0.25 * np.sin(time[:, None, None] * waves[0] + waves[1])
    R = Rotation.from_rotvec(np.moveaxis(angles, 1, 2).reshape(-1, 3)).as_matrix().reshape(frames, -1, 3, 3)
    root_m, offsets_m = (np.asarray(x, np.float32) for x in (BODY.rest_root_headset_m, BODY.rest_offsets_m))
    T_world_headset = np.tile(np.eye(4), (frames, 1, 1))
    turn = np.stack([40 * time, 8 * np.sin(time)], axis=-1)
    T_world_headset[:, :3, :3] = Rotation.from_euler("YX", turn, degrees=True).as_matrix()
    T_world_headset[:, :3, 3] = np.stack([0.3 * time, 1.6 + 0.02 * np.sin(9 * time), 0.2 * time], axis=-1)
    joints_m = []
    for t in range(frames):
        body_m, _ = kinematics.forward_kinematics(
            BODY.parents, np.eye(3, dtype=np.float32), root_m, R[t].astype(np.float32), offsets_m
        )
        head_m = BODY.rest_joints_headset_m()[0] + body_m - body_m[0]
        joints_m.append(head_m @ T_world_headset[t, :3, :3].T + T_world_headset[t, :3, 3])
    return T_world_headset, np.stack(joints_m)


def pose_of(view: View) -> np.ndarray:
    """Returns T_headset_cam (4, 4) of the stored image."""
    yaw, pitch = np.deg2rad([view.yaw_deg, view.pitch_deg])
    ahead = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    R_headset_upright = np.stack([right, np.cross(ahead, right), ahead], axis=-1)  # columns: x right, y down, z ahead
    any_lens = cameras.pinhole(focal_px=1.0, center_px=(0.0, 0.0), size_px=view.size_wh)
    _, R_stored_upright = cameras.rotate90(any_lens, -view.turns)  # the stored image is the upright one turned back
    T_headset_cam = np.eye(4)
    T_headset_cam[:3, :3], T_headset_cam[:3, 3] = R_headset_upright @ R_stored_upright.T, view.position_m
    return T_headset_cam


def write(
    folder: pathlib.Path, headset: Headset, frames: int = 12, split: str = "train", sequence: str = "a"
) -> pathlib.Path:
    """Returns the folder of a recording that it writes below `folder`, with headset.yaml in `folder`."""
    T_headset_body = np.eye(4)
    T_headset_body[:3, :3], T_headset_body[:3, 3] = headset.R_headset_body, headset.origin_m
    root = folder / split / sequence / "mav0"
    stamps = START_NS + np.arange(frames) * FRAME_NS
    for i, view in enumerate(headset.views):
        _write_camera(root / f"cam{i}", view, stamps + 1000 * i, T_headset_body)
    T_world_headset, joints_m = person(frames)
    T_up = np.eye(4)
    T_up[:3, :3] = up_rotation(headset.world_up).T  # from y up to the recording's world
    _write_poses(root, headset.poses, stamps, T_up @ T_world_headset @ T_headset_body)
    if headset.joint_frame is not None:
        local_m = np.einsum("nji,nkj->nki", T_world_headset[:, :3, :3], joints_m - T_world_headset[:, None, :3, 3])
        stored_m = local_m if headset.joint_frame == "headset" else joints_m @ T_up[:3, :3].T
        names = [headset.prefix + name for name in BODY.joint_names]
        _write_yaml(
            root / "joints0/sensor.yaml",
            {"sensor_type": "joints", "frame": headset.joint_frame, "unit": "m", "names": names},
        )
        header = [f"{name}_{axis} [m]" for name in names for axis in "xyz"]
        _write_csv(root / "joints0/data.csv", ["#timestamp [ns]", *header], stamps, stored_m.reshape(frames, -1))
    views = [
        {"camera": f"cam{i}", "name": v.name, "upright_turns": v.turns} | ({"mirror": v.mirror} if v.mirror else {})
        for i, v in enumerate(headset.views)
    ]
    content = {"format": "epfv2-asl/1", "world_up": headset.world_up, "T_headset_body": T_headset_body.tolist()}
    joints = {name: headset.prefix + name for name in BODY.joint_names} if headset.prefix else {}
    _write_yaml(folder / "headset.yaml", {**content, "views": views, "joints": joints})
    return root


def up_rotation(world_up: str) -> np.ndarray:
    """Returns a rotation that brings an axis to +y."""
    axis = np.eye(3)["xyz".index(world_up[-1])] * (-1 if world_up[0] == "-" else 1)
    return Rotation.align_vectors([[0.0, 1, 0]], [axis])[0].as_matrix()


def _write_camera(folder: pathlib.Path, view: View, stamps: np.ndarray, T_headset_body: np.ndarray) -> None:
    (folder / "data").mkdir(parents=True)
    T_BS = np.linalg.inv(T_headset_body) @ pose_of(view)
    width, height = view.size_wh
    focal = 0.5 * min(view.size_wh)
    _write_yaml(
        folder / "sensor.yaml",
        {
            "sensor_type": "camera",
            "T_BS": {"rows": 4, "cols": 4, "data": T_BS.ravel().tolist()},
            "resolution": list(view.size_wh),
            "camera_model": "pinhole",
            "intrinsics": [focal, focal, (width - 1) / 2, (height - 1) / 2],
            "distortion_model": view.lens,
            "distortion_coefficients": list(view.coefficients),
        },
    )
    names = []
    for row, stamp in enumerate(stamps):
        names.append(f"{stamp}.{view.image_format}")
        picture = stored_image(row, view.size_wh)
        if view.image_format == "png":
            Image.fromarray(picture).save(folder / "data" / names[-1])
        else:
            (folder / "data" / names[-1]).write_bytes(images.encode_grey(picture, 95))
    rows = "".join(f"{stamp},{name}\r\n" for stamp, name in zip(stamps, names, strict=True))
    (folder / "data.csv").write_text("#timestamp [ns],filename\r\n" + rows, newline="")


def stored_image(row: int, size_wh: tuple[int, int]) -> np.ndarray:
    """Returns a smooth image whose brightness tells row and place: brighter to the right, and more so below."""
    width, height = size_wh
    v, u = np.mgrid[:height, :width]
    return (20 + 8 * (row % 10) + 40 * u / width + 80 * v / height).astype(np.uint8)


def _write_poses(root: pathlib.Path, kind: str, stamps: np.ndarray, T_world_body: np.ndarray) -> None:
    w, x, y, z = Rotation.from_matrix(T_world_body[:, :3, :3]).as_quat(scalar_first=True).T
    p = T_world_body[:, :3, 3]
    if kind == "gt":
        header = ["#timestamp [ns]", *(f"p_RS_R_{a} [m]" for a in "xyz"), *(f"q_RS_{a} []" for a in "wxyz")]
        _write_csv(root / "gt/data.csv", header, stamps, np.stack([*p.T, w, x, y, z], axis=-1))
    elif kind == "tum":
        lines = [
            f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(map(repr, map(float, row)))
            for stamp, row in zip(stamps, np.stack([*p.T, x, y, z, w], axis=-1), strict=True)
        ]
        (root / "gt.tum").write_text("# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines) + "\n")
    else:
        header = ["graph_uid", "tracking_timestamp_us", "utc_timestamp_ns"]
        header += [f"t{a}_world_device" for a in "xyz"] + [f"q{a}_world_device" for a in "xyzw"] + ["quality_score"]
        lines = [
            ",".join(["e3", str(stamp // 1000), "-1", *map(repr, map(float, row)), "1.0"])
            for stamp, row in zip(stamps, np.stack([*p.T, x, y, z, w], axis=-1), strict=True)
        ]
        (root / "closed_loop_trajectory.csv").write_text("\n".join([",".join(header), *lines]) + "\n")


def _write_csv(path: pathlib.Path, header: list[str], stamps: np.ndarray, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join([str(s), *map(repr, map(float, row))]) for s, row in zip(stamps, values, strict=True)]
    path.write_text("\n".join([",".join(header), *rows]) + "\n")


def _write_yaml(path: pathlib.Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


# Mistakes: functions that spoil a recording, given the folder of all recordings and that of the sensors of one.


def edit_yaml(path: pathlib.Path, change: Callable[[dict], None]) -> None:
    """Changes the content of a YAML file in place."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def edit_numbers(path: pathlib.Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the numbers (n, columns) after the stamps of a table."""
    header, *rows = path.read_text().splitlines()
    cells = [row.split(",") for row in rows if row]
    values = change(np.array([[float(x) for x in row[1:]] for row in cells]))
    lines = [",".join([row[0], *map(repr, map(float, new))]) for row, new in zip(cells, values, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n")


def edit_stamps(path: pathlib.Path, change: Callable[[int], int]) -> None:
    """Changes the stamps of a table."""
    header, *rows = path.read_text().splitlines()
    cells = [row.partition(",") for row in rows if row]
    path.write_text("\n".join([header, *(f"{change(int(stamp))},{rest}" for stamp, _, rest in cells)]) + "\n")


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Returns a writable copy of a folder."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in (target, *target.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    return target


def _each_camera(data: pathlib.Path) -> list[pathlib.Path]:
    return sorted(data.rglob("cam*/sensor.yaml"))


def _extrinsics(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Returns a mistake in T_BS of all cameras."""

    def spoil(data: pathlib.Path) -> None:
        for path in _each_camera(data):
            edit_yaml(
                path, lambda y: y["T_BS"].update(data=change(np.reshape(y["T_BS"]["data"], (4, 4))).ravel().tolist())
            )

    return spoil


def _centimetres(T: np.ndarray) -> np.ndarray:
    return T * np.array([[1, 1, 1, 100]] * 3 + [[1, 1, 1, 1]])


def _images(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Returns a mistake in the images of the second camera."""

    def spoil(data: pathlib.Path) -> None:
        for path in data.rglob("cam1/data/*"):
            changed = Image.fromarray(np.ascontiguousarray(change(np.asarray(Image.open(path)))))
            changed.save(path)

    return spoil


def _images_and_resolution(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Returns a mistake in the images of the second camera whose new size sensor.yaml states, with the old lens."""

    def spoil(data: pathlib.Path) -> None:
        _images(change)(data)
        for path in data.rglob("cam1/sensor.yaml"):
            edit_yaml(path, lambda y: y.update(resolution=list(change(np.zeros(y["resolution"][::-1])).shape[::-1])))

    return spoil


def _headset(change: Callable[[dict], object]) -> Callable[[pathlib.Path], None]:
    return lambda data: edit_yaml(data / "headset.yaml", change)


def _table(name: str, edit: Callable, change: Callable) -> Callable[[pathlib.Path], None]:
    return lambda data: [edit(path, change) for path in sorted(data.rglob(name))]


def _poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Returns a mistake in the poses (n, 4, 4)."""

    def edit(values: np.ndarray) -> np.ndarray:
        T = np.tile(np.eye(4), (len(values), 1, 1))
        T[:, :3, :3] = Rotation.from_quat(values[:, 3:7], scalar_first=True).as_matrix()
        T[:, :3, 3] = values[:, :3]
        T = change(T)
        q = Rotation.from_matrix(T[:, :3, :3]).as_quat(scalar_first=True)
        return np.concatenate([T[:, :3, 3], q], axis=-1)

    return _table("gt/data.csv", edit_numbers, edit)


def _joints(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Returns a mistake in the joints (n, J, 3)."""
    return _table("joints0/data.csv", edit_numbers, lambda v: change(v.reshape(len(v), -1, 3)).reshape(v.shape))


def _reflected(axis: int) -> Callable[[pathlib.Path], None]:
    """Returns a left-handed world: one of its axes negated."""
    sign = np.ones(3)
    sign[axis] = -1

    def spoil(data: pathlib.Path) -> None:
        _poses(lambda T: np.diag([*sign, 1]) @ T @ np.diag([*sign, 1]))(data)
        _joints(lambda joints: joints * sign)(data)

    return spoil


def _exchange_cameras(headset: dict) -> None:
    cameras_of = {view["name"]: view["camera"] for view in headset["views"]}
    for view in headset["views"]:
        view["camera"] = cameras_of[view["mirror"]]


def _exchange_names(headset: dict) -> None:
    known = headset["joints"]
    swapped = {name: name.replace("_l_", "_*_").replace("_r_", "_l_").replace("_*_", "_r_") for name in known}
    headset["joints"] = {name: known[other] for name, other in swapped.items()}


def _turned(change: Callable[[int], int]) -> Callable[[dict], None]:
    def spoil(headset: dict) -> None:
        for view in headset["views"]:
            view["upright_turns"] = change(view["upright_turns"])

    return spoil


def _other_body(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict], None]:
    return lambda headset: headset.update(T_headset_body=change(np.array(headset["T_headset_body"])).tolist())


def _other_up(headset: dict) -> None:
    headset["world_up"] = {"y": "z", "z": "y"}[headset["world_up"]]


def _noise(values: np.ndarray) -> np.ndarray:
    return values + np.random.default_rng(0).normal(0, 0.03, values.shape)


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
#: Name -> (what spoils the data, the check that finds it, what the problem says).
MISTAKES: dict[str, tuple[Callable[[pathlib.Path], object], str, str]] = {
    "images of half the size": (
        _images(lambda x: x[::2, ::2]),
        "image_size",
        r"cam1: images are \d+x\d+, the calibration says .* scale",
    ),
    "turned images": (
        _images(np.rot90),
        "image_size",
        r"cam1: images are .* turned: set resolution as the images are stored",
    ),
    "turned images with their resolution": (
        _images_and_resolution(np.rot90),
        "principal_point",
        r"the principal point lies at \d+% .* cropped or turned against calibration",
    ),
    "cropped images with their resolution": (
        _images_and_resolution(lambda x: x[: int(0.7 * len(x)), : int(0.7 * x.shape[1])]),
        "principal_point",
        r"the principal point lies at \d+% .* cropped or turned against calibration",
    ),
    "clock of the poses": (
        _table("gt/data.csv", edit_stamps, lambda s: s + 830_000_000),
        "pose_coverage",
        r"gt/data.csv covers 0 of \d+ frames .starts 0.83 s after",
    ),
    "microseconds": (
        _table("gt/data.csv", edit_stamps, lambda s: s // 1000),
        "pose_coverage",
        "covers 0 of .* microseconds in a column of nanoseconds",
    ),
    "clock of the joints": (
        _table("joints0/data.csv", edit_stamps, lambda s: s + 10**10),
        "joint_coverage",
        "joints0/data.csv covers 0 of",
    ),
    "cameras not triggered together": (
        _table("cam1/data.csv", edit_stamps, lambda s: s + 16_700_000),
        "sync",
        "cam1 is 16.7 ms from cam0 at row 0: not triggered together",
    ),
    "rows out of order": (
        _table("gt/data.csv", edit_stamps, lambda s: -s + 2**61),
        "stamps",
        r"gt/data.csv row 1: timestamp \d+ is not later than",
    ),
    "quaternions of another length": (
        _table("gt/data.csv", edit_numbers, lambda v: v * ([1] * 3 + [0.73] * 4)),
        "quat_norm",
        r"gt/data.csv row \d+: the quaternion has length 0.73",
    ),
    "unknown lens": (
        lambda data: edit_yaml(_each_camera(data)[0], lambda y: y.update(distortion_model="equi4")),
        "readable",
        r"cam0/sensor.yaml: .*equi4",
    ),
    "reflection": (_extrinsics(lambda T: T @ np.diag([1.0, 1, -1, 1])), "readable", "cam0/sensor.yaml: .*reflection"),
    "T_BS in centimetres": (
        _extrinsics(_centimetres),
        "camera_far",
        r"the camera is [\d.]+ m from the headset; .* in cm or mm",
    ),
    "OpenGL axes": (_extrinsics(lambda T: T @ OPENGL), "optical_axis", "looks along .* OpenGL axes"),
    "T_BS inverted": (_extrinsics(np.linalg.inv), "optical_axis|camera_far|upright|pair_sides|mirror_pair", "inverted"),
    "turns missing": (_headset(_turned(lambda k: 0)), "upright", "upright_turns should be -1"),
    "turns the wrong way": (_headset(_turned(lambda k: -k)), "upright", "upright_turns should be -1"),
    "cameras exchanged": (
        _headset(_exchange_cameras),
        "pair_sides",
        r"left\w* lies [\d.]+ cm to the right of right\w*; are they exchanged",
    ),
    "T_headset_body inverted": (
        _headset(_other_body(np.linalg.inv)),
        "headset_up|up_axis|optical_axis",
        "T_headset_body|inverted",
    ),
    "T_headset_body left out": (
        _headset(_other_body(lambda T: np.eye(4))),
        "headset_up|up_axis|optical_axis",
        "T_headset_body|inverted",
    ),
    "quaternion order": (
        _table("gt/data.csv", edit_numbers, lambda v: v[:, [0, 1, 2, 4, 5, 6, 3]]),
        "headset_up|up_axis|head_offset",
        "order of the quaternion's columns",
    ),
    "poses inverted": (_poses(np.linalg.inv), "head_distance", "does T_world_headset map headset to world"),
    "joints in centimetres": (
        _joints(lambda x: 100 * x),
        "scale",
        "the body is .* times as large .* Times 0.01 they fit: they are in cm",
    ),
    "joints in millimetres": (_joints(lambda x: 1000 * x), "scale", "Times 0.001 they fit: they are in mm"),
    "another axis up": (
        _headset(_other_up),
        "world_up",
        "the body stands along .* of the world, not along y; .* world_up",
    ),
    "joints of a world with another axis up": (
        _joints(lambda x: x[..., [1, 2, 0]]),
        "head_distance",
        r"b_head is [\d.]+ m from the headset; .* one world",
    ),
    "names exchanged": (_headset(_exchange_names), "left_right", "to the wearer's right; are left and right exchanged"),
    "mirrored world": (_reflected(0), "headset_up|left_right|handedness", "left-handed"),
    "left-handed world": (_reflected(2), "headset_up|handedness|head_offset", "left-handed"),
    "another person's joints": (
        _joints(lambda x: x + np.array([0.0, 0.0, 2.0])),
        "head_distance",
        "b_head is .* m from the headset",
    ),
}
#: As above, of what is unusual but not wrong.
ODDITIES: dict[str, tuple[Callable[[pathlib.Path], object], str, str]] = {
    "joints that are not rigid": (
        _joints(_noise),
        "bone_length",
        r"varies by \d+% in length: the joints are not rigid",
    ),
    "a jump": (
        _table("gt/data.csv", edit_numbers, lambda v: v + np.eye(len(v))[:, 1:2] * ([0.5] * 3 + [0] * 4)),
        "speed",
        "a jump of the tracker",
    ),
}
