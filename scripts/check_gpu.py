"""The parts of check_gpu.sh that need Python. Only `others` and `peer` need more than its standard library.

    check_gpu.py z FILE.npy              64 rows of noise
    check_gpu.py others WORK DEVICE      runs the exports in PyTorch and onnxruntime
    check_gpu.py peer --device D ...     times PyTorch's iteration
    check_gpu.py table WORK ...          what the steps found; exit status 1 if something is not right
"""

import argparse
import json
import random
import re
import statistics
import struct
import sys
import time
from array import array
from pathlib import Path

Z_DIM = 100
# How far pixels, -1 to 1, may be from those of float64: float32 is 1e-5 away, TensorFloat-32 would be 1e-3.
IMAGES = 5e-5


def write_z(path):
    random.seed(0)
    values = array("f", (random.uniform(-1, 1) for _ in range(64 * Z_DIM)))
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (64, %d), }" % Z_DIM
    header = header.ljust(117) + "\n"
    Path(path).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + values.tobytes())


def read_npy(path):
    data = path.read_bytes()
    return array("f", data[10 + struct.unpack("<H", data[8:10])[0] :])


def largest_difference(a, b):
    return max(abs(x - y) for x, y in zip(a, b)) if len(a) == len(b) else float("nan")


# ---- other programs ---------------------------------------------------------------------------------------


def others(work, device):
    ours = read_npy(work / "cpu.npy")
    z = array("f", (work / "z.npy").read_bytes()[128:])
    try:
        import torch

        torch.backends.cudnn.allow_tf32 = False
        for place in dict.fromkeys(["cpu", device]):
            if place != "cpu" and not torch.cuda.is_available():
                say(what=f"TorchScript export on {place}", skipped="this Python's torch finds no GPU")
                continue
            images = torch.jit.load(str(work / "g.pt"), map_location=place)(torch.tensor(z, device=place).view(64, Z_DIM))
            say(what=f"TorchScript export on {place}", error=largest_difference(images.detach().cpu().flatten().tolist(), ours))
    except ImportError:
        say(what="TorchScript export", skipped="no torch in this Python")
    try:
        import numpy
        import onnxruntime

        session = onnxruntime.InferenceSession(str(work / "g.onnx"), providers=["CPUExecutionProvider"])
        (images,) = session.run(None, {session.get_inputs()[0].name: numpy.array(z).reshape(64, Z_DIM)})
        say(what="ONNX export", error=largest_difference(images.ravel().tolist(), ours))
    except ImportError:
        say(what="ONNX export", skipped="no onnxruntime and numpy in this Python")


def say(**line):
    print(json.dumps(line), flush=True)


