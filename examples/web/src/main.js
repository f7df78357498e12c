// The page: opens a graph with its golden sequence, plays it, and shows what is measured on the way.

import { BodyView } from './body.js';
import { readMetadata } from './graph.js';
import { Sequence } from './sequence.js';
import { bonesOf } from './skeleton.js';
import { ellipsoidRadius, largestDifference, meanDistance, median } from './statistics.js';
import { Stepper } from './stepper.js';
import { Views } from './views.js';

const DEFAULT_GRAPH = 'model.onnx';
const DEFAULT_SEQUENCE = 'model.golden.npz';
const FRAME_S = 1 / 30; // from frame to frame, where the sequence holds no times
const LONGEST_S = 0.5; // wait for a frame
const PARITY_M = 1e-3; // more only where the sequence itself allows more, as for int8
const WARM_UP = 5; // steps that the latency leaves out
const LEVEL = 0.5; // probability that an ellipsoid holds its joint, according to the model

const element = (id) => document.getElementById(id);

const opened = { graph: null, sequence: null }; // files: {name, buffer}
let stream = null; // what is played: see `open`
let playing = null; // the promise of the loop that plays
let stopping = false;
let body = null;
try {
  body = new BodyView(document.querySelector('#body canvas'));
} catch {
  element('no-webgl').hidden = false;
}

function tell(words, bad) {
  const message = element('message');
  message.hidden = !words;
  message.textContent = words;
  message.classList.toggle('bad', bad);
  if (bad) document.body.dataset.state = 'failed';
}

/** Opens the files in `opened` and shows the first frame. */
async function open() {
  await pause();
  stream?.stepper.close();
  stream = null;
  for (const id of ['play', 'restart']) element(id).disabled = true;
  if (!opened.graph || !opened.sequence) {
    document.body.dataset.state = 'empty';
    const missing = opened.graph ? `the .golden.npz of ${opened.graph.name}` : 'a graph (.onnx) and its .golden.npz';
    return tell(`Drop ${missing} here, as python -m epfv2_jax.export writes them.`, false);
  }
  document.body.dataset.state = 'loading';
  tell(`Opening ${opened.graph.name} …`, false);
  const { graph, sequence } = opened;
  const metadata = readMetadata(graph.buffer, graph.name);
  const golden = new Sequence(sequence.buffer, sequence.name, metadata, await sha256(graph.buffer));
  const stepper = new Stepper();
  const backend = element('backend').value;
  try {
    await stepper.open({ graph: graph.buffer, inputs: metadata.inputs, backend });
  } catch (error) {
    stepper.close();
    throw new Error(`${graph.name}: ONNX Runtime cannot open it with ${backend}: ${error.message}`);
  }
  const bones = bonesOf(metadata.parents);
  const nu = metadata.degrees_of_freedom;
  body?.build(metadata.joint_names.length, bones, nu === null ? null : ellipsoidRadius(LEVEL, nu));
  const views = new Views(element('views'), metadata, bones, () => { stream.asRecorded = false; });
  stream = { metadata, golden, stepper, backend, views, next: 0, asRecorded: true };
  stream.measured = { ms: [], errors: [], parity: 0, compared: new Set() };
  tell('', false);
  describe();
  await advance();
  for (const id of ['play', 'restart']) element(id).disabled = false;
  document.body.dataset.state = 'paused';
}

