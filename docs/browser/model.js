// Reads what an ONNX file says about itself. onnxruntime-web does not show a model's metadata, and its
// errors do not tell a person what is wrong with a file, so the few fields that matter are read here.

/** An error whose message is meant for the person at the page. */
export class ModelError extends Error {}

const FLOAT = 1; // TensorProto.DataType
const INT64 = 7;
const LARGEST_SIDE = 1024;
const LARGEST_Z = 65536;

/**
 * Describes a generator, or throws a ModelError that says what is wrong with it.
 * @param {Uint8Array} bytes
 */
export function readModel(bytes) {
  let model;
  try {
    model = parse(bytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ModelError("this is not an ONNX model, or a damaged one.");
  }
  if (model.graph === null || !(model.irVersion > 0)) throw new ModelError("this is not an ONNX model.");

  const { graph, metadata } = model;
  const weights = new Set(graph.initializers.map((tensor) => tensor.name));
  // Up to IR version 3, weights are listed among the inputs.
  const inputs = graph.inputs.filter((each) => !weights.has(each.name));
  const classInput = inputs.find((each) => each.name === "class") ?? null;
  const input = onlyOne(classInput === null ? "input" : "input besides class", inputs.filter((each) => each !== classInput));
  const output = onlyOne("output", graph.outputs);

  if (input.name !== "z") throw new ModelError(`expected an input named z, found ${quoted(input.name)}.`);
  if (output.name !== "images") throw new ModelError(`expected an output named images, found ${quoted(output.name)}.`);
  for (const each of [input, output]) {
    if (each.type !== FLOAT) throw new ModelError(`expected ${each.name} in float32, found another type.`);
  }
  // The metadata says the sizes; a file without metadata, or of other programs, says them by its shapes.
  const zDim = agreed("z_dim", wholeNumber(metadata, "z_dim"), input.shape[1]);
  if (input.shape.length !== 2 || !(zDim >= 1 && zDim <= LARGEST_Z)) {
    throw new ModelError(`expected z of shape [batch, numbers], found ${shapeText(input.shape)}.`);
  }
  if (input.shape[0] !== null) {
    throw new ModelError(`expected any number of images in a batch, but z is ${shapeText(input.shape)}.`);
  }
  const stated = imageSize(metadata);
  const channels = agreed("channels", wholeNumber(metadata, "channels"), output.shape[1]);
  const height = agreed("height", stated?.height ?? null, output.shape[2]);
  const width = agreed("width", stated?.width ?? null, output.shape[3]);
  const isSide = (side) => side >= 1 && side <= LARGEST_SIDE;
  if (output.shape.length !== 4 || !(channels === 1 || channels === 3) || !isSide(height) || !isSide(width)) {
    throw new ModelError(
      `expected images of shape [batch, 1 or 3, height, width], found ${shapeText(output.shape)}.`,
    );
  }
  const latent = metadata.get("latent") ?? null;
  if (latent !== null && latent !== "uniform" && latent !== "normal") {
    throw new ModelError(`expected the latent "uniform" or "normal", found ${quoted(latent)}.`);
  }
  return {
    zDim,
    channels,
    width,
    height,
    latent: latent ?? "normal",
    latentIsKnown: latent !== null,
    classes: readClasses(graph, metadata, classInput),
    dataset: metadata.get("dataset") ?? null,
    program: metadata.get("program") ?? null,
    firstWeight: firstWeight(graph, input.name, zDim),
  };
}

function onlyOne(what, found) {
  if (found.length !== 1) {
    const names = found.length > 0 ? `: ${found.slice(0, 6).map((each) => each.name).join(", ")}` : "";
    throw new ModelError(`expected one ${what}, found ${found.length}${names}.`);
  }
  return found[0];
}

/**
 * The classes {names, counts} that steer the generator, in the order of their numbers, and how many images of
 * training each has; null where none do.
 */
function readClasses(graph, metadata, input) {
  const text = metadata.get("classes");
  if (input === null && text === undefined) return null;
  if (input === null) throw new ModelError("its metadata names classes, but it has no input named class.");
  if (text === undefined) throw new ModelError("it has an input named class, but its metadata names no classes.");
  if (input.type !== INT64) throw new ModelError("expected class in int64, found another type.");
  if (input.shape.length !== 1 || input.shape[0] !== null) {
    throw new ModelError(`expected class of shape [batch], found ${shapeText(input.shape)}.`);
  }

  let stated;
  try {
    stated = JSON.parse(text);
  } catch {
    throw new ModelError(`expected classes such as {"names": ["a", "b"], "counts": [5, 7]}, found ${quoted(text)}.`);
  }
  const names = stated?.names;
  const counts = stated?.counts;
  if (!Array.isArray(names) || !Array.isArray(counts) || !names.every((name) => typeof name === "string")) {
    throw new ModelError(`expected classes such as {"names": ["a", "b"], "counts": [5, 7]}, found ${quoted(text)}.`);
  }
  if (names.length < 2) throw new ModelError(`expected the names of two classes or more, found ${names.length}.`);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new ModelError(`its metadata names the class ${quoted(twice)} twice.`);
  if (counts.length !== names.length) {
    throw new ModelError(`its metadata names ${names.length} classes, but counts the images of ${counts.length}.`);
  }
  const wrong = counts.findIndex((count) => !Number.isSafeInteger(count) || count < 0);
  if (wrong >= 0) {
    const found = quoted(JSON.stringify(counts[wrong]));
    throw new ModelError(`expected how many images the class ${quoted(names[wrong])} has, found ${found}.`);
  }
  if (counts.every((count) => count === 0)) throw new ModelError("its metadata says that no class has any images.");
  // A class that is none of the weights' would only fail once an image of it is asked for.
  const choice = graph.nodes.find((node) => node.type === "Gather" && node.inputs[1] === input.name);
  const rows = graph.initializers.find((tensor) => tensor.name === choice?.inputs[0])?.dims[0];
  if (rows !== undefined && rows !== names.length) {
    throw new ModelError(`its metadata names ${names.length} classes, its weights are for ${rows}.`);
  }
  return { names, counts };
}

/** A whole number of the metadata, or null where the file does not have it. */
function wholeNumber(metadata, key) {
  const text = metadata.get(key);
  if (text === undefined) return null;
  if (!/^[0-9]{1,9}$/.test(text)) {
    throw new ModelError(`expected a whole number as ${key}, found ${quoted(text)}.`);
  }
  return Number(text);
}

/** Width and height from the metadata, written `32` or `80x48`; null where the file does not say. */
function imageSize(metadata) {
  const text = metadata.get("image_size");
  if (text === undefined) return null;
  const sides = /^([0-9]{1,9})(?:x([0-9]{1,9}))?$/.exec(text);
  if (sides === null) {
    throw new ModelError(`expected an image_size such as 32 or 80x48, found ${quoted(text)}.`);
  }
  return { width: Number(sides[1]), height: Number(sides[2] ?? sides[1]) };
}

/** What the metadata and the shape say of one size, either of which may be silent (null). */
function agreed(name, stated, shape) {
  if (stated !== null && shape !== null && shape !== undefined && stated !== shape) {
    throw new ModelError(`its metadata says ${name} ${stated}, its shapes say ${shape}.`);
  }
  return stated ?? shape ?? null;
}

const quoted = (text) => `"${text.slice(0, 60)}"`;
const shapeText = (shape) => `[${shape.map((size) => size ?? "any").join(", ")}]`;

// The weight that z meets first, row by row [rows, zDim], or null where the network is built otherwise.
function firstWeight(graph, input, zDim) {
  const users = graph.nodes.filter((node) => node.inputs.includes(input));
  if (users.length !== 1 || users[0].type !== "Gemm" || users[0].inputs[0] !== input) return null;
  const tensor = graph.initializers.find((each) => each.name === users[0].inputs[1]);
  if (tensor === undefined || tensor.type !== FLOAT || tensor.values === null) return null;
  if (tensor.dims.length !== 2 || users[0].integers.get("transA")) return null;
  const [rows, columns] = tensor.dims;
  if (tensor.values.length !== rows * columns) return null;
  if (users[0].integers.get("transB")) return columns === zDim ? tensor.values : null;
  if (rows !== zDim) return null;
  const turned = new Float32Array(tensor.values.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) turned[j * rows + i] = tensor.values[i * columns + j];
  }
  return turned;
}