def peer(args):
    """The usual PyTorch port of the reference: a discriminator step and two generator steps on one z, Adam as it comes.
    `graph` has what a graph needs and what makes it faster, too: fused Adam, and the discriminator's weights without
    gradients in the generator's steps."""
    try:
        import torch
    except ImportError:
        say(skipped="no torch in this Python")
        return
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    device, w = torch.device(args.device), args.width
    is_cuda = device.type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        say(skipped="this Python's torch finds no GPU")
        return
    if is_cuda:
        torch.cuda.set_device(device.index or 0)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(Z_DIM, 4 * 4 * 8 * w)
            widths = (8 * w, 4 * w, 2 * w, 1)
            layers = []
            for i, o in zip(widths, widths[1:]):
                layers += [nn.BatchNorm2d(i), nn.ReLU(inplace=True), nn.ConvTranspose2d(i, o, 5, 2, 2, 1)]
            self.up = nn.Sequential(*layers, nn.Tanh())

        def forward(self, z):
            return self.up(self.dense(z).view(-1, 8 * w, 4, 4))

    def discriminator():
        layers = [nn.Conv2d(1, w, 5, 2, 2), nn.LeakyReLU(0.2, inplace=True)]
        for i in (w, 2 * w):
            layers += [nn.Conv2d(i, 2 * i, 5, 2, 2), nn.BatchNorm2d(2 * i), nn.LeakyReLU(0.2, inplace=True)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 4 * 4 * w, 1))

    def measure(mode, precision, order):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
        is_graph = mode == "graph"
        torch.backends.cudnn.benchmark = is_graph
        g, d = (network.to(device, memory_format=order) for network in (Generator(), discriminator()))
        adam = dict(lr=2e-4, betas=(0.5, 0.999), **(dict(fused=True, capturable=True) if is_graph else {}))
        g_adam, d_adam = torch.optim.Adam(g.parameters(), **adam), torch.optim.Adam(d.parameters(), **adam)
        images = torch.randint(0, 256, (args.batch, 1, 32, 32), dtype=torch.uint8, device=device)
        autocast = lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
        loss_of = lambda logits, label: bce(logits, torch.full_like(logits, label))

        def iterate():
            real = (images.float() / 127.5 - 1).contiguous(memory_format=order)
            z = torch.empty(args.batch, Z_DIM, device=device).uniform_(-1, 1)
            with autocast():
                d_loss = loss_of(d(real), 0.9) + loss_of(d(g(z).detach()), 0.0)
            d_adam.zero_grad(set_to_none=True)
            d_loss.backward()
            d_adam.step()
            d.requires_grad_(not is_graph)
            for _ in range(2):
                with autocast():
                    g_loss = loss_of(d(g(z)), 1.0)
                g_adam.zero_grad(set_to_none=True)
                g_loss.backward()
                g_adam.step()
            d.requires_grad_(True)

        run, wait = iterate, torch.cuda.synchronize if is_cuda else lambda: None
        if is_graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(4):
                    iterate()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                iterate()
            run = graph.replay
        for _ in range(5):
            run()
        wait()
        count = 5 if args.quick else 100
        begin = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        return (time.perf_counter() - begin) * 1e3 / count

    for mode in ["eager"] + ["graph"] * is_cuda:
        for precision in ("f32", "tf32", "bf16") if is_cuda else ("f32", "bf16"):
            try:
                orders = (torch.contiguous_format, torch.channels_last)
                say(mode=mode, precision=precision, ms=min(measure(mode, precision, order) for order in orders))
            except Exception as error:  # another one may work
                say(mode=mode, precision=precision, error=f"{type(error).__name__}: {error}"[:200])


# ---- the table --------------------------------------------------------------------------------------------


def lines_of(path):
    """The JSON lines of a file, whatever else it holds."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def weights(path):
    """The values of each weight in a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, of in json.loads(data[8:end]).items():
        if name.endswith(".weight"):
            begin, stop = of["data_offsets"]
            found[name] = array({"F32": "f", "F64": "d"}[of["dtype"]], data[end + begin : end + stop])
    return found


def away(ours, theirs):
    """The largest relative distance of a weight, as a whole."""
    norm = lambda values: sum(value * value for value in values) ** 0.5
    return max(norm([a - b for a, b in zip(ours[name], theirs[name])]) / norm(theirs[name]) for name in theirs)


