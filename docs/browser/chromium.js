// A static server and headless Chromium, for check.js.
//
// Chromium is controlled through its own pipe (--remote-debugging-pipe), which needs no package and no port.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";

const LIMIT_MS = 90_000; // for one step, on a slow machine
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

const undo = [];
/** Ends what was started here and removes its temporary files. */
export function cleanUp() {
  while (undo.length > 0) undo.pop()();
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    cleanUp();
    process.exit(1);
  });
}


export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), "dcgan-browser-"));
  undo.push(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

export class Failure extends Error {}
export function check(holds, message) {
  if (!holds) throw new Failure(message);
}
function withLimit(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Failure(`${what} took longer than ${LIMIT_MS / 1000} s.`)), LIMIT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// ---- a static server, as plain as any -----------------------------------------------------------

export function serve(folder) {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost"); // which also takes out ".."
    const path = pathname === "/" ? "/index.html" : pathname;
    try {
      const body = readFileSync(join(folder, path));
      response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  undo.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}/`));
  });
}

// ---- Chromium ----------------------------------------------------------------------------------

export class Browser {
  #number = 0;
  #waiting = new Map();
  #listeners = new Set();
  #said = "";

  constructor(program) {
    const profile = temporaryFolder();
    const flags = ["--headless", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "--no-first-run",
      "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
      "--no-proxy-server", "--hide-scrollbars", "--disable-dev-shm-usage"];
    // Chromium refuses to run in its sandbox as root, which is the usual user in containers.
    if (process.getuid?.() === 0) flags.push("--no-sandbox");
    // In a process group of its own, so that its helper processes can be ended with it.
    this.child = spawn(program, [...flags, "about:blank"], {
      detached: true,
      stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"],
      env: { ...process.env, TMPDIR: profile },
    });
    undo.push(() => {
      try {
        process.kill(-this.child.pid, "SIGKILL");
      } catch {
        // it has ended already
      }
    });
    this.child.stderr.on("data", (text) => (this.#said = (this.#said + text).slice(-1500)));
    const ended = new Promise((_, reject) => {
      this.child.on("error", (error) => reject(new Failure(`${program}: ${error.message}`)));
      this.child.on("exit", () => {
        reject(new Failure(`${program} ended early; it said: ${this.#said.trim() || "nothing"}`));
      });
    });
    ended.catch(() => {});
    this.ended = ended;
    let rest = "";
    this.child.stdio[3].on("error", () => {});
    this.child.stdio[4].setEncoding("utf8").on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) this.#receive(JSON.parse(message));
    });
  }

  #receive({ id, method, params, result, error }) {
    if (id === undefined) {
      for (const listener of this.#listeners) listener(method, params);
      return;
    }
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) reject(new Failure(`Chromium: ${error.message}`));
    else resolve(result);
  }

  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  send(method, params = {}) {
    const id = ++this.#number;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.child.stdio[3].write(JSON.stringify({ id, method, params, sessionId: this.session }) + "\0");
    return withLimit(Promise.race([answer, this.ended]), method);
  }

  async openTab() {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    this.session = sessionId;
    for (const domain of ["Page", "Runtime", "Log", "Network", "DOM"]) await this.send(`${domain}.enable`);
  }

  async goTo(url) {
    const loaded = new Promise((resolve) => {
      const stop = this.listen((method) => {
        if (method !== "Page.loadEventFired") return;
        stop();
        resolve();
      });
    });
    await this.send("Page.navigate", { url });
    await withLimit(Promise.race([loaded, this.ended]), "loading the page");
    await this.run("latentPage.ready");
    await this.run("latentPage.drawn()");
  }

  /** The value of an expression in the page. */
  async run(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) {
      throw new Failure(`the page: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    }
    return result.value;
  }

  resize(width) {
    const screen = { width, height: 900, deviceScaleFactor: 1, mobile: false };
    return this.send("Emulation.setDeviceMetricsOverride", screen);
  }

  async press(key) {
    for (const type of ["keyDown", "keyUp"]) {
      const text = type === "keyDown" && { Enter: "\r", " ": " " }[key];
      const code = { Enter: 13, " ": 32, ArrowRight: 39, ArrowDown: 40, Tab: 9 }[key];
      await this.send("Input.dispatchKeyEvent", { type, key, windowsVirtualKeyCode: code, ...(text ? { text } : {}) });
    }
    await this.run("latentPage.drawn()");
  }

  /** Gives the page's file chooser a file. */
  async choose(path) {
    const { root } = await this.send("DOM.getDocument");
    const { nodeId } = await this.send("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
    await this.send("DOM.setFileInputFiles", { nodeId, files: [path] });
  }

  /** Drags a file onto the page and drops it there. */
  async drop(path) {
    const data = { items: [], files: [path], dragOperationsMask: 1 };
    for (const type of ["dragEnter", "dragOver", "drop"]) {
      await this.send("Input.dispatchDragEvent", { type, x: 50, y: 50, data });
    }
  }
}
