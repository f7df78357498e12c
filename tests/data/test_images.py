import numpy as np
import pytest

from epfv2_jax.data import images


def ramp_jpeg():
    return images.encode_grey(np.broadcast_to(np.arange(96, dtype=np.uint8)[None], (64, 96)), 100)


def test_round_trip_and_header():
    jpeg = ramp_jpeg()
    assert images.jpeg_size_hw(jpeg) == (64, 96)
    assert np.abs(images.decode_grey(jpeg).astype(int) - np.arange(96)[None]).max() <= 2


def test_upright_turns_stored_right_to_down():
    stored = np.zeros((3, 5), np.uint8)
    stored[0, 4] = 1  # far along the stored +x, at its top
    turned = images.upright(stored, -1)
    assert turned.shape == (5, 3) and turned[4, 2] == 1
    np.testing.assert_array_equal(images.upright(turned, 1), stored)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
def test_upright_image_of_a_size_is_the_resized_upright_image(turns):
    stored = np.add.outer(2 * np.arange(24), np.arange(40)).astype(np.uint8)
    resized = images.upright(stored, turns, (20, 16))
    assert resized.shape == (20, 16)
    # Pillow rounds after each axis: the order of the axes may change a grey level.
    assert np.abs(resized.astype(int) - images.resize(np.rot90(stored, turns), (20, 16))).max() <= 1


def test_resize_keeps_pixel_centres():
    """A ramp resized is the ramp at the coordinates that a camera's resize gives, for factors that are no integers."""
    ramp = np.broadcast_to(2 * np.arange(120, dtype=np.uint8)[None], (50, 120))
    resized = images.resize(ramp, (20, 64))
    u_old = (np.arange(64) + 0.5) * 120 / 64 - 0.5
    assert resized.shape == (20, 64)
    assert np.abs(resized[10, 2:-2] - 2 * u_old[2:-2]).max() <= 0.52  # half a grey level is rounding


@pytest.mark.parametrize("keep", [0, 1, 40, 300])
def test_truncated_jpeg_is_an_error(keep):
    jpeg = ramp_jpeg()
    with pytest.raises(ValueError, match="JPEG"):
        images.decode_grey(jpeg[: min(keep, len(jpeg) - 30)])


def test_bomb_is_refused_before_decoding(bomb_jpeg):
    assert len(bomb_jpeg) <= 380
    with pytest.raises(ValueError, match=r"\(65500x65500\) in \d+ bytes: must be in \[1, 8000000\]"):
        images.decode_grey(bomb_jpeg)


def test_encode_refuses_other_arrays():
    with pytest.raises(ValueError, match=r"image \(H, W\): .*got \(4, 4\) float64"):
        images.encode_grey(np.zeros((4, 4)))
