"""Calibration files of every format against the formulas of their models in float64, and OpenCV."""

import jax
import numpy as np
import pytest
from calibration_files import (
    FILES,
    K6,
    KB4,
    OCAM,
    RADTAN,
    RATIONAL,
    SIZE,
    T_CAM_BODY,
    WIDE,
    WIDE_F,
    C,
    F,
    P,
    S,
    aria,
    basalt,
    colmap,
    fisheye,
    normal,
    ocam_text,
    opencv_yaml,
    pixels,
    ros,
    write,
)

from epfv2_jax.data.calibration import formats
from epfv2_jax.geometry import cameras


def directions(max_angle_rad: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    angle, around = rng.uniform(0.01, max_angle_rad, 400), rng.uniform(0, 2 * np.pi, 400)
    return np.stack([np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around), np.cos(angle)], axis=-1)


def inside(uv):
    return np.all((uv > -0.5) & (uv < np.asarray(SIZE) - 0.5), axis=-1)


@pytest.mark.parametrize("name", FILES)
def test_projects_as_the_file_says(name, tmp_path):
    content, file, reference, max_angle_rad, refit_px, extrinsics = FILES[name]
    found = formats.read(write(tmp_path, content, file))
    points = directions(max_angle_rad)
    expected = reference(points)
    for camera in found:
        assert camera.size_wh == SIZE and np.array_equal(camera.camera.size_px, SIZE)
        assert camera.camera.focal_px.dtype == np.float32
        uv, valid = jax.jit(cameras.project)(camera.camera, points.astype(np.float32))
        assert np.asarray(valid).all()
        within = inside(expected)
        assert within.sum() > 150
        error = np.abs(uv - expected)[within].max()
        assert error < refit_px + 1e-3
        assert bool(camera.refit_px) == bool(refit_px) and camera.refit_px <= refit_px
    # Where the cameras are: a point known in both frames.
    point_body = np.array([0.7, -0.3, 0.2, 1.0])
    assert sum(camera.T_body_cam is not None for camera in found) == extrinsics
    for camera, T_cam_body in zip(found[:extrinsics], T_CAM_BODY, strict=False):
        np.testing.assert_allclose(np.linalg.inv(camera.T_body_cam) @ point_body, T_cam_body @ point_body, atol=1e-9)


def test_cameras_have_names(tmp_path):
    def names(case):
        content, file, *_ = FILES[case]
        return [camera.name for camera in formats.read(write(tmp_path, content, file))]

    assert names("kalibr radtan") == names("basalt kb4") == names("meta") == ["cam0", "cam1"]
    assert names("euroc") == ["cam0"] and names("ros equidistant") == ["left"]
    assert names("aria online") == ["camera-slam-left", "camera-slam-right"]
    assert names("colmap full") == ["cam1", "cam2"] and names("opencv xml") == ["c"]


@pytest.mark.extras
@pytest.mark.parametrize("name", ["kalibr radtan", "kalibr equidistant", "opencv yaml", "opencv xml", "ros rational"])
def test_projects_as_opencv(name, tmp_path):
    cv2 = pytest.importorskip("cv2")
    content, file, _, max_angle_rad, *_ = FILES[name]
    camera = formats.read(write(tmp_path, content, file))[0].camera
    points = directions(max_angle_rad)
    given = {
        "kalibr radtan": (WIDE_F, RADTAN),
        "kalibr equidistant": (F, KB4),
        "opencv yaml": (WIDE_F, (*RADTAN, 0.002)),
    }.get(name, (F, RATIONAL))
    matrix = np.array([[given[0][0], 0, C[0]], [0, given[0][1], C[1]], [0, 0, 1]])
    project = cv2.fisheye.projectPoints if "equidistant" in name else cv2.projectPoints
    expected, _ = project(points[:, None], np.zeros(3), np.zeros(3), matrix, np.array(given[1]))
    uv, _ = cameras.project(camera, points.astype(np.float32))
    assert np.abs(uv - expected[:, 0])[inside(expected[:, 0])].max() < 1e-3


