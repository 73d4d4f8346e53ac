import assert from "node:assert/strict";
import { test } from "node:test";

import { ModelError, readModel } from "./model.js";

// ---- a small writer of protocol buffers, to make models with ------------------------------------

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}
const integer = (field, value) => [...varint(field * 8), ...varint(value)];
const bytes = (field, content) => {
  const raw = typeof content === "string" ? [...new TextEncoder().encode(content)] : content;
  return [...varint(field * 8 + 2), ...varint(raw.length), ...raw];
};
const floats = (values) => [...new Uint8Array(Float32Array.from(values).buffer)];

const value = (name, shape, type = 1) => {
  const sides = shape.flatMap((side) => bytes(1, typeof side === "number" ? integer(1, side) : bytes(2, side)));
  return [...bytes(1, name), ...bytes(2, bytes(1, [...integer(1, type), ...bytes(2, sides)]))];
};
const entry = (key, text) => bytes(14, [...bytes(1, key), ...bytes(2, text)]);

const WEIGHT = [1, 2, 3, 4, 5, 6, 7, 8]; // [4, 2]
const METADATA = { latent: "uniform", dataset: "digits", program: "dcgan 0.0.0", z_dim: "2", channels: "1", image_size: "32" };

function model({ inputs, outputs, metadata = METADATA, transB = true, packedDims = false, version = 8, choice = null } = {}) {
  inputs ??= [value("z", ["batch", 2])];
  outputs ??= [value("images", ["batch", 1, 32, 32])];
  const gemm = [
    ...["z", "weight", "bias"].flatMap((name) => bytes(1, name)),
    ...bytes(2, "x"),
    ...bytes(4, "Gemm"),
    ...(transB ? bytes(5, [...bytes(1, "transB"), ...integer(3, 1), ...integer(20, 2)]) : []),
  ];
  const dims = transB ? [4, 2] : [2, 4];
  const weight = [
    ...(packedDims ? bytes(1, dims) : dims.flatMap((side) => integer(1, side))),
    ...integer(2, 1),
    ...bytes(8, "weight"),
    ...bytes(9, floats(WEIGHT)),
  ];
  // The weights of so many classes, of which the input class chooses.
  const chosen = choice === null ? [] : [
    ...bytes(1, [...["rows", "class"].flatMap((name) => bytes(1, name)), ...bytes(2, "y"), ...bytes(4, "Gather")]),
    ...bytes(5, [...integer(1, choice), ...integer(1, 4), ...integer(2, 1), ...bytes(8, "rows")]),
  ];
  const graph = [
    ...bytes(1, gemm),
    ...bytes(5, weight),
    ...chosen,
    ...inputs.flatMap((each) => bytes(11, each)),
    ...outputs.flatMap((each) => bytes(12, each)),
  ];
  return Uint8Array.from([
    ...integer(1, version),
    ...bytes(7, graph),
    ...bytes(8, integer(2, 17)),
    ...Object.entries(metadata).flatMap(([key, text]) => entry(key, text)),
  ]);
}

const refused = (file, message) =>
  assert.throws(
    () => readModel(file),
    (error) => error instanceof ModelError && (assert.match(error.message, message), true),
  );

// ---- tests -------------------------------------------------------------------------------------

test("a generator is described", () => {
  const { firstWeight, ...rest } = readModel(model());
  assert.deepEqual(rest, {
    zDim: 2,
    channels: 1,
    width: 32,
    height: 32,
    latent: "uniform",
    latentIsKnown: true,
    classes: null,
    dataset: "digits",
    program: "dcgan 0.0.0",
  });
  assert.deepEqual(Array.from(firstWeight), WEIGHT);
});

test("a file without metadata is a generator of normal noise, and says that it is a guess", () => {
  const { latent, latentIsKnown, dataset, width, height } = readModel(model({ metadata: {} }));
  assert.deepEqual([latent, latentIsKnown, dataset, width, height], ["normal", false, null, 32, 32]);
});

