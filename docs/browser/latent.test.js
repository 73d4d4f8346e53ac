import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ChaCha8,
  backAndForth,
  layout,
  lerp,
  moved,
  noise,
  normal,
  npy,
  parseSeed,
  pixels,
  principalDirections,
  randomDirections,
  sample,
  slerp,
  toByte,
  walk,
} from "./latent.js";

const LARGEST_SEED = (1n << 64n) - 1n;
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const near = (found, expected, within) => assert.ok(Math.abs(found - expected) <= within, `${found}, not ${expected}`);

// What the program's crates (rand_chacha 0.10.0, rand_distr 0.6.0) give for stream 6 and these images.
const WORDS = [
  [0n, 0n, [1240480356, 3421860336, 1223224259, 2388407761], 2178399415],
  [0n, 35n, [258601835, 3105261169, 1336394463, 4213691680], 3680675865],
  [5n, 0n, [1922448841, 2831397000, 434792762, 3932401972], 3149542452],
  [LARGEST_SEED, 35n, [2319116480, 729013132, 1731129351, 3292216852], 858255633],
];
const NORMALS = [
  [0n, 0, [1.0276939, 0.12044099, 0.41414136, -0.66141474], -1.7758416],
  [5n, 35, [0.7350756, 0.5647992, -0.31218025, 0.3412992], -0.9365872],
  [LARGEST_SEED, 0, [-0.35675094, 0.7990416, -0.9198102, -0.47532007], -0.06377814],
];

test("random words are the program's, of which a block holds 16", () => {
  for (const [seed, image, first, at399] of WORDS) {
    const random = new ChaCha8(seed, (6n << 56n) | image);
    const words = Array.from({ length: 400 }, () => random.next());
    assert.deepEqual(words.slice(0, 4), first);
    assert.equal(words[399], at399);
  }
});

test("normal noise is the program's to the last bit of float32", () => {
  for (const [seed, image, first, last] of NORMALS) {
    const z = noise("normal", seed, image, 100);
    assert.deepEqual(Array.from(z.slice(0, 4)), first.map(Math.fround));
    assert.equal(z[99], Math.fround(last));
  }
});

test("uniform noise is the program's: the upper 24 bits of each word", () => {
  for (const [seed, image, first] of WORDS) {
    const z = noise("uniform", seed, image, 100);
    assert.deepEqual(Array.from(z.slice(0, 4)), first.map((word) => Math.floor(word / 256) / 2 ** 23 - 1));
    assert.ok(z.every((value) => value >= -1 && value < 1));
  }
});

test("a class is drawn behind z, as the program draws it", () => {
  for (const [seed, image, [, , low, high]] of WORDS) {
    // Two numbers of z take two words. The next two are a number below 2^64, which is scaled to the 10 images.
    const left = Number((((BigInt(high) << 32n) | BigInt(low)) * 10n) >> 64n);
    const { z, label } = sample("uniform", seed, image, 2, [3, 0, 1, 6]);
    assert.deepEqual(z, noise("uniform", seed, image, 2));
    assert.equal(label, left < 3 ? 0 : left < 4 ? 2 : 3);
    assert.equal(sample("uniform", seed, image, 2, Array(10).fill(1)).label, left);
    assert.equal(sample("uniform", seed, image, 2).label, null);
  }
});

test("a class is drawn as often as training has images of it", () => {
  const counts = [600, 0, 100, 300];
  const drawn = [0, 0, 0, 0];
  for (let image = 0; image < 10_000; image++) drawn[sample("normal", 2n, image, 3, counts).label]++;
  // Four standard deviations are at most 196.
  drawn.forEach((times, label) => near(times, 10 * counts[label], counts[label] > 0 ? 196 : 0));
  // A sum that no number of JavaScript holds exactly.
  const huge = Number.MAX_SAFE_INTEGER;
  assert.ok(sample("normal", 2n, 0, 3, [huge, huge, huge]).label in [0, 1, 2]);
});

test("normal numbers have the moments and the tail of their distribution", () => {
  const random = new ChaCha8(1n, 2n);
  const count = 200_000;
  let sum = 0;
  let squares = 0;
  let beyond = 0;
  for (let i = 0; i < count; i++) {
    const x = normal(random);
    sum += x;
    squares += x * x;
    if (Math.abs(x) > 3.654) beyond++; // where the ziggurat's last layer ends
  }
  near(sum / count, 0, 0.01);
  near(squares / count, 1, 0.015);
  near(beyond, count * 2.58e-4, 30);
});

