// Numbers that the page shows: medians, distances of joints, and the size of uncertainty ellipsoids.

const STEPS = 4096;

/** Returns the median of numbers, NaN of none. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Returns the largest absolute difference of two flat arrays; infinite where one holds no number. */
export function largestDifference(found, expected) {
  let largest = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const difference = Math.abs(found[i] - expected[i]);
    if (!Number.isFinite(difference)) return Infinity;
    if (difference > largest) largest = difference;
  }
  return largest;
}

/** Returns the mean distance of joints (flat, J x 3) over those that are valid (J; null: all), NaN of none. */
export function meanDistance(found, expected, valid = null) {
  let [sum, count] = [0, 0];
  for (let j = 0; 3 * j < expected.length; j += 1) {
    if (valid !== null && !valid[j]) continue;
    sum += Math.hypot(...[0, 1, 2].map((i) => found[3 * j + i] - expected[3 * j + i]));
    count += 1;
  }
  return sum / count;
}

/**
 * Returns r such that a 3D Student-t with scale matrix L L^T lies inside {L x: |x| <= r} with probability `level`.
 *
 * With |x| = sqrt(nu) tan(a), the density of a is proportional to sin^2(a) cos^(nu - 1)(a); summed by midpoints.
 */
export function ellipsoidRadius(level, degreesOfFreedom) {
  const step = Math.PI / 2 / STEPS;
  const density = Float64Array.from({ length: STEPS }, (_, i) => {
    const angle = (i + 0.5) * step;
    return Math.sin(angle) ** 2 * Math.cos(angle) ** (degreesOfFreedom - 1);
  });
  let left = level * density.reduce((sum, x) => sum + x, 0);
  const last = density.findIndex((x) => (left -= x) <= 0);
  const angle = (last + 1 + left / density[last]) * step;
  return Math.sqrt(degreesOfFreedom) * Math.tan(angle);
}
