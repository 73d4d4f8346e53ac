// Opens the built page in headless Chromium, checks what it does and takes a picture.
// scripts/check_browser.sh builds the page and starts this; its --help says what is checked.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Browser, Failure, check, cleanUp, serve, temporaryFolder } from "./chromium.js";
import { toByte } from "./latent.js";

const TOLERANCE = 1e-5;

const { values: options } = parseArgs({
  options: {
    folder: { type: "string" }, // the built page
    out: { type: "string" }, // the picture to write
    chromium: { type: "string" },
    expect: { type: "string", default: "" },
    width: { type: "string" },
    dark: { type: "boolean", default: false },
  },
});
const width = Number(options.width);

// ---- checks ------------------------------------------------------------------------------------

const text = (id) => `document.getElementById("${id}").textContent`;
const bytesOf = (selector) => `(() => {
  const canvas = document.querySelector(${JSON.stringify(selector)});
  return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
})()`;

async function checkValues(browser, file) {
  let expected;
  try {
    expected = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new Failure(`${file}: ${error.message}`);
  }
  const { z, images } = expected;
  const labels = expected.class ?? [];
  check(Array.isArray(z) && Array.isArray(images) && z.length === images.length && z.length > 0 && z.length <= 36,
    `${file}: expected {"z": [[...]], "images": [[...]]} with 1 to 36 rows each.`);
  const needed = (await browser.run(offersClasses)) ? z.length : 0;
  check(labels.length === needed, `${file}: expected ${needed} numbers of classes as "class", found ${labels.length}.`);
  const rows = `${JSON.stringify(z)}, ${JSON.stringify(labels)}`;
  const values = await browser.run(`latentPage.generate(${rows})`);
  const flat = images.flat(Infinity);
  check(values.length === flat.length, `${file}: holds ${flat.length} values, the page gives ${values.length}.`);
  const largest = values.reduce((most, value, i) => {
    const off = Math.abs(value - flat[i]);
    return off <= most ? most : off; // also takes NaN
  }, 0);
  console.log(`largest difference of ${flat.length} values in ${z.length} images: ${largest.toExponential(2)}`);
  check(largest <= TOLERANCE, `the images differ from ${file} by more than ${TOLERANCE}.`);

  // Compare what the page draws with what follows from the expected values.
  await browser.run(`latentPage.show(${rows})`);
  const { samples } = await browser.run("latentPage.shown()");
  let apart = 0;
  for (const [image, row] of images.slice(0, samples).entries()) {
    const plain = row.flat(Infinity);
    const shown = await browser.run(bytesOf(`#grid button:nth-child(${image + 1}) canvas`));
    const plane = shown.length / 4;
    const channels = plain.length / plane;
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++) {
        const byte = toByte(plain[(channels === 3 ? c : 0) * plane + i]);
        apart = Math.max(apart, Math.abs(shown[4 * i + c] - byte));
      }
    }
  }
  // A value between two bytes may be rounded to either.
  check(apart <= 1, `the samples are drawn up to ${apart} of 255 off the expected images.`);
  console.log(`largest difference of what is drawn: ${apart} of 255`);
}

const offersClasses = `!document.getElementById("class-choice").hidden`;

async function checkClasses(browser) {
  if (!(await browser.run(offersClasses))) {
    console.log("classes: none, and none are offered");
    return;
  }
  const choose = (value) => browser.run(`(() => {
    const choice = document.getElementById("class");
    choice.value = "${value}";
    choice.dispatchEvent(new Event("change"));
    return latentPage.drawn();
  })()`);
  const all = async () => {
    const { samples } = await browser.run("latentPage.shown()");
    const images = [];
    for (let i = 1; i <= samples; i++) images.push(await browser.run(bytesOf(`#grid button:nth-child(${i}) canvas`)));
    return images;
  };
  const labels = () => browser.run(`Array.from(document.querySelectorAll("#grid button:not([hidden])"), (button) =>
    button.getAttribute("aria-label").match(/, class (.*?)(, corner|$)/)?.[1])`);
  const names = await browser.run(`Array.from(document.getElementById("class").options, (option) => option.text)`);

  const any = await all();
  const drawn = await labels();
  check(new Set(drawn).size > 1, "any class: all samples are of the same.");
  const ofClass = [];
  for (const number of [0, names.length - 2]) {
    await choose(number);
    const name = names[number + 1];
    check((await labels()).every((label) => name.startsWith(label)), `class ${name}: not all samples are of it.`);
    const images = await all();
    any.forEach((image, i) => {
      if (name === drawn[i]) check(same(image, images[i]), `sample ${i + 1} of class ${name} changes when it is chosen.`);
    });
    check(same(await browser.run(bytesOf("#here")), images[0]), "the walk keeps its class when another is chosen.");
    ofClass.push(images);
  }
  check(!same(ofClass[0][0], ofClass[1][0]), "another class gives the same sample.");
  await choose("");
  check((await all()).every((image, i) => same(image, any[i])), "any class gives other samples than before.");
  console.log(`classes: ${names.length - 1}, as expected`);
}