test("sizes come from the metadata, width before height, and shapes may leave them open", () => {
  const metadata = { ...METADATA, image_size: "80x48", channels: "3" };
  for (const shape of [["batch", 3, 48, 80], ["batch", "channels", "height", "width"]]) {
    const { width, height, channels, zDim } = readModel(model({ metadata, outputs: [value("images", shape)] }));
    assert.deepEqual([width, height, channels, zDim], [80, 48, 3, 2]);
  }
});

test("sizes come from the shapes where the metadata has none", () => {
  const { width, height } = readModel(model({ metadata: {}, outputs: [value("images", ["batch", 1, 48, 80])] }));
  assert.deepEqual([width, height], [80, 48]);
  refused(model({ metadata: {}, outputs: [value("images", ["batch", 1, "height", 80])] }), /found \[any, 1, any, 80\]/);
});

test("metadata that contradicts the shapes, or is no size, is refused with both values", () => {
  const stated = (fields) => model({ metadata: { ...METADATA, ...fields } });
  refused(stated({ image_size: "64" }), /^its metadata says height 64, its shapes say 32\./);
  refused(stated({ image_size: "64x32" }), /^its metadata says width 64, its shapes say 32\./);
  refused(stated({ channels: "3" }), /^its metadata says channels 3, its shapes say 1\./);
  refused(stated({ z_dim: "100" }), /^its metadata says z_dim 100, its shapes say 2\./);
  for (const text of ["", "-32", "32x", "x32", "32 x 32", "32x32x3", "big"]) {
    refused(stated({ image_size: text }), /^expected an image_size such as 32 or 80x48, found/);
  }
  refused(stated({ z_dim: "two" }), /^expected a whole number as z_dim, found "two"/);
});

const Z_AND_CLASS = [value("z", ["batch", 2]), value("class", ["batch"], 7)];
const withClasses = (stated, fields = {}) => {
  const classes = typeof stated === "string" ? stated : JSON.stringify(stated);
  return model({ inputs: Z_AND_CLASS, choice: 3, metadata: { ...METADATA, classes }, ...fields });
};
const CLASSES = { names: ["0", "1", "zwölf"], counts: [5, 0, 7], sha256: "" };

test("classes come with their names and how often training had them, and the first weight is still that of z", () => {
  const { classes, firstWeight, zDim } = readModel(withClasses(CLASSES));
  assert.deepEqual(classes, { names: ["0", "1", "zwölf"], counts: [5, 0, 7] });
  assert.deepEqual([Array.from(firstWeight), zDim], [WEIGHT, 2]);
  assert.deepEqual(readModel(withClasses(CLASSES, { inputs: Z_AND_CLASS.toReversed() })).classes, classes);
});

test("classes in the metadata without an input, and the reverse, are refused", () => {
  refused(withClasses(CLASSES, { inputs: undefined }), /^its metadata names classes, but it has no input named class\.$/);
  refused(model({ inputs: Z_AND_CLASS }), /^it has an input named class, but its metadata names no classes\.$/);
  refused(withClasses(CLASSES, { inputs: [Z_AND_CLASS[1]] }), /^expected one input besides class, found 0\.$/);
  const inputs = (...shape) => ({ inputs: [Z_AND_CLASS[0], value("class", ...shape)] });
  refused(withClasses(CLASSES, inputs(["batch"], 1)), /^expected class in int64/);
  refused(withClasses(CLASSES, inputs(["batch", 3], 7)), /^expected class of shape \[batch\], found \[any, 3\]/);
  refused(withClasses(CLASSES, inputs([1], 7)), /^expected class of shape \[batch\], found \[1\]/);
});

