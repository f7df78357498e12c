"""Calibration files of every format, and the pixels that they mean, by the formulas of their models in float64."""

import json
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

SIZE = (640, 480)
F, C = (241.0, 240.4), (317.5, 241.5)
K6, P, S = (-0.028, 0.122, -0.12, 0.06, -0.02, 0.003), (-0.002, 0.0034), (0.003, -0.0007, -0.002, 0.0005)
KB4 = (0.01, 0.02, -0.011, 0.002)
RADTAN = (-0.21, 0.04, 3e-4, -2e-4)
RATIONAL = (0.42, 0.21, 4e-4, -3e-4, 0.012, 0.74, 0.33, 0.046)
WIDE_F = (400.0, 401.0)  # of lenses that bend little
# Two cameras of a body whose x points ahead and whose z points up; the second looks to the right.
T_BODY_CAM = np.tile(np.eye(4), (2, 1, 1))
T_BODY_CAM[0, :3] = [[0, 0, 1, 0.09], [-1, 0, 0, 0.04], [0, -1, 0, -0.01]]
T_BODY_CAM[1, :3, :3] = Rotation.from_euler("zyx", [-80, 20, 5], degrees=True).as_matrix() @ T_BODY_CAM[0, :3, :3]
T_BODY_CAM[1, :3, 3] = [0.05, -0.06, 0.02]
T_CAM_BODY = np.linalg.inv(T_BODY_CAM)


def pixels(plane, focal=F, center=C):
    return np.asarray(focal) * plane + np.asarray(center)


def fisheye(points, k, p=(0, 0), s=(0, 0, 0, 0)):
    """Fisheye62 and FISHEYE624, and Kannala-Brandt without p and s."""
    side = np.linalg.norm(points[:, :2], axis=-1)
    angle = np.arctan2(side, points[:, 2])
    radius = angle * (1 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(k)))
    u, v = (points[:, :2] * (radius / side)[:, None]).T
    r2 = u * u + v * v
    return np.stack(
        [
            u + p[0] * (r2 + 2 * u * u) + 2 * p[1] * u * v + s[0] * r2 + s[1] * r2**2,
            v + p[1] * (r2 + 2 * v * v) + 2 * p[0] * u * v + s[2] * r2 + s[3] * r2**2,
        ],
        axis=-1,
    )


def radtan(x, y, d):
    """OpenCV's normal model on the plane z = 1."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*d, *([0] * (8 - len(d))))
    r2 = x * x + y * y
    gain = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    u = x * gain + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    return np.stack([u, y * gain + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1)


def normal(points, d):
    return radtan(points[:, 0] / points[:, 2], points[:, 1] / points[:, 2], d)


def double_sphere(points, xi, alpha):
    x, y, z = points.T
    d1 = np.linalg.norm(points, axis=-1)
    shifted = xi * d1 + z
    return points[:, :2] / (alpha * np.sqrt(x * x + y * y + shifted**2) + (1 - alpha) * shifted)[:, None]


def extended_unified(points, alpha, beta):
    x, y, z = points.T
    return points[:, :2] / (alpha * np.sqrt(beta * (x * x + y * y) + z * z) + (1 - alpha) * z)[:, None]


def omni(points, xi, d):
    depth = points[:, 2] + xi * np.linalg.norm(points, axis=-1)
    return radtan(points[:, 0] / depth, points[:, 1] / depth, d)


def field_of_view(points, w):
    plane = points[:, :2] / points[:, 2:]
    r = np.linalg.norm(plane, axis=-1, keepdims=True)
    return plane / r * np.arctan(2 * r * np.tan(w / 2)) / w


# The polynomial of an equidistant lens of 240 px per radian that bends at the edge, in the angle above the image plane.
OCAM = np.polynomial.polynomial.Polynomial([0, 240.0, 0, -9.0])(
    np.polynomial.polynomial.Polynomial([np.pi / 2, 1])
).coef
AFFINE = (0.9991, -0.0003, 0.0002)


def ocam(points, center, affine):
    c, d, e = affine
    angle = np.arctan2(-points[:, 2], np.linalg.norm(points[:, :2], axis=-1))
    radius = sum(a * angle**i for i, a in enumerate(OCAM))
    column, row = (points[:, :2] / np.linalg.norm(points[:, :2], axis=-1, keepdims=True) * radius[:, None]).T
    return np.stack([column + e * row + center[0], c * row + d * column + center[1]], axis=-1)


def kalibr(model, intrinsics, distortion="none", coefficients=()):
    def camera(T_cam_imu):
        return {
            "camera_model": model,
            "intrinsics": list(intrinsics),
            "distortion_model": distortion,
            "distortion_coeffs": list(coefficients),
            "resolution": list(SIZE),
            "rostopic": "/cam",
            "cam_overlaps": [1],
            **T_cam_imu,
        }

    # The first camera by its pose to the IMU, the second by the chain.
    chain = (T_CAM_BODY[1] @ T_BODY_CAM[0]).tolist()
    return json.dumps(
        {"cam0": camera({"T_cam_imu": T_CAM_BODY[0].tolist()}), "cam1": camera({"T_cn_cnm1": chain})}, indent=1
    ).replace("{", "{ ")


def yaml_of(mapping, indent=""):
    """Block style YAML: JSON's brackets would pass as JSON."""
    lines = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", yaml_of(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return "\n".join(lines)