@pytest.mark.extras
def test_reads_what_opencv_writes(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for name in ("c.yml", "c.xml"):
        storage = cv2.FileStorage(str(tmp_path / name), cv2.FILE_STORAGE_WRITE)
        storage.write("image_width", SIZE[0])
        storage.write("image_height", SIZE[1])
        storage.write("camera_matrix", np.array([[F[0], 0, C[0]], [0, F[1], C[1]], [0, 0, 1]]))
        storage.write("distortion_coefficients", np.array(RATIONAL)[None])
        storage.release()
        (camera,) = formats.read(tmp_path / name)
        np.testing.assert_allclose(camera.camera.focal_px, F, rtol=1e-6)
        k1, k2, p1, p2, *rest = RATIONAL
        np.testing.assert_allclose(camera.camera.radial, (k1, k2, *rest), rtol=1e-6)
        np.testing.assert_allclose(camera.camera.tangential, (p2, p1), rtol=1e-6)


def test_aria_lens_ends_at_its_circle_and_angle(tmp_path):
    around = np.linspace(0, 2 * np.pi, 500)
    for camera in formats.read(write(tmp_path, aria(), "f.json")):
        limit = float(camera.camera.max_angle_rad)
        side = np.sin(limit) * np.stack([np.cos(around), np.sin(around)], axis=-1)
        edge = pixels(
            fisheye(np.concatenate([side, np.full((500, 1), np.cos(limit))], axis=-1), K6, P, S), (F[0], F[0])
        )
        assert limit < 1.4 and np.linalg.norm(edge - C, axis=-1).max() == pytest.approx(330, abs=0.5)


def test_rigs_of_several_models_become_one(tmp_path):
    one = formats.read(write(tmp_path, *FILES["kalibr radtan"][:2]))[0]
    other = formats.read(write(tmp_path, *FILES["basalt kb4"][:2]))[1]
    assert formats.alike([one, one])[0] is one
    refitted, kept = formats.alike([one, other])
    assert kept is other and refitted.camera.model == "fisheye" and 0 < refitted.refit_px < 0.5
    points = directions(0.7)
    expected = pixels(normal(points, RADTAN), WIDE_F)
    uv, valid = cameras.project(refitted.camera, points.astype(np.float32))
    assert np.asarray(valid).all()
    assert np.linalg.norm(uv - expected, axis=-1)[inside(expected)].max() < refitted.refit_px + 2e-3
    np.testing.assert_array_equal(refitted.T_body_cam, one.T_body_cam)
    assert "refitted to" in formats.describe([refitted]) and "refitted" not in formats.describe([one])


def changed(case, *pairs):
    content = FILES[case][0]
    for old, new in pairs:
        assert old in content
        content = content.replace(old, new)
    return content


REFUSED = {
    "unknown": ("a: 1\n", "this is no calibration file of a known format: Kalibr"),
    "empty": ("", "this is no calibration file of a known format"),
    "no text": ("\x00\x01", "not valid YAML|no calibration file"),
    "opencv, four": (opencv_yaml(KB4), "append ':fisheye' or ':normal' to its path"),
    "opencv, tilt": (opencv_yaml((*RATIONAL, *S, 0.1, 0.0)), "tilted sensors are not supported"),
    "opencv, six": (
        opencv_yaml((*RATIONAL[:6],)),
        "number of distortion coefficients: 6 is not one of 4, 5, 8",
    ),
    "opencv, skew": (opencv_yaml(RATIONAL).replace("[241.0, 0.0", "[241.0, 3.0"), "camera_matrix, skew"),
    "camera model": (
        changed("kalibr ds", ('"ds"', '"dss"')),
        "camera_model: 'dss' is not one of .*did you mean ds",
    ),
    "distortion model": (changed("kalibr radtan", ('"radtan"', '"equi4"')), "cam0.distortion_model: 'equi4'"),
    "intrinsics": (changed("kalibr ds", ("[-0.17, ", "[")), r"cam0.intrinsics, number of values \(xi, alpha, fu"),
    "no pose": (changed("kalibr radtan", ("T_cn_cnm1", "T_other")), "cam1: no T_cam_imu, nor T_cn_cnm1"),
    "reflection": (changed("euroc", ("-1.0, 0.0, 0.0, 0.04", "1.0, 0.0, 0.0, 0.04")), "T_BS: .*reflection"),
    "quaternion": (
        basalt("pinhole").replace('"qx": ', '"qx": 2, "was": '),
        r"T_imu_cam\[0\], length of the quaternion",
    ),
    "missing": (changed("meta", ("ImageSize", "Size")), r"CameraCalibration\[0\].ImageSize: required key is missing"),
    "type": (changed("meta", ("[\n    640", '[\n    "640"')), r"ImageSize\[0\]: expected int, got '640'"),
    "label": (aria(sizes=False).replace("camera-slam-left", "camera-own"), "no image size of 'camera-own'; known"),
    "parameters": (colmap("OPENCV", 1, 2, 3), "camera 1: parameters: OPENCV, number of values"),
    "colmap model": (colmap("THIN_PRISM_FISHEYE", *range(12)), "camera 1: model: 'THIN_PRISM_FISHEYE' is not one of"),
    "twice": (colmap("PINHOLE", *WIDE).replace("\n2 ", "\n1 "), "number of different names"),
    "ocam": (ocam_text().replace(f"\n{len(OCAM)} ", "\n9 "), "inverse polynomial, number of coefficients"),
    "ros": (ros("equidistant", RADTAN[:3]), "distortion_coefficients, number for equidistant: 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_says_what_is_wrong_in_which_file(name, tmp_path):
    content, message = REFUSED[name]
    path = write(tmp_path, content, "mav0/cam0/own.txt")
    with pytest.raises(ValueError, match=message) as error:
        formats.read(path)
    assert str(error.value).startswith(path)


def test_lenses_beyond_180_degrees_are_refused(tmp_path):
    wide = changed("kalibr equidistant", ("[241.0, 240.4", "[120.0, 120.0"))
    with pytest.raises(ValueError, match=r"camera cam0: the image is wider or higher than 180 degrees.*crop"):
        formats.read(write(tmp_path, wide, "c.yaml"))
    # Corners beyond it are common.
    formats.read(write(tmp_path, changed("kalibr equidistant", ("[241.0, 240.4", "[205.0, 205.0")), "c.yaml"))


def test_lenses_that_fisheye62_does_not_fit_are_refused(tmp_path):
    odd = changed("kalibr omni", ("[-0.1, 0.08, 0.0001, -0.0004]", "[-0.1, 0.08, 0.2, 0.2]"))
    with pytest.raises(ValueError, match=r"camera cam0: the nearest Fisheye62 lens is [\d.]+ px off, allowed are 0.5"):
        formats.read(write(tmp_path, odd, "c.yaml"))


def test_large_files_are_refused(tmp_path):
    for content in ("a" * (1 << 20) + "\n", '{"a": ' + "1" * (1 << 20) + "}"):
        with pytest.raises(ValueError, match=r"own\.txt.*bytes"):
            formats.read(write(tmp_path, content, "own.txt"))
    many = colmap("PINHOLE", *WIDE).splitlines()[-1]
    lines = "\n".join(many.replace("2 ", f"{i} ", 1) for i in range(65))
    with pytest.raises(ValueError, match=r"number of cameras: must be in \[1, 64\], got 65"):
        formats.read(write(tmp_path, lines, "cameras.txt"))


def test_real_sensor_files(shared_data):
    for i in range(2):
        folder = shared_data / "aria_adt_asl" / "test" / "adt_apartment_3frames" / "mav0" / f"cam{i}"
        (camera,) = formats.read(folder / "sensor.yaml")
        assert camera.name == f"cam{i}" and camera.size_wh == (640, 480) and camera.refit_px == 0
        assert np.rad2deg(camera.camera.max_angle_rad) == pytest.approx(78.1, abs=0.3)