/** Returns the SHA-256 of a file as golden sequences state it; null where the browser computes none (plain http). */
async function sha256(buffer) {
  if (!crypto.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', buffer));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function describe() {
  const { metadata, golden } = stream;
  const { kind, encoder } = metadata.model;
  const [height, width] = metadata.image_size_hw;
  element('about').textContent = [
    opened.graph.name,
    `${kind} with ${encoder ?? 'its own encoder'}, ${metadata.precision}`,
    `${metadata.joint_names.length} joints`,
    `${metadata.camera_order.length} views of ${width} × ${height}`,
    `${golden.numFrames} frames`,
  ].join(' · ');
  element('truth-legend').hidden = golden.truth(0) === null;
}

/** Steps the next frame and shows it; after the last frame, a new stream begins. */
async function advance() {
  const { golden, stepper, views } = stream;
  if (stream.next === golden.numFrames) await restart();
  const index = stream.next;
  const { hidden } = views;
  if (index === 0) stream.asRecorded = true;
  if (hidden.includes(true)) stream.asRecorded = false;
  const frame = golden.frame(index);
  hidden.forEach((off, view) => { if (off) frame.view_valid.data[view] = 0; });
  const { ms, outputs } = await stepper.step(frame);
  stream.next = index + 1;
  const truth = golden.truth(index);
  views.draw(frame, outputs.joints_headset_m, truth);
  body?.show(outputs.joints_world_m, outputs.cholesky_m, frame.T_world_headset.data, truth);
  measure(index, ms, outputs, truth);
}

async function restart() {
  stream.next = 0;
  stream.measured.errors = [];
  await stream.stepper.reset();
}

function measure(index, ms, outputs, truth) {
  const { golden, measured } = stream;
  measured.ms.push(ms);
  if (stream.asRecorded) {
    for (const name of ['joints_headset_m', 'joints_world_m']) {
      measured.parity = Math.max(measured.parity, largestDifference(outputs[name], golden.golden(name, index)));
    }
    measured.compared.add(index);
  }
  const expected = golden.golden('joints_world_m', index);
  const moved = meanDistance(outputs.joints_world_m, expected);
  element('progress').value = (index + 1) / golden.numFrames;
  showLatency(measured.ms.slice(WARM_UP));
  showParity();
  show('change', stream.asRecorded ? '0 cm' : `${(100 * moved).toFixed(1)} cm`, moved);
  if (truth === null) return show('error', '–', NaN, 'no true joints in this sequence');
  const error = meanDistance(outputs.joints_world_m, truth.joints, truth.valid);
  if (Number.isNaN(error)) return show('error', '–', NaN, 'no true joints in this frame');
  measured.errors.push(error);
  const mean = measured.errors.reduce((sum, x) => sum + x, 0) / measured.errors.length;
  const note = `mean over the joints · ${(100 * mean).toFixed(1)} cm so far`;
  show('error', `${(100 * error).toFixed(1)} cm`, error, note);
}

function showLatency(ms) {
  const where = stream.backend === 'webgpu' ? 'WebGPU' : 'WASM, one thread';
  if (ms.length === 0) return show('latency', '–', NaN, where);
  const p50 = median(ms);
  show('latency', `${p50.toFixed(p50 < 10 ? 2 : 1)} ms`, p50, `p50 of ${ms.length} frames · ${where}`);
}

function showParity() {
  const { measured, golden } = stream;
  const allowed = Math.max(PARITY_M, golden.toleranceM);
  const all = measured.compared.size === golden.numFrames;
  const passed = measured.parity <= allowed;
  const frames = `${measured.compared.size} of ${golden.numFrames} frames`;
  const note = `largest of ${frames} · ${passed ? 'within' : 'beyond'} ${allowed} m`;
  show('parity', `${measured.parity.toExponential(1)} m`, measured.parity, note);
  element('parity').classList.toggle('good', passed && all);
  element('parity').classList.toggle('bad', !passed);
  element('parity').dataset.frames = measured.compared.size;
}

/** Shows a number: `words` for readers, `value` for programs. */
function show(id, words, value, note) {
  element(id).textContent = words;
  element(id).dataset.value = value;
  if (note !== undefined) element(`${id}-note`).textContent = note;
}

async function play() {
  stopping = false;
  element('play').textContent = 'Pause';
  document.body.dataset.state = 'playing';
  try {
    while (!stopping) {
      const due = performance.now() + 1000 * Math.min(stream.golden.duration(stream.next) ?? FRAME_S, LONGEST_S);
      await advance();
      await new Promise((resolve) => { setTimeout(resolve, Math.max(0, due - performance.now())); });
    }
    document.body.dataset.state = 'paused';
  } catch (error) {
    tell(error.message, true);
  }
  element('play').textContent = 'Play';
  playing = null;
}

async function pause() {
  stopping = true;
  await playing;
}

/** Runs one action at a time, in order; an error is told. */
let last = Promise.resolve();
function enqueue(action) {
  last = last.then(action).catch((error) => tell(error.message, true));
  return last;
}

async function take(files) {
  const kinds = { onnx: 'graph', npz: 'sequence' };
  const given = [...files].map((file) => [kinds[file.name.split('.').pop()], file]);
  const unknown = given.find(([kind]) => kind === undefined);
  if (unknown) throw new Error(`${unknown[1].name}: not a .onnx or .npz file`);
  if (given.some(([kind]) => kind === 'graph')) opened.sequence = null;
  for (const [kind, file] of given) opened[kind] = { name: file.name, buffer: await file.arrayBuffer() };
  await open();
}

async function openDefault() {
  const answers = await Promise.all([DEFAULT_GRAPH, DEFAULT_SEQUENCE].map((name) => fetch(name)));
  if (answers.every((answer) => answer.ok)) {
    const [graph, sequence] = await Promise.all(answers.map((answer) => answer.arrayBuffer()));
    opened.graph = { name: DEFAULT_GRAPH, buffer: graph };
    opened.sequence = { name: DEFAULT_SEQUENCE, buffer: sequence };
  }
  await open();
}

element('play').addEventListener('click', () => {
  if (playing) stopping = true;
  else playing = play();
});
element('restart').addEventListener('click', () => enqueue(async () => {
  const goOn = playing !== null;
  await pause();
  await restart();
  await advance();
  if (goOn) playing = play();
}));
element('backend').addEventListener('change', () => enqueue(open));
element('files').addEventListener('change', (event) => enqueue(() => take(event.target.files)));
element('backend').querySelector('[value=webgpu]').disabled = !navigator.gpu;

window.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
});
window.addEventListener('dragleave', () => document.body.classList.remove('dropping'));
window.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  enqueue(() => take(event.dataTransfer.files));
});

enqueue(openDefault);