def camchain(*given):
    return yaml_of(json.loads(kalibr(*given)))


def sensor(model, intrinsics, distortion, coefficients):
    return yaml_of(
        {
            "sensor_type": "camera",
            "T_BS": {"cols": 4, "rows": 4, "data": T_BODY_CAM[0].ravel().tolist()},
            "rate_hz": 20,
            "resolution": list(SIZE),
            "camera_model": model,
            "intrinsics": list(intrinsics),
            "distortion_model": distortion,
            "distortion_coefficients": list(coefficients),
        }
    )


def basalt(kind, focal=F, **parameters):
    quaternions = [Rotation.from_matrix(T[:3, :3]).as_quat() for T in T_BODY_CAM]
    poses = [
        dict(zip(("px", "py", "pz", "qx", "qy", "qz", "qw"), (*T[:3, 3], *q), strict=True))
        for T, q in zip(T_BODY_CAM, quaternions, strict=True)
    ]
    lens = {"fx": focal[0], "fy": focal[1], "cx": C[0], "cy": C[1], **parameters}
    value = {
        "T_imu_cam": poses,
        "intrinsics": [{"camera_type": kind, "intrinsics": lens}] * 2,
        "resolution": [list(SIZE)] * 2,
        "imu_update_rate": 200.0,
    }
    return json.dumps({"value0": value})


def meta():
    cameras_of = [
        {
            "Id": str(i),
            "ImageSize": list(SIZE),
            "DeviceFromCamera": T.ravel().tolist(),
            "Projection": {"Model": "PinholeSymmetric", "Coefficients": [F[0], *C]},
            "Distortion": {"Model": "Fisheye62", "Coefficients": [*K6, *P]},
        }
        for i, T in enumerate(T_BODY_CAM)
    ]
    return json.dumps({"FileFormat": {"Version": "1.1.0"}, "CameraCalibration": cameras_of}, indent=1)


def aria(lines=1, sizes=True):
    def camera(label, T):
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat()
        return {
            "Calibrated": True,
            "Label": label,
            "SerialNumber": "1",
            "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": [F[0], *C, *K6, *P, *S]},
            "T_Device_Camera": {"Translation": T[:3, 3].tolist(), "UnitQuaternion": [w, [x, y, z]]},
        }

    names = ("camera-slam-left", "camera-slam-right")
    content = {"CameraCalibrations": [camera(n, T) for n, T in zip(names, T_BODY_CAM, strict=True)]}
    if sizes:
        content["ImageSizes"] = [list(SIZE)] * 2
    return "\n".join([json.dumps(content)] * lines) + "\n"