class Table:
    def __init__(self, work):
        self.work, self.is_right, self.results = work, True, []
        steps = (line.split("\t") for line in (work / "steps.tsv").read_text().splitlines())
        self.steps = {name: (int(status), float(seconds)) for name, status, seconds in steps}

    def row(self, what, found, expected="", is_right=None):
        verdict = {None: "", True: "ok", False: "WRONG"}[is_right]
        self.is_right &= is_right is not False
        self.results.append({"what": what, "found": found, "expected": expected, "right": is_right})
        shown = f"{found:.2g}" if isinstance(found, float) else found
        print(f"  {what:<44} {shown:<26} {expected:<16} {verdict}".rstrip())

    def bounded(self, what, find, bound):
        """A row for an error that is to stay below a bound; what cannot be found is wrong."""
        try:
            error = find()
            self.row(what, float(error), f"below {bound:.0e}", error < bound)
        except (OSError, IndexError, KeyError, ValueError) as problem:
            self.row(what, f"not found ({type(problem).__name__})", f"below {bound:.0e}", False)

    def metrics(self, run):
        return [line for line in lines_of(self.work / run / "metrics.jsonl") if "d_loss" in line]

    def right(self):
        print("is it right?")
        failed = [name for name, (status, _) in self.steps.items() if status != 0]
        self.row("steps that failed", ", ".join(failed) or "none", "none", not failed)
        log = (self.work / "logs/verify.log").read_text(errors="replace")
        total = re.findall(r"^(\d+) of (\d+) files agree", log, re.M) or [("0", "?")]
        self.row("reference files that agree", "%s of %s" % total[-1], "all", total[-1][0] == total[-1][1])
        for name, bound in (("f64", 1e-9), ("f32", 2e-6), ("tf32", 1e-3), ("bf16", 1e-2)):
            cpu = "losses-cpu-" + ("f64" if name == "f64" else "f32")

            def differences(key):
                pairs = zip(self.metrics(f"losses-{name}"), self.metrics(cpu))
                return [abs(a[key] - b[key]) / abs(b[key]) for a, b in pairs]

            # Only the discriminator's first loss is computed before a step has been taken. Adam's first steps are nearly
            # the sign of the gradient, and where that is rounding alone, results part: on two CPUs, too.
            first = lambda: differences("d_loss")[0]
            self.bounded(f"the first loss in {name}, from the CPU's", first, bound)
            self.row("  of all iterations, the most", max(differences("d_loss"), default=float("nan")))
        for name in ("f64", "f32"):
            read = lambda run: weights(self.work / f"{run}-{name}" / "generator.safetensors")
            # These are deterministic runs, so there is no difference at all.
            self.bounded(f"a run resumed half-way in {name}, weights", lambda: away(read("half"), read("whole")), 1e-30)
            self.bounded("  the same run again", lambda: away(read("again"), read("whole")), 1e-30)
        find = lambda: largest_difference(read_npy(self.work / "device.npy"), read_npy(self.work / "cpu.npy"))
        self.bounded("samples, from the CPU's in f64", find, IMAGES)
        for line in lines_of(self.work / "logs/others.log"):
            if "error" in line:
                self.bounded(line["what"] + ", from these", lambda: line["error"], IMAGES)
            else:
                self.row(line["what"], "not checked: " + line["skipped"])

    def fast(self, batch, images):
        print("how fast? milliseconds an iteration of %d images" % batch)
        peers = lines_of(self.work / "logs/peer.log")
        for line in peers:
            if "skipped" in line or "error" in line:
                name = " ".join(line.get(key, "") for key in ("mode", "precision")).strip()
                print(f"  PyTorch {name}: {line.get('skipped') or line.get('error')}")
        print(f"  {'':<6}{'dcgan':>10}{'images/s':>12}{'eager':>10}{'graph':>10}{'dcgan/eager':>14}{'dcgan/graph':>14}")
        for name in ("f32", "tf32", "bf16"):
            found = self.metrics(f"speed-{name}")
            # The first lines hold what starts once.
            rates = [line["images_per_s"] for line in found[len(found) // 2 :]]
            if not rates:
                continue
            rate = statistics.median(rates)
            ms = batch / rate * 1e3
            ours = {line["mode"]: line["ms"] for line in peers if line.get("precision") == name and "ms" in line}
            cell = lambda value: f"{value:.3f}" if value else "-"
            ratios = [ms / ours[mode] if mode in ours else None for mode in ("eager", "graph")]
            cells = f"{cell(ours.get('eager')):>10}{cell(ours.get('graph')):>10}{cell(ratios[0]):>14}{cell(ratios[1]):>14}"
            print(f"  {name:<6}{ms:>10.3f}{rate:>12.0f}{cells}")
            self.results.append({"precision": name, "ms": ms, "images_per_s": rate, "peer_ms": ours})
        status, seconds = self.steps["speed-sample"]
        if status == 0:
            print(f"  dcgan sample: {images} images in {seconds:.0f} s, start and file included")


def main():
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "z":
        write_z(rest[0])
    elif command == "others":
        others(Path(rest[0]), rest[1])
    elif command == "peer":
        parser = argparse.ArgumentParser()
        parser.add_argument("--device", required=True)
        parser.add_argument("--width", type=int, required=True)
        parser.add_argument("--batch", type=int, required=True)
        parser.add_argument("--quick", action="store_true")
        peer(parser.parse_args(rest))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("work", type=Path)
        parser.add_argument("--device", required=True)
        parser.add_argument("--batch", type=int, required=True)
        parser.add_argument("--images", type=int, required=True)
        args = parser.parse_args(rest)
        table = Table(args.work)
        print("dcgan on " + args.device)
        for line in (args.work / "logs/doctor.log").read_text().splitlines():
            if re.match(r"(dcgan|libtorch|CPU|CUDA|  (driver|devices|graphs|cuDNN)) ", line):
                print("  " + line)
        table.right()
        table.fast(args.batch, args.images)
        (args.work / "results.json").write_text(json.dumps(table.results, indent=1) + "\n")
        sys.exit(not table.is_right)


if __name__ == "__main__":
    main()
