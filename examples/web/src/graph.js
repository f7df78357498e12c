// Reads what an exported graph says about itself: the metadata in an ONNX file, which is a protobuf message.

const METADATA_FIELD = 14; // ModelProto.metadata_props, messages of a key (1) and a value (2)
const FORMAT_VERSION = '1';

/** Returns the metadata of a graph that `epfv2_jax.export` wrote, decoded from JSON. */
export function readMetadata(buffer, fileName) {
  const found = {};
  try {
    for (const [field, bytes] of fields(new Uint8Array(buffer))) {
      if (field !== METADATA_FIELD) continue;
      const [key, value] = Array.from(fields(bytes), ([, part]) => new TextDecoder().decode(part));
      found[key] = value;
    }
  } catch {
    throw new Error(`${fileName}: not an ONNX file, or cut off; copy it again`);
  }
  if (found.format_version !== FORMAT_VERSION || JSON.parse(found.package) !== 'epfv2_jax') {
    throw new Error(`${fileName}: not a graph of this project; write it with python -m epfv2_jax.export`);
  }
  const metadata = Object.fromEntries(Object.entries(found).map(([key, value]) => [key, JSON.parse(value)]));
  const batch = metadata.inputs.find(({ name }) => name === 'images').shape[0];
  if (batch !== 1) throw new Error(`${fileName}: the page shows one stream, not ${batch}: export with --batch 1`);
  return metadata;
}

/** Yields the number and the bytes of each length-delimited field of a protobuf message; skips the others. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let [value, factor] = [0, 1];
    for (;;) {
      if (at >= bytes.length) throw new RangeError('cut off');
      const byte = bytes[at];
      at += 1;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const [field, kind] = [Math.floor(tag / 8), tag % 8];
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new RangeError('cut off');
      yield [field, bytes.subarray(at, at + length)];
      at += length;
    } else throw new RangeError('no message');
  }
}
