// Reads uncompressed .npz files (zip without compression, one .npy a member) as `numpy.savez` writes them.

const END = 0x06054b50; // signatures of the zip format
const ENTRY = 0x02014b50;
const MEMBER = 0x04034b50;
const END_BYTES = 22;
const MAX_COMMENT_BYTES = 65535;

const TYPES = {
  '|u1': ['uint8', Uint8Array],
  '|b1': ['bool', Uint8Array],
  '<i4': ['int32', Int32Array],
  '<f4': ['float32', Float32Array],
  '<f8': ['float64', Float64Array],
};

/** Returns the arrays of an .npz by name: {dtype, shape, data}; a text array has its text as `data`. */
export function readNpz(buffer, fileName) {
  const view = new DataView(buffer);
  const arrays = {};
  try {
    for (const { name, start, bytes } of members(view)) {
      arrays[name.replace(/\.npy$/, '')] = readNpy(buffer, start, bytes, name);
    }
  } catch (error) {
    if (error instanceof RangeError) throw new Error(`${fileName}: the file is cut off; copy it again`);
    throw new Error(`${fileName}: ${error.message}`);
  }
  return arrays;
}

/** Yields the name, first byte and length of the content of each member of a zip file. */
function* members(view) {
  let end = view.byteLength - END_BYTES;
  const lowest = Math.max(0, end - MAX_COMMENT_BYTES);
  while (end >= lowest && view.getUint32(end, true) !== END) end -= 1;
  if (end < lowest) throw new Error('not an .npz file; take the .golden.npz that the export wrote');
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  for (let i = 0; i < count; i += 1) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error('the table of contents is damaged; copy the file again');
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const name = new TextDecoder().decode(new Uint8Array(view.buffer, at + 46, nameLength));
    if (view.getUint16(at + 10, true) !== 0) throw new Error(`${name} is compressed; write it with numpy.savez`);
    const [bytes, local] = [24, 42].map((offset) => view.getUint32(at + offset, true));
    if (bytes === 0xffffffff || local === 0xffffffff) throw new Error('larger than 4 GB; export fewer golden frames');
    if (view.getUint32(local, true) !== MEMBER) throw new Error(`${name} is damaged; copy the file again`);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    yield { name, start, bytes };
    at += 46 + nameLength + extraLength + commentLength;
  }
}

function readNpy(buffer, start, bytes, name) {
  const view = new DataView(buffer, start, bytes);
  if (view.getUint32(0) !== 0x934e554d) throw new Error(`${name} is no array of numpy`);
  const long = view.getUint8(6) > 1; // format version 2 has a longer header
  const headerStart = long ? 12 : 10;
  const headerLength = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder().decode(new Uint8Array(buffer, start + headerStart, headerLength));
  const [, descr] = header.match(/'descr': '([^']+)'/) ?? [];
  const [, shapeText] = header.match(/'shape': \(([^)]*)\)/) ?? [];
  if (descr === undefined || shapeText === undefined) throw new Error(`${name} has a header that cannot be read`);
  const shape = shapeText.split(',').filter((part) => part.trim()).map(Number);
  const count = shape.reduce((product, size) => product * size, 1);
  const first = start + headerStart + headerLength;
  if (descr.startsWith('<U')) return { dtype: 'text', shape, data: text(buffer, first, Number(descr.slice(2))) };
  if (!(descr in TYPES)) throw new Error(`${name} holds ${descr}, which the page does not read`);
  if (header.includes("'fortran_order': True") && shape.length > 1) throw new Error(`${name} is in Fortran's order`);
  const [dtype, ArrayType] = TYPES[descr];
  const size = count * ArrayType.BYTES_PER_ELEMENT;
  if (first + size > start + bytes) throw new Error(`${name} is shorter than its header says; copy the file again`);
  // Numbers of several bytes need an aligned copy; images are a view on the file.
  const data = ArrayType === Uint8Array
    ? new Uint8Array(buffer, first, count)
    : new ArrayType(buffer.slice(first, first + size));
  return { dtype, shape, data };
}

/** Returns a text that numpy stored as `length` code points of four bytes. */
function text(buffer, first, length) {
  const view = new DataView(buffer, first, 4 * length);
  let found = '';
  for (let i = 0; i < length; i += 1) {
    const point = view.getUint32(4 * i, true);
    if (point) found += String.fromCodePoint(point);
  }
  return found;
}