def opencv_yaml(coefficients, focal=F):
    matrix = [focal[0], 0.0, C[0], 0.0, focal[1], C[1], 0.0, 0.0, 1.0]
    count = len(coefficients)
    return (
        f'%YAML:1.0\n---\ncalibration_time: "Tue 1 Jan"\nimage_width: {SIZE[0]}\nimage_height: {SIZE[1]}\n'
        f"camera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: {matrix}\n"
        f"distortion_coefficients: !!opencv-matrix\n   rows: {count}\n   cols: 1\n   dt: d\n   data: [ "
        + ", ".join(f"{c:.6e}" for c in coefficients)
        + " ]\navg_reprojection_error: 2.1e-01\n"
    )


def opencv_xml(coefficients, focal=F):
    def matrix(name, rows, cols, values):
        text = " ".join(map(str, values))
        return (
            f'<{name} type_id="opencv-matrix"><rows>{rows}</rows><cols>{cols}</cols><dt>d</dt>\n'
            f"<data>\n{text}</data></{name}>"
        )

    return (
        f'<?xml version="1.0"?>\n<opencv_storage>\n<image_width>{SIZE[0]}</image_width>\n'
        f"<image_height>{SIZE[1]}</image_height>\n"
        + matrix("camera_matrix", 3, 3, [focal[0], 0, C[0], 0, focal[1], C[1], 0, 0, 1])
        + matrix("distortion_coefficients", len(coefficients), 1, coefficients)
        + "</opencv_storage>\n"
    )


def ros(model, coefficients, focal=F):
    matrix = [focal[0], 0, C[0], 0, focal[1], C[1], 0, 0, 1]
    return yaml_of(
        {
            "image_width": SIZE[0],
            "image_height": SIZE[1],
            "camera_name": "left",
            "camera_matrix": {"rows": 3, "cols": 3, "data": matrix},
            "distortion_model": model,
            "distortion_coefficients": {"rows": 1, "cols": len(coefficients), "data": list(coefficients)},
        }
    )


def ros_message(model, coefficients, focal=F):
    matrix = [focal[0], 0, C[0], 0, focal[1], C[1], 0, 0, 1]
    return yaml_of(
        {"height": SIZE[1], "width": SIZE[0], "distortion_model": model, "d": list(coefficients), "k": matrix}
    )


def colmap(model, *parameters):
    line = " ".join(map(str, (model, *SIZE, *parameters)))
    return f"# Camera list with one line of data per camera:\n# CAMERA_ID, MODEL, WIDTH, ...\n1 {line}\n2 {line}\n"


HALF = (C[0] + 0.5, C[1] + 0.5)


def ocam_text():
    polynomial = " ".join(f"{a:.12e}" for a in OCAM)
    return (
        "#polynomial coefficients for the DIRECT mapping function\n\n3 -240.0 0.0 1e-3\n\n"
        f"#polynomial coefficients for the inverse mapping function\n\n{len(OCAM)} {polynomial}\n\n"
        f'#center: "row" and "column"\n\n{C[1]} {C[0]}\n\n#affine parameters\n\n{" ".join(map(str, AFFINE))}\n\n'
        f'#image size: "height" and "width"\n\n{SIZE[1]} {SIZE[0]}\n\n'
    )


def ocam_json():
    return json.dumps(
        {
            "name": "own",
            "size": list(SIZE),
            "imageCircleRadius": 300,
            "image_center": list(C),
            "polynomialC2W": [-240.0, 0, 1e-3],
            "polynomialW2C": list(OCAM),
            "affine": list(AFFINE),
        }
    )


