// Latent vectors and pixels: everything that needs neither a page nor a network.

// ---- noise -------------------------------------------------------------------------------------

// ChaCha with 8 rounds, a 64-bit counter and a 64-bit stream, seeded and read as dcgan does it. So a seed
// and an image's number mean the same z here and in `dcgan sample --seed`.
export class ChaCha8 {
  #state = new Uint32Array(16);
  #block = new Uint32Array(16);
  #used = 16;

  /** @param {bigint} seed @param {bigint} stream both below 2^64 */
  constructor(seed, stream) {
    this.#state.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]); // "expand 32-byte k"
    // PCG32 makes the 256 bits of the key from the 64 bits of the seed.
    let pcg = seed;
    for (let word = 4; word < 12; word++) {
      pcg = BigInt.asUintN(64, pcg * 0x5851f42d4c957f2dn + 0xa17654e46fbe17f3n);
      const mixed = Number(BigInt.asUintN(32, ((pcg >> 18n) ^ pcg) >> 27n));
      const turn = Number(pcg >> 59n);
      this.#state[word] = (mixed >>> turn) | (mixed << (-turn & 31));
    }
    this.#state[14] = Number(BigInt.asUintN(32, stream));
    this.#state[15] = Number(stream >> 32n);
  }

  #refill() {
    const x = this.#block;
    x.set(this.#state);
    const mix = (to, add, turned, by) => {
      x[to] += x[add];
      const word = x[turned] ^ x[to];
      x[turned] = (word << by) | (word >>> (32 - by));
    };
    const quarter = (a, b, c, d) => {
      mix(a, b, d, 16);
      mix(c, d, b, 12);
      mix(a, b, d, 8);
      mix(c, d, b, 7);
    };
    for (let round = 0; round < 8; round += 2) {
      for (let i = 0; i < 4; i++) quarter(i, 4 + i, 8 + i, 12 + i);
      for (let i = 0; i < 4; i++) quarter(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4));
    }
    for (let i = 0; i < 16; i++) x[i] += this.#state[i];
    this.#state[12] += 1;
    if (this.#state[12] === 0) this.#state[13] += 1;
    this.#used = 0;
  }