test("names and counts of classes that do not fit are refused with what is wrong", () => {
  for (const text of ["", "no", "null", "[]", "{}", '{"names": ["a", 1], "counts": [1, 2]}', '{"names": ["a", "b"]}']) {
    refused(withClasses(text), /^expected classes such as \{"names": \["a", "b"\], "counts": \[5, 7\]\}, found/);
  }
  const stated = (fields) => withClasses({ ...CLASSES, ...fields });
  refused(stated({ names: ["a"], counts: [1] }), /^expected the names of two classes or more, found 1/);
  refused(stated({ names: ["a", "b", "a"] }), /^its metadata names the class "a" twice/);
  refused(stated({ counts: [5, 7] }), /^its metadata names 3 classes, but counts the images of 2/);
  for (const wrong of [-1, 0.5, "5", null, 2 ** 53]) {
    refused(stated({ counts: [5, wrong, 7] }), /^expected how many images the class "1" has, found "/);
  }
  refused(stated({ counts: [0, 0, 0] }), /^its metadata says that no class has any images/);
  refused(withClasses(CLASSES, { choice: 4 }), /^its metadata names 3 classes, its weights are for 4/);
});

test("the first weight is found transposed or not, and its sides packed or not", () => {
  assert.deepEqual(Array.from(readModel(model({ packedDims: true })).firstWeight), WEIGHT);
  assert.deepEqual(Array.from(readModel(model({ transB: false })).firstWeight), [1, 5, 2, 6, 3, 7, 4, 8]);
  assert.equal(readModel(model({ inputs: [value("z", ["batch", 3])], metadata: {} })).firstWeight, null);
});

test("weights among the inputs are no inputs", () => {
  assert.equal(readModel(model({ inputs: [value("z", ["batch", 2]), value("weight", [4, 2])] })).zDim, 2);
});

test("what is no ONNX model is refused", () => {
  for (const text of ["", "this is no model", "\x89PNG\r\n\x1a\n", "<!doctype html>", "{}"]) {
    refused(new TextEncoder().encode(text), /^this is not an ONNX model/);
  }
  refused(model({ version: 0 }), /^this is not an ONNX model/);
});

test("a file that is cut anywhere is refused or lacks only what stands at its end", () => {
  const whole = model();
  const metadata = Object.entries(METADATA).flatMap(([key, text]) => entry(key, text)).length;
  for (let length = 0; length < whole.length; length++) {
    try {
      readModel(whole.slice(0, length));
      assert.ok(length >= whole.length - metadata - bytes(8, integer(2, 17)).length, `${length} bytes were enough`);
    } catch (error) {
      assert.ok(error instanceof ModelError, error.stack);
    }
  }
});

test("a damaged file is refused or read, and nothing else", () => {
  for (const whole of [model(), withClasses(CLASSES)]) {
    for (let at = 0; at < whole.length; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const damaged = whole.slice();
        damaged[at] ^= flip;
        try {
          readModel(damaged);
        } catch (error) {
          assert.ok(error instanceof ModelError, `${at} ${flip}: ${error.stack}`);
        }
      }
    }
  }
});

test("wrong inputs and outputs are named", () => {
  const images = (shape) => ({ outputs: [value("images", shape)] });
  refused(model({ inputs: [] }), /^expected one input, found 0/);
  refused(model({ inputs: [value("z", ["batch", 2]), value("y", [1])] }), /^expected one input, found 2: z, y/);
  refused(model({ inputs: [value("noise", ["batch", 2])] }), /^expected an input named z, found "noise"/);
  refused(model({ inputs: [value("z", ["batch", 2], 11)] }), /^expected z in float32/);
  refused(model({ inputs: [value("z", ["batch", 2, 1])] }), /found \[any, 2, 1\]/);
  refused(model({ inputs: [value("z", ["batch", "numbers"])], metadata: {} }), /found \[any, any\]/);
  refused(model({ inputs: [value("z", [1, 2])] }), /^expected any number of images in a batch, but z is \[1, 2\]/);
  refused(model({ outputs: [value("y", ["batch", 1, 32, 32])] }), /^expected an output named images, found "y"/);
  refused(model({ ...images(["batch", 4, 32, 32]), metadata: {} }), /found \[any, 4, 32, 32\]/);
  refused(model({ ...images(["batch", 1, 32, 4096]), metadata: {} }), /found \[any, 1, 32, 4096\]/);
  refused(model(images(["batch", 1])), /found \[any, 1\]/);
  refused(model({ metadata: { latent: "cauchy" } }), /^expected the latent "uniform" or "normal", found "cauchy"/);
});