async function checkControls(browser) {
  const grid = await browser.run(bytesOf("#grid button canvas"));
  const other = await browser.run(bytesOf("#grid button:nth-child(2) canvas"));
  check(new Set(grid).size > 8, "the first sample is one plain area.");
  check(grid.some((byte, i) => byte !== other[i]), "the first two samples are the same.");
  check(same(await browser.run(bytesOf("#here")), grid), "the walk doesn't start at its first corner.");
  check(/^Time per image: [0-9.]+ ms/.test(await browser.run(text("time"))), "no time per image is shown.");

  await browser.run(`document.getElementById("at").focus()`);
  await browser.send("Input.dispatchKeyEvent", { type: "keyDown", key: "End", windowsVirtualKeyCode: 35 });
  await browser.run("latentPage.drawn()");
  check(same(await browser.run(bytesOf("#here")), other), "the walk doesn't end at its second corner.");

  await browser.run(`document.querySelector("#grid button").focus()`);
  await browser.press("ArrowRight");
  await browser.press("ArrowDown");
  await browser.press("Enter");
  const label = await browser.run(`document.activeElement.getAttribute("aria-label")`);
  const { columns } = await browser.run("latentPage.shown()");
  const below = new RegExp(`^Sample ${columns + 2}(, class .*)?, corner 3 of the walk$`);
  check(below.test(label), `arrow keys and Enter chose "${label}" in the place of sample ${columns + 2}.`);
  const legs = await browser.run(`document.getElementById("at").max`);
  check(legs === "2", "the third corner doesn't make the walk longer.");

  const before = await browser.run(bytesOf("#here"));
  await browser.run(`document.getElementById("direction-1").focus()`);
  for (let i = 0; i < 30; i++) await browser.press("ArrowRight");
  check(!same(await browser.run(bytesOf("#here")), before), "the first direction changes nothing.");
  await browser.run(`document.getElementById("reset").click()`);
  await browser.run("latentPage.drawn()");
  check(same(await browser.run(bytesOf("#here")), before), "directions at 0 don't give the image of before.");

  await browser.run(`document.getElementById("play").click()`);
  await browser.run("new Promise((resolve) => setTimeout(resolve, 600))");
  await browser.run(`document.getElementById("play").click()`);
  await browser.run("latentPage.drawn()");
  check(!same(await browser.run(bytesOf("#here")), before), "playing shows nothing new.");

  const seed = (value) => browser.run(`(() => {
    const seed = document.getElementById("seed");
    seed.value = "${value}";
    seed.dispatchEvent(new Event("change"));
    return latentPage.drawn();
  })()`);
  await seed("-1");
  check(!(await browser.run(`document.getElementById("seed-error").hidden`)), "a wrong seed is taken without a word.");
  await seed("1");
  check(!same(await browser.run(bytesOf("#grid button canvas")), grid), "another seed gives the same sample.");

  const unscrolled = `document.documentElement.scrollWidth <= innerWidth`;
  for (const narrow of [360, 768, 1440]) {
    await browser.resize(narrow);
    check(await browser.run(unscrolled), `${narrow} pixels wide, the page has to be scrolled sideways.`);
  }

  const folder = temporaryFolder();
  await browser.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder });
  for (const [button, name, start] of [
    ["save-grid", "samples-seed-1.png", "\x89PNG"],
    ["save-here", "image.png", "\x89PNG"],
    ["save-strip", "walk.png", "\x89PNG"],
    ["save-z", "z.npy", "\x93NUMPY"],
  ]) {
    await browser.run(`document.getElementById("${button}").click()`);
    check(await eventually(() => existsSync(join(folder, name))), `no ${name} is saved.`);
    check(readFileSync(join(folder, name), "latin1").startsWith(start), `what is saved as ${name} is something else.`);
  }

  // A wrong file is refused with a reason, and the generator that was there stays.
  writeFileSync(join(folder, "broken.onnx"), "this is no model");
  await browser.choose(join(folder, "broken.onnx"));
  const refused = async () => /^broken\.onnx: this is not an ONNX model/.test(await browser.run(text("error")));
  check(await eventually(refused), "a wrong file gets no error.");
  check((await browser.run(text("facts"))).startsWith("generator.onnx"), "a wrong file drives out the generator.");

  // A correct file that is dropped takes its place.
  const dropped = join(folder, "dropped.onnx");
  writeFileSync(dropped, readFileSync(join(options.folder, "generator.onnx")));
  await browser.drop(dropped);
  const taken = async () => /^dropped\.onnx · /.test(await browser.run(text("facts")));
  check(await eventually(taken), "a file that is dropped is not opened.");
  check((await browser.run(text("error"))) === "", "the error stays when a right file follows.");
  await browser.run("latentPage.drawn()");
  console.log("samples, walk, directions, play, seed, keyboard, widths, saving and opening: as expected");
}

