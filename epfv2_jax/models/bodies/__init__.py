"""Body representations by name. To add one: write a module with a `Body` and add it to `BODIES`.

Parameters are residuals on a rest pose, which zeros give. They refer to the level frame: at the headset, with its
heading, but upright (y opposite to gravity). A nod of the head then does not change the parameters of a standing body;
in the headset frame its feet swing by half a metre. Joints are returned in the headset frame, as in the paper; the
level frame is our choice. Without the headset's pose (ablation 4) the level frame is the headset frame.
"""

from epfv2_jax.models.bodies.base import Body
from epfv2_jax.models.bodies.keypoints import KeypointBody
from epfv2_jax.models.bodies.parametric import ParametricBody

BODIES: dict[str, type[Body]] = {
    "keypoints": KeypointBody,
    "parametric": ParametricBody,
}
