// Projects points with the lens models of a graph: the formulas of epfv2_jax/geometry/cameras.py.

const MIN_DEPTH_M = 1e-3;

/** Returns camera `view` of a frame's inputs, as `project` takes it. */
export function cameraOf(inputs, view, model) {
  const part = (name) => {
    const { data, dims } = inputs[name];
    const size = data.length / dims[1]; // (1, V, ...)
    return data.subarray(view * size, (view + 1) * size);
  };
  return {
    model,
    focal: part('focal_px'),
    center: part('center_px'),
    radial: part('radial'),
    tangential: part('tangential'),
    thinPrism: part('thin_prism'),
    maxAngle: part('max_angle_rad')[0],
    T: part('T_cam_headset'),
  };
}

/** Returns the pixel [u, v] of a point in the headset frame, metres; null where the lens model does not see it. */
export function project(camera, point) {
  const { T, focal, center, maxAngle } = camera;
  const [x, y, z] = [0, 4, 8].map((row) => T[row] * point[0] + T[row + 1] * point[1] + T[row + 2] * point[2] + T[row + 3]);
  const radius = Math.hypot(x, y);
  if (z <= MIN_DEPTH_M || Math.atan2(radius, z) >= maxAngle) return null;
  const [u, v] = distort(camera, x, y, z, radius);
  return [focal[0] * u + center[0], focal[1] * v + center[1]];
}

function distort({ model, radial: k, tangential: p, thinPrism: s }, x, y, z, radius) {
  if (model === 'pinhole') return [x / z, y / z];
  if (model === 'fisheye') {
    const angle = Math.atan2(radius, z);
    const gain = polynomial(k, angle * angle);
    const scale = radius > 0 ? (angle * gain) / radius : 0;
    return decentred(scale * x, scale * y, p, s);
  }
  const r2 = (radius / z) ** 2;
  const gain = polynomial(k.subarray(0, 3), r2) / polynomial(k.subarray(3, 6), r2);
  return add(scaled(x / z, y / z, gain), shift(x / z, y / z, p, s));
}

/** Returns 1 + c1 x + c2 x^2 + ... */
function polynomial(coefficients, x) {
  return 1 + coefficients.reduceRight((sum, coefficient) => (sum + coefficient) * x, 0);
}

/** Returns what decentring and thin prism add to a point m of the image plane. */
function shift(mx, my, p, s) {
  const r2 = mx * mx + my * my;
  const dot = 2 * (p[0] * mx + p[1] * my);
  return [r2 * p[0] + dot * mx + s[0] * r2 + s[1] * r2 * r2, r2 * p[1] + dot * my + s[2] * r2 + s[3] * r2 * r2];
}

const decentred = (mx, my, p, s) => add([mx, my], shift(mx, my, p, s));
const scaled = (x, y, factor) => [x * factor, y * factor];
const add = (a, b) => [a[0] + b[0], a[1] + b[1]];
