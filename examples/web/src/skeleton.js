// Bones to draw: those of the tree, and lines between the joints that hang on the hidden root.

/** Returns pairs of joints from the parent of each joint (-1: the hidden root). */
export function bonesOf(parents) {
  const tree = parents.flatMap((parent, joint) => (parent < 0 ? [] : [[parent, joint]]));
  const roots = parents.flatMap((parent, joint) => (parent < 0 ? [joint] : []));
  return [...tree, ...roots.flatMap((a, i) => roots.slice(i + 1).map((b) => [a, b]))];
}

/** Returns a point of flat 4x4 matrix T times a point. */
export function transformed(T, point) {
  return [0, 4, 8].map((row) => T[row] * point[0] + T[row + 1] * point[1] + T[row + 2] * point[2] + T[row + 3]);
}

/** Returns flat joints of the world in the headset frame, whose pose in the world is the flat 4x4 matrix T. */
export function toHeadset(T, joints) {
  return joints.map((_, i) => {
    const [joint, axis] = [i - (i % 3), i % 3];
    return [0, 1, 2].reduce((sum, row) => sum + T[4 * row + axis] * (joints[joint + row] - T[4 * row + 3]), 0);
  });
}
