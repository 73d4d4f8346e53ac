// The page: runs the generator in onnxruntime-web, keeps what a person has chosen, and draws it.
import * as ort from "onnxruntime-web/wasm";

import {
  backAndForth,
  layout,
  moved,
  npy,
  parseSeed,
  pixels,
  principalDirections,
  randomDirections,
  sample,
  walk,
} from "./latent.js";
import { ModelError, readModel } from "./model.js";

const MOST_SAMPLES = 36;
const DIRECTIONS = 8;
const FARTHEST = 8; // standard deviations at the end of a direction's slider
const LEG_MS = 3000; // of an animation, from corner to corner
const LARGEST_FILE = 512 * 1024 * 1024;
const LARGEST_Z_FOR_PRINCIPAL = 256; // for a longer z, finding them would block the page for seconds
const BESIDE = "generator.onnx";
// Width of one image in saved pictures: small images are enlarged about to that, larger ones are not.
const SAVED_SMALL = 128; // in the samples and in the walk
const SAVED_LARGE = 256; // alone

ort.env.logLevel = "error";
// Threads need headers that a plain static server doesn't send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", document.baseURI).href };

const $ = (id) => document.getElementById(id);

// ---- the generator -----------------------------------------------------------------------------

let generator = null; // {session, model, name, shown}; shown is what layout() says

// The session computes one batch at a time, and none while it is replaced.
let queue = Promise.resolve();
function inTurn(work) {
  const result = queue.then(work);
  queue = result.catch(() => {});
  return result;
}

/**
 * Images [N, channels, height, width] of N rows of z, of the classes `labels` where the generator knows classes,
 * and the milliseconds that took; null if another generator has taken the place of this one.
 */
function generate(rows, labels, { session, model } = generator) {
  return inTurn(async () => {
    if (session !== generator.session) return null;
    const z = new Float32Array(rows.length * model.zDim);
    rows.forEach((row, i) => z.set(row, i * model.zDim));
    const feeds = { z: new ort.Tensor("float32", z, [rows.length, model.zDim]) };
    if (model.classes !== null) {
      feeds.class = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [rows.length]);
    }
    const start = performance.now();
    const { images } = await session.run(feeds);
    const ms = performance.now() - start;
    const values = images.data;
    if (values.length !== rows.length * model.channels * model.height * model.width) {
      throw new Error(`the generator gave images of shape [${images.dims.join(", ")}], other than its file says.`);
    }
    return { values, ms };
  });
}

let opening = 0; // counts the opened files, so that of two in a row the later one wins

async function open(name, bytes) {
  const turn = ++opening;
  $("facts").textContent = `Reading ${name} ...`;
  let session = null;
  try {
    const model = readModel(bytes);
    try {
      session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new ModelError(`onnxruntime-web can't run it: ${plain(error.message)}`);
    }
    if (turn !== opening) return void session.release();
    await inTurn(async () => {
      const before = generator;
      generator = { session, model, name, shown: layout(model) };
      session = null;
      showError(null);
      started();
      await before?.session.release();
    });
  } catch (error) {
    await session?.release();
    if (turn !== opening) return;
    const why = error instanceof ModelError ? error.message : `could not be read: ${error.message}`;
    showError(`${name}: ${why}`, "A file that fits: dcgan export MODEL --format onnx --out generator.onnx");
  } finally {
    if (turn === opening) showFacts();
  }
}

/** The message of onnxruntime without its error codes and the position in its own sources. */
function plain(message) {
  const text = message.replace(/^.*ERROR_MESSAGE: /s, "").replace(/^\/\S+:\d+ .*?\) /s, "").trim();
  return text.length > 300 ? `${text.slice(0, 300)} ...` : text;
}