/** Whether a condition becomes true within ten seconds. */
async function eventually(holds) {
  for (let wait = 0; wait < 100; wait++) {
    if (await holds()) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

const same = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);

async function main() {
  const url = await serve(options.folder);
  const browser = new Browser(options.chromium);
  const faults = [];
  browser.listen((method, params) => {
    if (method === "Runtime.exceptionThrown") {
      faults.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    } else if (method === "Log.entryAdded" && params.entry.level === "error") {
      faults.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    } else if (method === "Runtime.consoleAPICalled" && params.type === "error") {
      faults.push(params.args.map((arg) => arg.value ?? arg.description).join(" "));
    } else if (method === "Network.requestWillBeSent" && !/^(data|blob):/.test(params.request.url)) {
      if (!params.request.url.startsWith(url)) faults.push(`it asks for ${params.request.url}`);
    }
  });
  await browser.openTab();
  await browser.send("Emulation.setEmulatedMedia", {
    features: [{ name: "prefers-color-scheme", value: options.dark ? "dark" : "light" }],
  });
  await browser.resize(width);
  await browser.goTo(url);
  const error = await browser.run(text("error"));
  check(error === "", `the page says: ${error}`);
  console.log(await browser.run(text("facts")));

  if (options.expect !== "") await checkValues(browser, options.expect);
  await browser.goTo(url);
  await checkClasses(browser);
  await browser.goTo(url);
  await checkControls(browser);

  // Take the picture of a fresh page, in the middle of the walk.
  await browser.resize(width);
  await browser.goTo(url);
  await browser.run(`(() => {
    const at = document.getElementById("at");
    at.value = 0.5;
    at.dispatchEvent(new Event("input"));
    return latentPage.drawn();
  })()`);
  await browser.run("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))");
  console.log(await browser.run(text("time")));
  check(faults.length === 0, `the page has faults:\n  ${faults.join("\n  ")}`);

  const height = await browser.run("document.documentElement.scrollHeight");
  const { data } = await browser.send("Page.captureScreenshot", {
    format: "png",
    captureBeyondViewport: true,
    clip: { x: 0, y: 0, width, height, scale: 1 },
  });
  const beside = `${options.out}.${process.pid}.tmp`;
  try {
    writeFileSync(beside, Buffer.from(data, "base64"));
    renameSync(beside, options.out);
  } finally {
    rmSync(beside, { force: true });
  }
}

let code = 0;
try {
  await main();
} catch (error) {
  console.error(`check_browser: error: ${error instanceof Failure ? error.message : error.stack}`);
  code = 1;
} finally {
  cleanUp();
}
process.exit(code);
