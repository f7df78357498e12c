"""Released weights of whole models. To add one: write a function that reads its files, and a line in IMPORTERS."""

from collections.abc import Callable, Sequence

from epfv2_jax.models.baselines.egoposeformer_v1 import weights as egoposeformer_v1
from epfv2_jax.models.baselines.unrealego import weights as unrealego
from epfv2_jax.models.encoders.weights.reading import TensorFile
from epfv2_jax.models.imported import ImportedModel

#: By the `kind` of the model's configuration: from the headers of its files to the model. The import is complete or a
#: ValueError: every tensor is used or ignored for a stated reason, and every parameter is filled.
IMPORTERS: dict[str, Callable[[Sequence[TensorFile]], ImportedModel]] = {
    "epfv1": egoposeformer_v1.load,
    "unrealego": unrealego.load,
}