XI = ("xi", -0.17), ("alpha", 0.59)
WIDE = (*WIDE_F, *C)
FISHEYE_NAMES = (*(f"k{i}" for i in range(1, 7)), "p1", "p2", "s1", "s2", "s3", "s4")
# Name -> file, its name, the pixels of points, the largest angle compared (radians), the limit of a refit (pixels; 0:
# exact), extrinsics or not.
FILES = {
    "kalibr pinhole": (camchain("pinhole", WIDE), "c.yaml", lambda p: pixels(normal(p, RADTAN * 0), WIDE_F), 0.9, 0, 2),
    "kalibr radtan": (
        camchain("pinhole", WIDE, "radtan", RADTAN),
        "c.yaml",
        lambda p: pixels(normal(p, RADTAN), WIDE_F),
        0.7,
        0,
        2,
    ),
    "kalibr equidistant": (
        camchain("pinhole", (*F, *C), "equidistant", KB4),
        "c.yaml",
        lambda p: pixels(fisheye(p, KB4)),
        1.4,
        0,
        2,
    ),
    "kalibr fov": (
        camchain("pinhole", (*F, *C), "fov", [0.92]),
        "c.yaml",
        lambda p: pixels(field_of_view(p, 0.92)),
        1.2,
        1e-2,
        2,
    ),
    "kalibr omni": (
        camchain("omni", (1.7, 1000.0, 1001.0, *C), "radtan", (-0.1, 0.08, 1e-4, -4e-4)),
        "c.yaml",
        lambda p: pixels(omni(p, 1.7, (-0.1, 0.08, 1e-4, -4e-4)), (1000.0, 1001.0)),
        0.8,
        0.05,
        2,
    ),
    "kalibr ds": (
        camchain("ds", (-0.17, 0.59, 190.0, 191.0, *C)),
        "c.yaml",
        lambda p: pixels(double_sphere(p, -0.17, 0.59), (190.0, 191.0)),
        1.4,
        1e-2,
        2,
    ),
    "kalibr eucm": (
        camchain("eucm", (0.63, 1.05, 230.0, 231.0, *C)),
        "c.yaml",
        lambda p: pixels(extended_unified(p, 0.63, 1.05), (230.0, 231.0)),
        1.4,
        1e-2,
        2,
    ),
    "euroc": (
        sensor("pinhole", WIDE, "radial-tangential", RADTAN),
        "mav0/cam0/sensor.yaml",
        lambda p: pixels(normal(p, RADTAN), WIDE_F),
        0.7,
        0,
        1,
    ),
    "euroc fisheye624": (
        sensor("fisheye624", (*F, *C), "fisheye624", (*K6, *P, *S)),
        "mav0/cam0/sensor.yaml",
        lambda p: pixels(fisheye(p, K6, P, S)),
        1.2,
        0,
        1,
    ),
    "euroc rational": (
        sensor("pinhole", (*F, *C), "rational", RATIONAL),
        "mav0/cam0/sensor.yaml",
        lambda p: pixels(normal(p, RATIONAL)),
        1.3,
        0,
        1,
    ),
    "basalt kb4": (
        basalt("kb4", **dict(zip(FISHEYE_NAMES, KB4, strict=False))),
        "c.json",
        lambda p: pixels(fisheye(p, KB4)),
        1.4,
        0,
        2,
    ),
    "basalt ds": (
        basalt("ds", (190.0, 191.0), **dict(XI)),
        "c.json",
        lambda p: pixels(double_sphere(p, -0.17, 0.59), (190.0, 191.0)),
        1.4,
        1e-2,
        2,
    ),
    "basalt ucm": (basalt("ucm", alpha=0.6), "c.json", lambda p: pixels(extended_unified(p, 0.6, 1.0)), 1.3, 1e-2, 2),
    "basalt radtan8": (
        basalt(
            "pinhole-radtan8",
            **dict(zip(("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), RATIONAL, strict=True), rpmax=2.7),
        ),
        "c.json",
        lambda p: pixels(normal(p, RATIONAL)),
        np.arctan(2.69),
        0,
        2,
    ),
    "basalt fisheye624": (
        basalt("fisheye624", **dict(zip(FISHEYE_NAMES, (*K6, *P, *S), strict=True))),
        "c.json",
        lambda p: pixels(fisheye(p, K6, P, S)),
        1.2,
        0,
        2,
    ),
    "meta": (meta(), "camera_calibration_v2.json", lambda p: pixels(fisheye(p, K6, P), (F[0], F[0])), 1.3, 0, 2),
    "aria factory": (aria(), "f.json", lambda p: pixels(fisheye(p, K6, P, S), (F[0], F[0])), 1.2, 0, 2),
    "aria online": (
        aria(lines=3, sizes=False),
        "online_calibration.jsonl",
        lambda p: pixels(fisheye(p, K6, P, S), (F[0], F[0])),
        1.2,
        0,
        2,
    ),
    "opencv yaml": (
        opencv_yaml((*RADTAN, 0.002), WIDE_F),
        "c.yml",
        lambda p: pixels(normal(p, (*RADTAN, 0.002)), WIDE_F),
        0.7,
        0,
        0,
    ),
    "opencv yaml fisheye": (opencv_yaml(KB4), "c.yml:fisheye", lambda p: pixels(fisheye(p, KB4)), 1.4, 0, 0),
    "opencv xml": (opencv_xml(RATIONAL), "c.xml", lambda p: pixels(normal(p, RATIONAL)), 1.3, 0, 0),
    "opencv xml normal": (
        opencv_xml(RADTAN, WIDE_F),
        "c.xml:normal",
        lambda p: pixels(normal(p, RADTAN), WIDE_F),
        0.7,
        0,
        0,
    ),
    "ros plumb_bob": (
        ros("plumb_bob", (*RADTAN, 0.002), WIDE_F),
        "c.yaml",
        lambda p: pixels(normal(p, (*RADTAN, 0.002)), WIDE_F),
        0.7,
        0,
        0,
    ),
    "ros rational": (
        ros_message("rational_polynomial", RATIONAL),
        "c.yaml",
        lambda p: pixels(normal(p, RATIONAL)),
        1.3,
        0,
        0,
    ),
    "ros equidistant": (ros("equidistant", KB4), "c.yaml", lambda p: pixels(fisheye(p, KB4)), 1.4, 0, 0),
    "colmap opencv": (
        colmap("OPENCV", *WIDE_F, *HALF, *RADTAN),
        "cameras.txt",
        lambda p: pixels(normal(p, RADTAN), WIDE_F),
        0.7,
        0,
        0,
    ),
    "colmap simple radial": (
        colmap("SIMPLE_RADIAL", 400.0, *HALF, -0.1),
        "cameras.txt",
        lambda p: pixels(normal(p, (-0.1, 0, 0, 0)), (400.0, 400.0)),
        0.7,
        0,
        0,
    ),
    "colmap fisheye": (
        colmap("OPENCV_FISHEYE", *F, *HALF, *KB4),
        "cameras.txt",
        lambda p: pixels(fisheye(p, KB4)),
        1.4,
        0,
        0,
    ),
    "colmap full": (
        colmap("FULL_OPENCV", *F, *HALF, *RATIONAL),
        "cameras.txt",
        lambda p: pixels(normal(p, RATIONAL)),
        1.3,
        0,
        0,
    ),
    "colmap thin prism": (
        colmap("RAD_TAN_THIN_PRISM_FISHEYE", *F, *HALF, *K6, *P, *S),
        "cameras.txt",
        lambda p: pixels(fisheye(p, K6, P, S)),
        1.2,
        0,
        0,
    ),
    "ocam text": (ocam_text(), "calib_results.txt", lambda p: ocam(p, C, AFFINE), 1.3, 0.15, 0),
    "ocam json": (ocam_json(), "ocam.json", lambda p: ocam(p, C, (1, 0, 0)), 1.2, 1e-2, 0),
}


def write(folder: pathlib.Path, content: str, name: str) -> str:
    """Writes a file; returns its path with the suffix that names the lens model, if its name has one."""
    path = folder / name.partition(":")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return f"{path}{name[len(name.partition(':')[0]) :]}"
