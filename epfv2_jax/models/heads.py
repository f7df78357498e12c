"""Output heads: residuals of body parameters, and the uncertainty of each joint. Always float32."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

#: Diagonal of the Cholesky factor in an untrained model, metres, and the unit of the raw outputs (our choice).
INITIAL_SIGMA_M = 0.1
#: Smallest diagonal entry of the Cholesky factor, metres (our choice).
MIN_SIGMA_M = 1e-3

_LAST_INIT = nn.initializers.normal(1e-3)
# Row-major entries of L that the six outputs fill: first the diagonal, then (1, 0), (2, 0), (2, 1).
_PLACES = (0, 4, 8, 3, 6, 7)
_TO_LOWER = np.eye(9, dtype=np.float32)[list(_PLACES)]


class Head(nn.Module):
    """Returns (..., outputs) float32 of tokens (..., C): norm, a hidden layer and an output layer near zero."""

    outputs: int
    hidden_width: int
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, token: jax.Array) -> jax.Array:
        x = nn.LayerNorm(dtype=jnp.float32, param_dtype=self.param_dtype, name="norm")(token.astype(jnp.float32))
        x = nn.Dense(self.hidden_width, dtype=jnp.float32, param_dtype=self.param_dtype, name="hidden")(x)
        return nn.Dense(
            self.outputs, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=_LAST_INIT, name="last"
        )(nn.gelu(x))


class MapHead(nn.Module):
    """Returns maps (..., h * cells, w * cells, channels) float32 of features (..., h, w, C).

    One linear layer; each cell of the features gives the values of `cells` x `cells` finer ones.
    """

    channels: int
    cells: int
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        *batch, h, w, _ = features.shape
        n, k = self.cells, self.channels
        flat = nn.Dense(n * n * k, dtype=jnp.float32, param_dtype=self.param_dtype, name="cells")
        x = flat(features.astype(jnp.float32)).reshape(-1, h, w, n, n, k)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(*batch, h * n, w * n, k)


def cholesky_from_raw(raw: jax.Array) -> jax.Array:
    """Returns lower-triangular L (..., J, 3, 3), metres, of the scale matrix L L^T, from raw (..., J, 6).

    The first three give the diagonal, softplus + 1 mm, so it is positive; zeros give `INITIAL_SIGMA_M` on each axis.
    L is assembled by a product with a constant matrix: no scatter.
    """
    raw = raw.astype(jnp.float32)
    bias = float(np.log(np.expm1(1.0 - MIN_SIGMA_M / INITIAL_SIGMA_M)))
    diagonal = INITIAL_SIGMA_M * nn.softplus(raw[..., :3] + bias) + MIN_SIGMA_M
    six = jnp.concatenate([diagonal, INITIAL_SIGMA_M * raw[..., 3:]], axis=-1)
    return jnp.matmul(six, _TO_LOWER, precision=jax.lax.Precision.HIGHEST).reshape(*raw.shape[:-1], 3, 3)