// ---- the fields of onnx.proto that are used ----------------------------------------------------

function parse(bytes) {
  const model = { irVersion: 0, graph: null, metadata: new Map() };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) model.irVersion = number(value);
    else if (field === 7) model.graph = parseGraph(message(value));
    else if (field === 14) {
      const entry = parseStrings(message(value));
      model.metadata.set(entry.get(1) ?? "", entry.get(2) ?? "");
    }
  }
  return model;
}

function parseGraph(bytes) {
  const graph = { nodes: [], initializers: [], inputs: [], outputs: [] };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) graph.nodes.push(parseNode(message(value)));
    else if (field === 5) graph.initializers.push(parseTensor(message(value)));
    else if (field === 11) graph.inputs.push(parseValue(message(value)));
    else if (field === 12) graph.outputs.push(parseValue(message(value)));
  }
  return graph;
}

function parseNode(bytes) {
  const node = { type: "", inputs: [], integers: new Map() };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) node.inputs.push(text(value));
    else if (field === 4) node.type = text(value);
    else if (field === 5) {
      let name = "";
      let integer = 0;
      for (const [inner, content] of fields(message(value))) {
        if (inner === 1) name = text(content);
        else if (inner === 3) integer = number(content);
      }
      node.integers.set(name, integer);
    }
  }
  return node;
}

