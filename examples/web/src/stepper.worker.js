// Runs a graph's step in ONNX Runtime, beside the page, and keeps the state of the stream.

import wasmUrl from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url';
import webgpuUrl from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url';

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };

let ort;
let session;
let stateTensors = [];
let state = {};

async function load(backend) {
  ort = backend === 'webgpu' ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  ort.env.wasm.wasmPaths = { wasm: backend === 'webgpu' ? webgpuUrl : wasmUrl };
  ort.env.wasm.numThreads = 1; // more need headers that few servers send
}

const calls = {
  /** Opens a graph; `inputs` as in its metadata. */
  async open({ graph, inputs, backend }) {
    await load(backend);
    const options = { executionProviders: [backend], logSeverityLevel: 3 }; // of its log, errors alone
    session = await ort.InferenceSession.create(graph, options);
    stateTensors = inputs.filter((tensor) => tensor.state);
    await calls.reset();
  },

  /** Starts a new stream: sets all state to zero. */
  async reset() {
    state = Object.fromEntries(
      stateTensors.map(({ name, shape, dtype }) => {
        const size = shape.reduce((product, length) => product * length, 1);
        return [name, new ort.Tensor(dtype, new ARRAYS[dtype](size), shape)];
      }),
    );
  },

  /** Returns the outputs of one frame by name, without the next state, and the milliseconds that the step took. */
  async step({ frame }) {
    const given = Object.entries(frame).map(([name, { type, dims, data }]) => [name, new ort.Tensor(type, data, dims)]);
    const start = performance.now();
    const outputs = await session.run({ ...Object.fromEntries(given), ...state });
    const ms = performance.now() - start;
    for (const { name } of stateTensors) {
      state[name] = outputs[`next_${name}`];
      delete outputs[`next_${name}`];
    }
    return { ms, outputs: Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data])) };
  },
};

self.onmessage = async ({ data: { id, call, argument } }) => {
  try {
    self.postMessage({ id, result: await calls[call](argument) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