test("a seed is a whole number below 2^64", () => {
  assert.equal(parseSeed("0"), 0n);
  assert.equal(parseSeed(" 42 "), 42n);
  assert.equal(parseSeed("18446744073709551615"), LARGEST_SEED);
  for (const wrong of ["", " ", "-1", "1.5", "1e3", "0x10", "abc", "18446744073709551616"]) {
    assert.equal(parseSeed(wrong), null, wrong);
  }
});

test("lerp goes straight, slerp along the circle, both from end to end", () => {
  const a = Float32Array.of(1, 0);
  const b = Float32Array.of(0, 1);
  assert.deepEqual(Array.from(lerp(a, b, 0.25)), [0.75, 0.25]);
  const half = slerp(a, b, 0.5);
  near(half[0], Math.SQRT1_2, 1e-7);
  near(half[1], Math.SQRT1_2, 1e-7);
  for (const between of [lerp, slerp]) {
    assert.deepEqual(between(a, b, 0), a);
    near(between(a, b, 1)[0], 0, 1e-7);
    assert.equal(between(a, b, 1)[1], 1);
  }
});

test("slerp keeps the length of normal noise, lerp doesn't", () => {
  const [a, b] = [noise("normal", 3n, 0, 100), noise("normal", 3n, 1, 100)];
  const length = (z) => Math.sqrt(dot(z, z));
  const mean = (length(a) + length(b)) / 2;
  near(length(slerp(a, b, 0.5)), mean, 0.02 * mean);
  assert.ok(length(lerp(a, b, 0.5)) < 0.85 * mean);
});

test("slerp between parallel, opposite and empty vectors gives numbers", () => {
  const a = Float32Array.of(2, -1);
  assert.deepEqual(slerp(a, a, 0.3), a);
  for (const b of [a.map((x) => -x), Float32Array.of(0, 0), Float32Array.of(4, -2)]) {
    assert.ok(slerp(a, b, 0.3).every(Number.isFinite));
  }
});

test("a walk passes through its corners in order, a lone one stays", () => {
  const corners = [Float32Array.of(0, 0), Float32Array.of(1, 0), Float32Array.of(1, 1)];
  assert.deepEqual(walk("uniform", corners, 0), corners[0]);
  assert.deepEqual(walk("uniform", corners, 1), corners[1]);
  assert.deepEqual(Array.from(walk("uniform", corners, 1.5)), [1, 0.5]);
  assert.deepEqual(walk("uniform", corners, 2), corners[2]);
  assert.deepEqual(walk("normal", corners.slice(2), 0), corners[2]);
});

test("a walk that is played goes forth and back", () => {
  assert.deepEqual([0, 0.5, 2, 2.5, 4, 5].map((legs) => backAndForth(3, legs)), [0, 0.5, 2, 1.5, 0, 1]);
  assert.equal(backAndForth(1, 7.5), 0);
});

test("random directions are at right angles and repeat with their seed", () => {
  const directions = randomDirections(9n, 8, 100);
  assert.equal(directions.length, 8);
  directions.forEach((a, i) => directions.forEach((b, j) => near(dot(a, b), i === j ? 1 : 0, 1e-12)));
  assert.deepEqual(randomDirections(9n, 8, 100), directions);
  assert.notDeepEqual(randomDirections(10n, 8, 100), directions);
  assert.equal(randomDirections(9n, 8, 3).length, 3);
});

test("principal directions are those of a matrix that was made of them", () => {
  const parts = randomDirections(4n, 6, 6);
  const strength = [7, 5, 3, 2, 1, 0.5];
  // Rows: each direction at its strength, so the directions are the right singular vectors.
  const weight = Float32Array.from(parts.flatMap((part, k) => Array.from(part, (value) => value * strength[k])));
  const found = principalDirections(weight, 6, 4);
  assert.equal(found.length, 4);
  found.forEach((direction, k) => near(Math.abs(dot(direction, parts[k])), 1, 1e-6));
  // The sign is settled: the largest number is above zero.
  for (const direction of found) assert.ok(Math.max(...direction) >= -Math.min(...direction));
  assert.ok(principalDirections(new Float32Array(12), 6, 4).flatMap((each) => [...each]).every(Number.isFinite));
});