async function openFile(file) {
  if (file.size > LARGEST_FILE) {
    opening++;
    showError(`${file.name}: has ${Math.ceil(file.size / 2 ** 20)} MiB; expected at most 512.`);
    showFacts();
    return;
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch (error) {
    showError(`${file.name}: can't be read: ${error.message}`);
    return;
  }
  await open(file.name, bytes);
}

async function openBeside() {
  try {
    const response = await fetch(new URL(BESIDE, document.baseURI));
    if (response.status === 404) {
      $("facts").textContent = `There is no ${BESIDE} beside this page: open or drop a file.`;
      return;
    }
    if (!response.ok) throw new Error(`the server answered ${response.status} ${response.statusText}`);
    await open(BESIDE, new Uint8Array(await response.arrayBuffer()));
  } catch (error) {
    showError(`${BESIDE}: ${error.message}`);
    showFacts();
  }
}

function showFacts() {
  if (generator === null) {
    $("facts").textContent = "No generator yet: open or drop a file.";
    return;
  }
  const { model, name } = generator;
  $("facts").textContent = [
    name,
    model.dataset === null ? null : `trained on ${model.dataset}`,
    `${model.zDim} numbers in z, ${model.latent}${model.latentIsKnown ? "" : " (assumed: the file doesn't say)"}`,
    `${model.width}×${model.height}, ${model.channels === 3 ? "colour" : "grey"}`,
    model.classes === null ? null : `${model.classes.names.length} classes`,
    model.program === null ? null : `made by ${model.program}`,
  ]
    .filter((fact) => fact !== null)
    .join(" · ");
}

function showError(...lines) {
  const message = lines[0] === null ? "" : lines.join("\n");
  $("error").textContent = message;
  $("error").hidden = message === "";
}

// ---- what is chosen ----------------------------------------------------------------------------

let seed = 0n;
let samples = []; // {z, label} of each cell; the label is the number of its class, or null
let corners = [0, 1]; // cells, in the order of the walk
let at = 0; // 0 to corners.length - 1
let directions = [];
let amounts = [];
let playing = false;

/** z at a point of the walk, moved along the directions, and the class there: nothing lies between two classes. */
function pointAt(position) {
  const { latent } = generator.model;
  const ends = corners.map((cell) => samples[cell]);
  const z = walk(latent, ends.map((end) => end.z), position);
  return { z: moved(latent, z, directions, amounts), label: ends[Math.round(position)].label };
}

function started() {
  const { model, shown } = generator;
  for (const canvas of [...cells.map((cell) => cell.canvas), $("here"), $("here-again")]) {
    canvas.width = model.width;
    canvas.height = model.height;
  }
  $("strip").width = shown.steps * model.width;
  $("strip").height = model.height;
  $("here").style.width = `${shown.largeWidth}px`;
  $("here").classList.toggle("sharp", shown.sharpLarge);
  for (const id of ["grid", "strip", "here-again"]) $(id).classList.toggle("sharp", shown.sharp);
  $("grid").style.setProperty("--columns", shown.columns);
  $("grid").style.setProperty("--aspect", shown.aspect);
  cells.forEach(({ button }, cell) => (button.hidden = cell >= count()));
  // The tab key may not stop at a sample that is gone.
  if (cells.find(({ button }) => button.tabIndex === 0).button.hidden) {
    cells.forEach(({ button }, cell) => (button.tabIndex = cell === 0 ? 0 : -1));
  }
  corners = corners.filter((cell) => cell < count());
  if (corners.length === 0) corners = [0, 1];
  at = Math.min(at, corners.length - 1);
  pending = [];
  timings.clear();
  offerClasses(model.classes);
  const principal = $("kind").querySelector("[value=principal]");
  principal.disabled = model.firstWeight === null || model.zDim > LARGEST_Z_FOR_PRINCIPAL;
  if (principal.disabled) $("kind").value = "random";
  for (const control of document.querySelectorAll("main button, main input, main select")) control.disabled = false;
  newSamples();
  newDirections();
  showCorners();
}

/** How many samples there are. */
function count() {
  return generator.shown.columns * generator.shown.rows;
}

function offerClasses(classes) {
  $("class-choice").hidden = classes === null;
  const options = [new Option("any, as often as in training", "")];
  classes?.names.forEach((name, label) => {
    options.push(new Option(classes.counts[label] > 0 ? name : `${name} (had no images in training)`, label));
  });
  $("class").replaceChildren(...options);
}

function newSamples() {
  const { latent, zDim, classes } = generator.model;
  samples = Array.from({ length: count() }, (_, cell) => sample(latent, seed, cell, zDim, classes?.counts));
  const chosen = $("class").value;
  if (chosen !== "") for (const each of samples) each.label = Number(chosen);
  showCorners();
  draw("grid", "strip", "here");
}

function newDirections() {
  const { model } = generator;
  if ($("kind").value === "principal") {
    model.principal ??= principalDirections(model.firstWeight, model.zDim, DIRECTIONS);
    directions = model.principal;
  } else {
    directions = randomDirections(seed, DIRECTIONS, model.zDim);
  }
  sliders.forEach(({ parts }, k) => parts.forEach((part) => (part.hidden = k >= directions.length)));
  setAmounts(directions.map(() => 0));
}

function setAmounts(values) {
  amounts = values;
  values.forEach((value, k) => {
    sliders[k].range.value = value;
    sliders[k].output.textContent = value.toFixed(1).replace("-", "−");
  });
  draw("strip", "here");
}

function toggleCorner(cell) {
  const place = corners.indexOf(cell);
  if (place < 0) corners.push(cell);
  else if (corners.length > 1) corners.splice(place, 1);
  at = Math.min(at, corners.length - 1);
  showCorners();
  draw("strip", "here");
}

function showCorners() {
  // Where all are of one class, the choice above the samples says it.
  const captioned = generator !== null && generator.model.classes !== null && $("class").value === "";
  $("class-help").hidden = !captioned;
  cells.forEach(({ button, badge, caption }, cell) => {
    const place = corners.indexOf(cell);
    button.setAttribute("aria-pressed", place >= 0 && generator !== null);
    const name = className(samples[cell]?.label);
    const parts = [`Sample ${cell + 1}`];
    if (name !== null) parts.push(`class ${name}`);
    if (place >= 0) parts.push(`corner ${place + 1} of the walk`);
    button.setAttribute("aria-label", parts.join(", "));
    caption.hidden = !captioned;
    caption.textContent = button.title = captioned ? name : "";
    badge.textContent = place < 0 ? "" : place + 1;
    badge.hidden = place < 0 || generator === null;
  });
  const still = corners.length < 2 || generator === null;
  if (still) stop();
  $("at").disabled = $("play").disabled = still;
  $("at").max = Math.max(1, corners.length - 1);
  showPlace();
}

/** The name of a class; null for none. */
function className(label) {
  return generator?.model.classes?.names[label] ?? null;
}

function showPlace() {
  $("at").value = at;
  let text;
  if (generator === null) text = "";
  else if (corners.length < 2) text = "Choose a second sample to walk to.";
  else {
    const leg = Math.min(Math.floor(at), corners.length - 2);
    text = `${Math.round(100 * (at - leg))} % of the way from corner ${leg + 1} to ${leg + 2}`;
    const name = className(samples[corners[Math.round(at)]]?.label);
    if (name !== null) text += `, class ${name}`;
  }
  $("at-text").textContent = text;
  $("at").setAttribute("aria-valuetext", text);
}

function setSeed(text) {
  const value = parseSeed(text);
  $("seed").setAttribute("aria-invalid", value === null);
  $("seed-error").hidden = value !== null;
  $("seed-error").textContent = value === null ? "Expected a whole number from 0 to 18446744073709551615." : "";
  if (value === null) return;
  seed = value;
  newSamples();
  if ($("kind").value === "random") newDirections();
}

// ---- drawing -----------------------------------------------------------------------------------

const wanted = new Set();
let pending = []; // what is still to be drawn: {part, z, label, context, x}
let drawing = null; // the promise of what is being drawn

/** Draws "grid", "strip" and "here" as soon as the generator is free. What is asked for meanwhile is drawn once. */
function draw(...parts) {
  for (const part of parts) wanted.add(part);
  drawing ??= drawWanted();
  return drawing;
}

async function drawWanted() {
  try {
    // Let the current event finish, so that everything it changes is drawn in one batch.
    await null;
    while (wanted.size + pending.length > 0) {
      const current = generator;
      const { model, shown } = current;
      const targets = [];
      if (wanted.has("here")) targets.push({ part: "here", ...pointAt(at), context: hereContext, x: 0 });
      if (wanted.has("grid")) {
        samples.forEach((each, cell) => targets.push({ part: "grid", ...each, context: cells[cell].context, x: 0 }));
      }
      if (wanted.has("strip")) {
        for (let step = 0; step < shown.steps; step++) {
          const point = pointAt((step / (shown.steps - 1)) * (corners.length - 1));
          targets.push({ part: "strip", ...point, context: stripContext, x: step * model.width });
        }
      }
      // What is asked for again need not be drawn as it was.
      pending = [...targets, ...pending.filter(({ part }) => !wanted.has(part))];
      wanted.clear();
      const batch = pending.splice(0, shown.batch);
      const images = await generate(batch.map(({ z }) => z), batch.map(({ label }) => label), current);
      if (images === null || generator !== current) continue; // the new generator has asked for everything again
      batch.forEach(({ context, x }, i) => {
        context.putImageData(new ImageData(pixels(images.values, i, model), model.width, model.height), x, 0);
      });
      hereAgainContext.drawImage($("here"), 0, 0);
      showTime(batch.length, images.ms);
      // Between batches the browser shows what is there and takes what a person does.
      if (pending.length > 0) await new Promise((resolve) => setTimeout(resolve));
    }
  } catch (error) {
    wanted.clear();
    pending = [];
    stop();
    showError(`The generator failed: ${error.message}`);
  } finally {
    drawing = null;
  }
}

// The newest measurements for each size of batch. Their median is shown.
const timings = new Map();
let timeShown = -Infinity;

function showTime(images, ms) {
  const newest = timings.get(images) ?? [];
  newest.push(ms / images);
  if (newest.length > 15) newest.shift();
  timings.set(images, newest);
  const now = performance.now();
  if (playing && now - timeShown < 500) return; // change it slowly enough to be read
  timeShown = now;
  const parts = Array.from(timings, ([count, each]) => [count, each.toSorted((a, b) => a - b)[each.length >> 1]])
    .sort(([a], [b]) => a - b)
    .map(([count, middle]) => `${middle.toFixed(2)} ms ${count === 1 ? "alone" : `in a batch of ${count}`}`);
  $("time").textContent = `Time per image: ${parts.join(", ")}`;
}

// ---- playing -----------------------------------------------------------------------------------

function stop() {
  playing = false;
  $("play").textContent = "Play";
}

async function play() {
  playing = true;
  $("play").textContent = "Pause";
  let legs = at;
  let before = performance.now();
  while (playing) {
    const now = await new Promise(requestAnimationFrame);
    if (!playing) break;
    // A tab in the background gets no frames. Limit the step, so that it continues where it was.
    legs += Math.min(100, Math.max(0, now - before)) / LEG_MS;
    before = now;
    at = backAndForth(corners.length, legs);
    showPlace();
    await draw("here");
  }
}

// ---- saving ------------------------------------------------------------------------------------

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Saves canvases, `columns` in a row, enlarged so that an image is about `side` pixels wide or high. */
function savePng(name, canvases, columns, side) {
  const { model } = generator;
  const scale = Math.max(1, Math.round(side / Math.max(model.width, model.height)));
  const { width, height } = canvases[0];
  const whole = document.createElement("canvas");
  whole.width = columns * width * scale;
  whole.height = Math.ceil(canvases.length / columns) * height * scale;
  const context = whole.getContext("2d");
  context.imageSmoothingEnabled = false;
  canvases.forEach((canvas, i) => {
    const x = (i % columns) * width * scale;
    const y = Math.floor(i / columns) * height * scale;
    context.drawImage(canvas, x, y, width * scale, height * scale);
  });
  whole.toBlob((blob) => {
    if (blob === null) showError(`${name}: this browser could not make the picture.`);
    else save(name, blob);
  }, "image/png");
}

// ---- controls ----------------------------------------------------------------------------------

const cells = Array.from({ length: MOST_SAMPLES }, (_, cell) => {
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = cell === 0 ? 0 : -1;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1; // until a generator says how large its images are
  const badge = document.createElement("span");
  badge.className = "corner";
  badge.hidden = true;
  const caption = document.createElement("span");
  caption.className = "caption";
  caption.hidden = true;
  button.append(canvas, badge, caption);
  button.addEventListener("click", () => toggleCorner(cell));
  $("grid").append(button);
  return { button, canvas, badge, caption, context: canvas.getContext("2d", { willReadFrequently: true }) };
});
const [hereContext, hereAgainContext, stripContext] = ["here", "here-again", "strip"].map((id) =>
  $(id).getContext("2d", { willReadFrequently: true }),
);

// The tab key stops once at the samples; the arrow keys lead from sample to sample.
$("grid").addEventListener("keydown", (event) => {
  const cell = cells.findIndex(({ button }) => button === document.activeElement);
  if (cell < 0 || generator === null) return;
  const { columns } = generator.shown;
  const column = cell % columns;
  const to = {
    ArrowLeft: column > 0 ? cell - 1 : cell,
    ArrowRight: column < columns - 1 ? cell + 1 : cell,
    ArrowUp: cell >= columns ? cell - columns : cell,
    ArrowDown: cell + columns < count() ? cell + columns : cell,
    Home: 0,
    End: count() - 1,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  cells[to].button.focus();
});
$("grid").addEventListener("focusin", (event) => {
  for (const { button } of cells) button.tabIndex = button === event.target ? 0 : -1;
});

const sliders = Array.from({ length: DIRECTIONS }, (_, k) => {
  const label = document.createElement("label");
  const range = document.createElement("input");
  const output = document.createElement("output");
  range.type = "range";
  range.id = `direction-${k + 1}`;
  range.min = -FARTHEST;
  range.max = FARTHEST;
  range.step = 0.1;
  range.value = 0;
  label.htmlFor = range.id;
  label.textContent = `${k + 1}`;
  label.title = `Direction ${k + 1}`;
  range.setAttribute("aria-label", `Direction ${k + 1}`);
  output.htmlFor = range.id;
  output.textContent = "0.0";
  range.addEventListener("input", () => setAmounts(amounts.with(k, range.valueAsNumber)));
  $("directions").append(label, range, output);
  return { parts: [label, range, output], range, output };
});

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) openFile(file);
  $("file").value = ""; // so that the same file can be opened again after a correction
});
$("seed").addEventListener("change", () => setSeed($("seed").value));
$("new-seed").addEventListener("click", () => {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  setSeed($("seed").value);
});
$("class").addEventListener("change", newSamples);
$("at").addEventListener("input", () => {
  stop();
  at = $("at").valueAsNumber;
  showPlace();
  draw("here");
});
$("play").addEventListener("click", () => (playing ? stop() : play()));
$("kind").addEventListener("change", newDirections);
$("reset").addEventListener("click", () => setAmounts(amounts.map(() => 0)));
$("save-grid").addEventListener("click", () => {
  const canvases = cells.slice(0, count()).map((cell) => cell.canvas);
  savePng(`samples-seed-${seed}.png`, canvases, generator.shown.columns, SAVED_SMALL);
});
$("save-here").addEventListener("click", () => savePng("image.png", [$("here")], 1, SAVED_LARGE));
$("save-strip").addEventListener("click", () => savePng("walk.png", [$("strip")], 1, SAVED_SMALL));
$("save-z").addEventListener("click", () => save("z.npy", new Blob([npy(pointAt(at).z)])));

