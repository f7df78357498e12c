// A recorded sequence with its golden predictions: the .golden.npz that the export writes beside a graph.

import { readNpz } from './npz.js';

export class Sequence {
  /** Reads the golden sequence of the graph with this metadata and SHA-256 (null: not compared). */
  constructor(buffer, fileName, metadata, graphSha256) {
    this.arrays = readNpz(buffer, fileName);
    const stated = this.arrays.graph_sha256?.data;
    if (graphSha256 !== null && stated !== graphSha256) {
      throw new Error(`${fileName}: belongs to another graph; open the two that were exported together`);
    }
    this.inputs = metadata.inputs.filter(({ state }) => !state);
    this.numFrames = this.arrays['inputs/frame_gap']?.shape[0] ?? 0;
    if (this.numFrames === 0) throw new Error(`${fileName}: holds no frames`);
    const outputs = metadata.outputs.filter(({ name }) => !name.startsWith('next_'));
    for (const [group, tensors] of [['inputs', this.inputs], ['outputs', outputs]]) {
      for (const { name, shape, dtype } of tensors) check(this.arrays, `${group}/${name}`, [this.numFrames, ...shape], dtype, fileName);
    }
    this.toleranceM = this.arrays['tolerance/joints_world_m']?.data[0] ?? 0;
  }

  /** Returns the inputs of one frame by name, without the state: {type, dims, data}; the data are copies. */
  frame(index) {
    return Object.fromEntries(
      this.inputs.map(({ name, shape, dtype }) => [name, { type: dtype, dims: shape, data: this.slice(`inputs/${name}`, index).slice() }]),
    );
  }

  /** Returns the golden output of that name at a frame, as a flat array. */
  golden(name, index) {
    return this.slice(`outputs/${name}`, index);
  }

  /** Returns the true joints (flat, world frame, metres) and which are valid, or null where they are not known. */
  truth(index) {
    if (!('recorded/joints_world_m' in this.arrays)) return null;
    return { joints: this.slice('recorded/joints_world_m', index), valid: this.slice('recorded/joint_valid', index) };
  }

  /** Returns the seconds from a frame to the next one, null where they are not known. */
  duration(index) {
    const times = this.arrays['recorded/time_s']?.data;
    return times && index + 1 < this.numFrames ? times[index + 1] - times[index] : null;
  }

  slice(key, index) {
    const { data } = this.arrays[key];
    const size = data.length / this.numFrames;
    return data.subarray(index * size, (index + 1) * size);
  }
}

function check(arrays, key, shape, dtype, fileName) {
  const found = arrays[key];
  if (found === undefined) throw new Error(`${fileName}: has no ${key}; export again`);
  if (found.dtype !== dtype || String(found.shape) !== String(shape)) {
    throw new Error(`${fileName}: ${key} is ${found.dtype} (${found.shape}), the graph takes ${dtype} (${shape})`);
  }
}