  /** A whole number below 2^32. */
  next() {
    if (this.#used === 16) this.#refill();
    return this.#block[this.#used++];
  }

  /** The upper `bits` (33 to 53) of a 64-bit number, as a whole number. */
  upper(bits) {
    const low = this.next();
    const high = this.next();
    return high * 2 ** (bits - 32) + (low >>> (64 - bits));
  }
}

// The ziggurat of 256 layers for the standard normal distribution, as the crate rand_distr draws it.
// Its tables are computed here, so a float32 may differ from dcgan's in its last bit.
const TAIL = 3.654152885361008796;
const bell = (x) => Math.exp((-x * x) / 2);
const edges = new Float64Array(257);
edges[0] = 3.910757959537090045;
edges[1] = TAIL;
for (let i = 1; i < 255; i++) {
  edges[i + 1] = Math.sqrt(-2 * Math.log((edges[0] * bell(TAIL)) / edges[i] + bell(edges[i])));
}
const heights = edges.map(bell);

/** One number of the standard normal distribution. */
export function normal(random) {
  for (;;) {
    const low = random.next();
    const high = random.next();
    const layer = low & 0xff;
    const u = (high * 2 ** 20 + (low >>> 12)) * 2 ** -51 - 1;
    const x = u * edges[layer];
    if (Math.abs(x) < edges[layer + 1]) return x;
    if (layer === 0) {
      const open = () => (random.upper(52) + 0.5) * 2 ** -52; // never 0: its logarithm is taken
      for (;;) {
        const beyond = Math.log(open()) / TAIL;
        const limit = Math.log(open());
        if (-2 * limit >= beyond * beyond) return u < 0 ? beyond - TAIL : TAIL - beyond;
      }
    }
    const height = heights[layer + 1] + (heights[layer] - heights[layer + 1]) * random.upper(53) * 2 ** -53;
    if (height < bell(x)) return x;
  }
}

const IMAGE_STREAM = 6n << 56n; // `Stream::Image` in src/rng.rs
const DIRECTION_STREAM = 0xffn << 56n; // a stream that dcgan does not use

/**
 * The z of image number `image` under a seed.
 * @param {"uniform" | "normal"} latent @param {bigint} seed
 */
export function noise(latent, seed, image, zDim) {
  return sample(latent, seed, image, zDim).z;
}

/**
 * The z of image number `image` under a seed, and the number of its class: each class is drawn as often as it
 * is in training, where `counts` says how many images it has. Without `counts` there is no class (null).
 * @param {"uniform" | "normal"} latent @param {bigint} seed @param {number[] | null} counts
 */
export function sample(latent, seed, image, zDim, counts = null) {
  const random = new ChaCha8(seed, IMAGE_STREAM | BigInt(image));
  const draw = latent === "normal" ? () => normal(random) : () => (random.next() >>> 8) * 2 ** -23 - 1;
  const z = Float32Array.from({ length: zDim }, draw);
  return { z, label: counts === null ? null : drawnClass(random, counts) };
}

// `drawn_class` in src/sample/mod.rs. The counts have a sum above 0.
function drawnClass(random, counts) {
  const total = counts.reduce((sum, count) => sum + BigInt(count), 0n);
  const low = BigInt(random.next());
  const high = BigInt(random.next());
  let left = (((high << 32n) | low) * total) >> 64n;
  return counts.findIndex((count) => {
    left -= BigInt(count);
    return left < 0n;
  });
}

/** The seed that a person typed: a whole number below 2^64, or null if it is none. */
export function parseSeed(text) {
  const digits = text.trim();
  if (!/^[0-9]{1,20}$/.test(digits)) return null;
  const seed = BigInt(digits);
  return seed < 1n << 64n ? seed : null;
}

// ---- walks -------------------------------------------------------------------------------------

export function lerp(a, b, t) {
  return a.map((value, i) => value + (b[i] - value) * t);
}

/**
 * A point on the great circle from a to b. Between two samples of a normal distribution in many
 * dimensions, a straight line would pass through vectors so short that the generator has never seen any.
 */
export function slerp(a, b, t) {
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  // Where both are parallel or opposite, or one has no length, the circle is not defined.
  if (!(sine > 1e-6)) return lerp(a, b, t);
  const fromA = Math.sin((1 - t) * angle) / sine;
  const fromB = Math.sin(t * angle) / sine;
  return a.map((value, i) => value * fromA + b[i] * fromB);
}

/** The point at `at`, from 0 to corners.length - 1, of the walk from corner to corner. */
export function walk(latent, corners, at) {
  const leg = Math.min(Math.floor(at), corners.length - 2);
  if (leg < 0) return Float32Array.from(corners[0]);
  return (latent === "normal" ? slerp : lerp)(corners[leg], corners[leg + 1], at - leg);
}

/** Where a walk of `corners` corners is after `legs` legs: forth, back, and forth again. */
export function backAndForth(corners, legs) {
  const far = corners - 1;
  if (far < 1) return 0;
  const within = legs % (2 * far);
  return within <= far ? within : 2 * far - within;
}

// ---- directions --------------------------------------------------------------------------------

/** Standard deviation of each number of z. */
export function deviation(latent) {
  return latent === "normal" ? 1 : 1 / Math.sqrt(3);
}

/**
 * z moved along directions by as many standard deviations as `amounts` says. Uniform z stays in
 * [-1, 1], because the generator was trained on nothing beyond.
 */
export function moved(latent, z, directions, amounts) {
  const result = Float32Array.from(z);
  directions.forEach((direction, k) => {
    const step = amounts[k] * deviation(latent);
    if (step === 0) return;
    for (let i = 0; i < result.length; i++) result[i] += step * direction[i];
  });
  if (latent === "normal" || amounts.every((amount) => amount === 0)) return result;
  return result.map((value) => Math.min(1, Math.max(-1, value)));
}

/** Up to `count` random directions of length 1 at right angles. */
export function randomDirections(seed, count, zDim) {
  const random = new ChaCha8(seed, DIRECTION_STREAM);
  const found = [];
  while (found.length < Math.min(count, zDim)) {
    const direction = Float64Array.from({ length: zDim }, () => normal(random));
    // Done twice, because the first time leaves rounding errors.
    for (const other of [...found, ...found]) {
      const along = dot(direction, other);
      for (let i = 0; i < zDim; i++) direction[i] -= along * other[i];
    }
    const length = Math.sqrt(dot(direction, direction));
    if (length > 1e-6) found.push(direction.map((value) => value / length));
  }
  return found;
}

/**
 * Up to `count` directions of length 1 that change `weight` z most, the strongest first.
 * @param {Float32Array} weight row by row, [rows, zDim]
 */
export function principalDirections(weight, zDim, count) {
  // The eigenvectors of weight^T weight, by Jacobi's rotations.
  const square = new Float64Array(zDim * zDim);
  for (let row = 0; row < weight.length; row += zDim) {
    for (let i = 0; i < zDim; i++) {
      const factor = weight[row + i];
      for (let j = 0; j <= i; j++) square[i * zDim + j] += factor * weight[row + j];
    }
  }
  for (let i = 0; i < zDim; i++) for (let j = 0; j < i; j++) square[j * zDim + i] = square[i * zDim + j];
  const vectors = new Float64Array(zDim * zDim); // a vector in each row
  for (let i = 0; i < zDim; i++) vectors[i * zDim + i] = 1;

  const whole = dot(square, square);
  for (let sweep = 0; sweep < 30; sweep++) {
    let outside = 0;
    for (let i = 0; i < zDim; i++) for (let j = 0; j < i; j++) outside += square[i * zDim + j] ** 2;
    if (!(outside > 1e-24 * whole)) break;
    for (let p = 0; p < zDim; p++) {
      for (let q = p + 1; q < zDim; q++) {
        const apq = square[p * zDim + q];
        if (apq === 0) continue;
        const theta = (square[q * zDim + q] - square[p * zDim + p]) / (2 * apq);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const cos = 1 / Math.hypot(t, 1);
        const sin = t * cos;
        for (let k = 0; k < zDim; k++) turn(square, k * zDim + p, k * zDim + q, cos, sin);
        for (let k = 0; k < zDim; k++) turn(square, p * zDim + k, q * zDim + k, cos, sin);
        for (let k = 0; k < zDim; k++) turn(vectors, p * zDim + k, q * zDim + k, cos, sin);
      }
    }
  }

  const order = Array.from({ length: zDim }, (_, i) => i);
  order.sort((i, j) => square[j * zDim + j] - square[i * zDim + i]);
  return order.slice(0, count).map((row) => {
    const vector = vectors.slice(row * zDim, (row + 1) * zDim);
    // Either sign is right. Choose it by a rule, so that it is the same everywhere.
    const largest = vector.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    return largest < 0 ? vector.map((value) => -value) : vector;
  });
}

function turn(matrix, p, q, cos, sin) {
  const atP = matrix[p];
  const atQ = matrix[q];
  matrix[p] = cos * atP - sin * atQ;
  matrix[q] = sin * atP + cos * atQ;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

// ---- layout ------------------------------------------------------------------------------------

const LARGE = 256; // CSS pixels of the sides of the large image, at most
const BATCH_PIXELS = 46 * 64 * 64;

/**
 * How images of a size are shown, so that the page fits the window of a laptop.
 * @param {{width: number, height: number}} size
 */
export function layout({ width, height }) {
  const along = (side) => (side <= 64 ? 6 : side <= 128 ? 4 : 3);
  const columns = along(width);
  const rows = along(height);
  // Enlarged by whole numbers, so that all pixels are equally large.
  const fit = Math.min(LARGE / width, LARGE / height);
  return {
    columns, // of the samples
    rows,
    aspect: (columns * width) / (rows * height), // of all samples together
    steps: width <= 64 ? 9 : 5, // images of the walk from end to end
    largeWidth: width * (fit >= 1 ? Math.floor(fit) : fit), // CSS pixels
    /** Whether small pictures show about two pixels or more for one of the image: then its pixels have sharp edges. */
    sharp: Math.max(width, height) <= 40,
    sharpLarge: fit >= 1,
    /** Images that are made at a time: memory is limited, and the first should soon be seen. */
    batch: Math.max(1, Math.floor(BATCH_PIXELS / (width * height))),
  };
}

// ---- pixels and files --------------------------------------------------------------------------

/** A value in [-1, 1] as a byte, rounded as in dcgan's pictures. */
export function toByte(value) {
  const scaled = (Math.fround(value) + 1) * 127.5;
  // Halves go to the even number, as in libtorch.
  const floor = Math.floor(scaled);
  const part = scaled - floor;
  const rounded = part > 0.5 || (part === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
  return Math.min(255, Math.max(0, rounded)) || 0;
}

/**
 * Image number `index` of `values` [N, channels, height, width] as the RGBA bytes of a canvas.
 * @param {{channels: number, width: number, height: number}} shape
 */
export function pixels(values, index, { channels, width, height }) {
  const plane = width * height;
  const start = index * channels * plane;
  const bytes = new Uint8ClampedArray(4 * plane);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      bytes[4 * i + c] = toByte(values[start + (channels === 3 ? c : 0) * plane + i]);
    }
    bytes[4 * i + 3] = 255;
  }
  return bytes;
}

/** z as a .npy file [1, z_dim] of float32, which `dcgan sample --z` reads. */
export function npy(z) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (1, ${z.length}), }`;
  const padded = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + padded.length + 4 * z.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0]);
  view.setUint16(8, padded.length, true);
  bytes.set(new TextEncoder().encode(padded), 10);
  z.forEach((value, i) => view.setFloat32(10 + padded.length + 4 * i, value, true));
  return bytes;
}