// Files can be dropped anywhere. Entering an element leaves its parent, so entering and leaving are counted.
let inside = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
function drag(change) {
  inside = Math.max(0, inside + change);
  $("drop").hidden = inside === 0;
}
addEventListener("dragenter", (event) => hasFiles(event) && drag(1));
addEventListener("dragleave", (event) => hasFiles(event) && drag(-1));
addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drag(-inside);
  const { files } = event.dataTransfer;
  if (files.length === 1) openFile(files[0]);
  else showError(`Expected one ONNX file, found ${files.length} files.`);
});

for (const control of document.querySelectorAll("main button, main input, main select")) control.disabled = true;
showCorners();
const ready = openBeside();

// For check.js, and for the browser's console.
globalThis.latentPage = {
  /** Settles when the first generator is ready, or when it is known that there is none. */
  ready,
  /** How many samples are shown, in how many columns, and how many images are made at a time. */
  shown: () => ({ samples: count(), columns: generator.shown.columns, batch: generator.shown.batch }),
  /** The values of the images that the generator makes of rows of z, of these classes where it knows classes. */
  async generate(rows, labels = []) {
    return Array.from((await generate(rows, labels)).values);
  },
  /** Shows rows of z, of these classes where there are classes, in the place of the first samples. */
  async show(rows, labels = []) {
    samples = samples.map((each, cell) =>
      cell < rows.length ? { z: Float32Array.from(rows[cell]), label: labels[cell] ?? null } : each,
    );
    showCorners();
    await draw("grid", "strip", "here");
  },
  /** Waits until everything that was asked for is drawn. */
  async drawn() {
    while (drawing !== null) await drawing;
  },
};