function parseTensor(bytes) {
  const tensor = { name: "", type: 0, dims: [], values: null };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) tensor.dims.push(...(typeof value === "number" ? [value] : varints(message(value))));
    else if (field === 2) tensor.type = number(value);
    else if (field === 4 || field === 9) {
      // Packed floats and raw data are the same bytes.
      const raw = message(value);
      // A copy, because it has to be aligned.
      if (raw.length % 4 === 0) tensor.values = new Float32Array(new Uint8Array(raw).buffer);
    } else if (field === 8) tensor.name = text(value);
  }
  return tensor;
}

// shape: a number for each side, null for one that the model leaves open.
function parseValue(bytes) {
  const found = { name: "", type: 0, shape: [] };
  for (const [field, value] of fields(bytes)) {
    if (field === 1) found.name = text(value);
    else if (field === 2) {
      for (const [kind, type] of fields(message(value))) {
        if (kind !== 1) continue; // a sequence, a map
        for (const [part, content] of fields(message(type))) {
          if (part === 1) found.type = number(content);
          else if (part === 2) {
            for (const [, dimension] of fields(message(content))) {
              let size = null;
              for (const [inner, side] of fields(message(dimension))) if (inner === 1) size = number(side);
              found.shape.push(size);
            }
          }
        }
      }
    }
  }
  return found;
}

function parseStrings(bytes) {
  return new Map(Array.from(fields(bytes), ([field, value]) => [field, text(value)]));
}

// ---- protocol buffers --------------------------------------------------------------------------

const damaged = () => new RangeError("not a protocol buffer of the expected kind");

/** Yields [field number, number or bytes] of a message. */
function* fields(bytes) {
  let at = 0;
  while (at < bytes.length) {
    let key, value;
    [key, at] = varint(bytes, at);
    const field = Math.floor(key / 8);
    if (field === 0) throw damaged();
    switch (key % 8) {
      case 0:
        [value, at] = varint(bytes, at);
        break;
      case 1:
        value = bytes.subarray(at, at + 8);
        at += 8;
        break;
      case 2: {
        let length;
        [length, at] = varint(bytes, at);
        value = bytes.subarray(at, at + length);
        at += length;
        break;
      }
      case 5:
        value = bytes.subarray(at, at + 4);
        at += 4;
        break;
      default:
        throw damaged();
    }
    if (at > bytes.length) throw damaged();
    yield [field, value];
  }
}

function varint(bytes, at) {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    if (at + i >= bytes.length) throw damaged();
    const byte = bytes[at + i];
    // Above 2^53 it loses digits; of such numbers only negative ones occur, and no field that is used has them.
    value += (byte & 0x7f) * 2 ** (7 * i);
    if (byte < 0x80) return [value, at + i + 1];
  }
  throw damaged();
}

function varints(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; ) {
    let value;
    [value, at] = varint(bytes, at);
    found.push(value);
  }
  return found;
}

function number(value) {
  if (typeof value !== "number") throw damaged();
  return value;
}

function message(value) {
  if (typeof value === "number") throw damaged();
  return value;
}

const text = (value) => new TextDecoder().decode(message(value));
