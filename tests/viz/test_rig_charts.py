"""Cameras are shown where they are: the wearer's left on the left, and the front of the headset on the left too."""

import numpy as np

from epfv2_jax.data import rig as rig_lib
from epfv2_jax.geometry import layout
from epfv2_jax.viz import rigs

LAYOUT = layout.EGOBODY3M
RIG = rig_lib.upright(rig_lib.default_rig(), LAYOUT, (48, 48))


def test_a_row_says_where_a_camera_is_and_looks():
    rows = {row[0]: row for row in rigs.rows(RIG, LAYOUT)}
    assert list(rows) == ["left side", "left front", "right front", "right side"]
    for name, row in rows.items():
        left, _, forward = map(float, row[1].split(", "))
        yaw_deg, pitch_deg = map(int, row[2].split(", "))
        assert (left > 0) == name.startswith("left") and forward > 0 and pitch_deg > 0
        assert abs(yaw_deg) < 30 if "front" in name else np.sign(yaw_deg) == np.sign(left)
        assert row[4] == "48x48"


def test_the_chart_has_left_and_front_on_the_left():
    above, beside = rigs.draw(RIG, LAYOUT).axes[:2]
    for axes in (above, beside):
        low, high = axes.get_xlim()
        assert low > high, "the axis is not reversed"
    drawn = {line.get_label(): line.get_xydata()[0] for line in above.lines}
    assert drawn["left side"][0] > 0 > drawn["right side"][0]
    T_headset_cam = np.linalg.inv(np.asarray(RIG.T_cam_headset, np.float64))
    np.testing.assert_allclose(drawn["left front"], 100 * T_headset_cam[1, [0, 2], 3])
