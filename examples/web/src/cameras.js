// Projects points with the lens models of a graph: the formulas of epfv2_jax/geometry/cameras.py.

import { transformed } from './skeleton.js';

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
  const [x, y, z] = transformed(T, point);
  const radius = Math.hypot(x, y);
  if (z <= MIN_DEPTH_M || Math.atan2(radius, z) >= maxAngle) return null;
  const [u, v] = distort(camera, x, y, z, radius);
  return [focal[0] * u + center[0], focal[1] * v + center[1]];
}

/** Returns where the lens moves a point of the camera frame, on the image plane at focal length 1. */
function distort({ model, radial: k, tangential: p, thinPrism: s }, x, y, z, radius) {
  if (model === 'pinhole') return [x / z, y / z];
  if (model === 'fisheye') {
    const angle = Math.atan2(radius, z);
    const scale = radius > 0 ? (angle * polynomial(k, angle * angle)) / radius : 0;
    const m = [scale * x, scale * y];
    return sum(m, decentring(m, p, s));
  }
  const m = [x / z, y / z];
  const r2 = m[0] * m[0] + m[1] * m[1];
  const gain = polynomial(k.subarray(0, 3), r2) / polynomial(k.subarray(3, 6), r2);
  return sum([gain * m[0], gain * m[1]], decentring(m, p, s));
}

/** Returns 1 + c1 x + c2 x^2 + ... */
function polynomial(coefficients, x) {
  return 1 + coefficients.reduceRight((rest, coefficient) => (rest + coefficient) * x, 0);
}

/** Returns by how much tangential distortion p and thin prism s move a point m. */
function decentring(m, p, s) {
  const r2 = m[0] * m[0] + m[1] * m[1];
  const along = 2 * (p[0] * m[0] + p[1] * m[1]);
  return [0, 1].map((i) => r2 * p[i] + along * m[i] + s[2 * i] * r2 + s[2 * i + 1] * r2 * r2);
}

const sum = (a, b) => [a[0] + b[0], a[1] + b[1]];