test("directions move z by standard deviations, and uniform z no further than its range", () => {
  const z = Float32Array.of(0.5, -0.5);
  const directions = [Float64Array.of(1, 0), Float64Array.of(0, 1)];
  assert.deepEqual(Array.from(moved("normal", z, directions, [2, -1])), [2.5, -1.5]);
  assert.deepEqual(Array.from(moved("uniform", z, directions, [8, -8])), [1, -1]);
  near(moved("uniform", z, directions, [-1, 0])[0], 0.5 - 1 / Math.sqrt(3), 1e-7);
  assert.deepEqual(moved("uniform", z, directions, [0, 0]), z);
});

test("images of every size fit the page", () => {
  const shown = (width, height) => layout({ width, height });
  assert.deepEqual(shown(32, 32), {
    columns: 6, rows: 6, aspect: 1, steps: 9, largeWidth: 256, sharp: true, sharpLarge: true, batch: 184,
  });
  assert.deepEqual([shown(80, 48).columns, shown(80, 48).rows, shown(80, 48).largeWidth], [4, 6, 240]);
  assert.deepEqual([shown(48, 80).columns, shown(48, 80).rows, shown(48, 80).largeWidth], [6, 4, 144]);
  // Larger than there is room for: shown smaller, without sharp edges.
  assert.deepEqual([shown(512, 256).largeWidth, shown(512, 256).sharpLarge], [256, false]);
  for (const width of [1, 16, 28, 64, 80, 128, 256, 1024]) {
    for (const height of [1, 16, 28, 64, 80, 128, 256, 1024]) {
      const { columns, rows, aspect, steps, largeWidth, sharpLarge, batch } = shown(width, height);
      const name = `${width}x${height}`;
      assert.ok(columns * rows >= 9 && columns * rows <= 36 && steps >= 5, name);
      assert.ok(Math.abs(aspect - (columns * width) / (rows * height)) < 1e-12, name);
      assert.ok(largeWidth <= 256 && (largeWidth / width) * height <= 256 + 1e-9, name);
      assert.ok(!sharpLarge || Number.isInteger(largeWidth / width), name);
      assert.ok(Number.isInteger(batch) && batch >= 1, name);
    }
  }
});

test("values become bytes with halves to the even one", () => {
  assert.deepEqual([-1, 1, 0, -2, 2, NaN].map(toByte), [0, 255, 128, 0, 255, 0]);
  // 127.5 is a half: 128 is even. 126.5 is one, too: 126.
  assert.equal(toByte(126.5 / 127.5 - 1), 126);
  for (let byte = 0; byte < 256; byte++) assert.equal(toByte(byte / 127.5 - 1), byte);
});

test("pixels of grey and of coloured images", () => {
  const grey = Float32Array.of(-1, 1, 0, 1, /* second */ 1, 1, 1, -1);
  assert.deepEqual(
    Array.from(pixels(grey, 1, { channels: 1, width: 2, height: 2 })),
    [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 255],
  );
  const colour = Float32Array.of(-1, 0, 1); // red, green, blue of one pixel
  assert.deepEqual(Array.from(pixels(colour, 0, { channels: 3, width: 1, height: 1 })), [0, 128, 255, 255]);
  // An image three pixels wide and one high.
  const wide = Float32Array.from([-1, 0, 1, 1, 1, 1, -1, -1, -1]);
  assert.deepEqual(
    Array.from(pixels(wide, 0, { channels: 3, width: 3, height: 1 })),
    [0, 255, 0, 255, 128, 255, 0, 255, 255, 255, 0, 255],
  );
});

test("a .npy file holds z behind a header of whole 64 bytes", () => {
  const bytes = npy(Float32Array.of(0.25, -1, 3));
  const length = new DataView(bytes.buffer).getUint16(8, true);
  assert.equal((10 + length) % 64, 0);
  const header = new TextDecoder("latin1").decode(bytes.slice(0, 10 + length));
  assert.match(header, /^\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \(1, 3\), \} *\n$/s);
  assert.deepEqual(Array.from(new Float32Array(bytes.slice(10 + length).buffer)), [0.25, -1, 3]);
});
