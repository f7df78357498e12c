"""Configuration of synthetic data sets. It imports neither JAX nor NumPy, so that the command line stays fast."""

import dataclasses

from epfv2_jax.core import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Sizes, motion and seed of a synthetic data set."""

    seed: int = 0  # of people, motions and rooms
    rig: str | None = None  # what sees the people, as `recording.open_rig` takes it; None: the headset of EgoBody3M
    train_sequences: int = 80  # 0: none, or every part of the motion files once
    validation_sequences: int = 8  # likewise
    test_sequences: int = 8  # likewise
    frames: int = 96  # of a sequence; the last part of a motion file may be shorter
    frame_step: int = 1  # frames of motion (30 a second) for each image: 3 gives 10 images a second
    image_width: int = 80  # of the stored images, pixels; EgoBody3M's have 640 at the sides and 1280 in front
    # Range of the infrared light of the headset's lamps 1 m away, where a room's is about 1; (0, 0): it has none.
    headset_lamp: tuple[float, float] = (0.0, 0.0)
    clips_per_person: int = 8  # steps in which a person appears where images are rendered in the loop
    train_motion: tuple[str, ...] = ()  # motion capture files (.amc with its .asf beside it, .bvh); empty: procedural
    validation_motion: tuple[str, ...] = ()  # likewise, of other people
    test_motion: tuple[str, ...] = ()  # likewise, of other people
    # Procedural activities (keys of `activities.ACTIVITIES`) that no sequence shows: hands that no camera sees are for
    # models with a memory, and long runs.
    left_out_activities: tuple[str, ...] = ("behind",)
    held_out_activities: tuple[str, ...] = ()  # those that the test sequences show, and they alone
    motion_fps: float | None = None  # frames a second of the .amc files, which do not state it; CMU's originals: 120

    def __post_init__(self):
        sequences = {
            f"{split}_sequences": getattr(self, f"{split}_sequences") for split in ("train", "validation", "test")
        }
        checks.at_least(0, seed=self.seed, **sequences)
        checks.at_least(1, frames=self.frames, frame_step=self.frame_step, clips_per_person=self.clips_per_person)
        checks.within(0, self.headset_lamp[1], **{"headset_lamp, the lower end": self.headset_lamp[0]})
        if self.motion_fps is not None:
            checks.within(1, 1000, motion_fps=self.motion_fps)
        if self.rig is None:
            check_image_width(self.image_width)
        checks.within(16, 2048, image_width=self.image_width)


def check_image_width(image_width: int) -> None:
    """Raises unless images of this width have whole heights (side images are 4:3, front images 5:4)."""
    if image_width < 20 or image_width % 20:
        raise ValueError(f"image_width: must be a positive multiple of 20, such as 80 or 640, got {image_width}")
