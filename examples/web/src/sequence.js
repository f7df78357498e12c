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
    this.numFrames = this.arrays['inputs/frame_gap']?.shape[0] ?? 0;
    if (this.numFrames === 0) throw new Error(`${fileName}: holds no frames`);
    this.inputs = metadata.inputs.filter(({ state }) => !state);
    const outputs = metadata.outputs.filter(({ name }) => !name.startsWith('next_'));
    const joints = metadata.joint_names.length;
    const recorded = [
      { name: 'time_s', shape: [1], dtype: 'float64' },
      { name: 'joints_world_m', shape: [1, joints, 3], dtype: 'float32' },
      { name: 'joint_valid', shape: [1, joints], dtype: 'bool' },
    ].filter(({ name }) => `recorded/${name}` in this.arrays);
    for (const [group, tensors] of Object.entries({ inputs: this.inputs, outputs, recorded })) {
      for (const tensor of tensors) check(this.arrays, `${group}/${tensor.name}`, this.numFrames, tensor, fileName);
    }
    this.toleranceM = this.arrays['tolerance/joints_world_m']?.data[0] ?? 0;
  }

  /** Returns the inputs of one frame by name, without the state: {type, dims, data}; the data are copies. */
  frame(index) {
    const data = (name) => this.slice(`inputs/${name}`, index).slice();
    const tensors = this.inputs.map(({ name, shape, dtype }) => [name, { type: dtype, dims: shape, data: data(name) }]);
    return Object.fromEntries(tensors);
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

function check(arrays, key, numFrames, { shape, dtype }, fileName) {
  const [found, expected] = [arrays[key], String([numFrames, ...shape])];
  if (found === undefined) throw new Error(`${fileName}: has no ${key}; export again`);
  if (found.dtype !== dtype || String(found.shape) !== expected) {
    throw new Error(`${fileName}: ${key} is ${found.dtype} (${found.shape}), the graph has ${dtype} (${expected})`);
  }
}
