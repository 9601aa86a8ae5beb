"""Record what the commands of this project produce, to show that a change of the code leaves every number as it was.

    python tools/golden_record.py record before.json
    python tools/golden_record.py record after.json --root ../changed
    python tools/golden_record.py diff before.json after.json

`record` runs every command of COMMANDS below on drawn scenes, offline, on the CPU with one thread each, in a temporary
folder, and reads all that they write: weights, maps and pixels by SHA-256, tables cell by cell, reports and printed
text line by line. On two idle cores it takes two to three minutes. The same code gives the same recording on the same
machine, to the bit; two machines may differ in last digits, for which `diff` has --tolerance. A recording is one flat
JSON object, "command/file/what" -> text.

Nothing of the project is imported here. What is renamed later is changed in the tables at the top, and
`diff --rename FILE` (JSON, regular expression -> replacement) gives the keys of the first recording their new names.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

# ---- what is run: paths, options and names of the project. {work} is the folder that everything is written to.

TRAIN, COMPARE, VISUALIZE, STUDY = ["train.py"], ["compare.py"], ["visualize.py"], ["study.py"]
RELEVANCE_IMPORT = "from explain import METHODS, relevance"
CPU = ["--device", "cpu"]
DATA = [
    "--data",
    "scenes",
    "--model",
    "bundled",
    "--train-images",
    "120",
    "--val-images",
    "40",
    *CPU,
    "--cache",
    "{work}/cache",
]
LINEAR, DORA, EXPORTED = "{work}/train-linear", "{work}/train-dora", "{work}/exported/dora.safetensors"
PHOTOS = ["{work}/photos/squares.png", "{work}/photos/stripes.png"]
COMPARED = [LINEAR, DORA, *CPU, "--images", "24", "--rows", "4", "--layers"]

MODELS: dict[str, dict] = {  # whose maps are taken by the Python call: name -> options of timm.create_model
    "class-token": {},
    "mean": {"global_pool": "avg"},
    "pooled-registers": {"global_pool": "map", "class_token": False, "reg_tokens": 2},
}
RELEVANCE_SCRIPT = f"""
import json, os, sys
import numpy as np, timm, torch
{RELEVANCE_IMPORT}

models, _, out = sys.argv[1:]
found, targets = {{}}, torch.tensor([[0, 3, 6], [1, 2, 5], [4, 0, 1]])
images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
for name, options in json.loads(models).items():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, num_classes=7, **options).eval()
    for method in METHODS:
        key = f"{{name}}/{{method}}"
        found[f"{{key}}/maps"] = relevance(model, images, targets, method).numpy()
        for more in ("layers", "gap"):
            try:
                found[f"{{key}}/{{more}}"] = relevance(model, images, targets, method, **{{more: True}})[1].numpy()
            except ValueError:  # not every method has both
                pass
os.makedirs(out)
np.savez(os.path.join(out, "maps.npz"), **found)
"""

# Name -> arguments of Python, which "--out {work}/NAME" is added to.
COMMANDS: dict[str, list[str]] = {
    "train-linear": [*TRAIN, *DATA, "--method", "linear"],
    "train-linear-views": [*TRAIN, *DATA, "--method", "linear", "--augment-views", "2"],
    "train-dora": [*TRAIN, *DATA, "--method", "dora", "--epochs", "2", "--export", EXPORTED],
    "train-dora-late": [*TRAIN, *DATA, "--method", "dora:blocks=4-5", "--epochs", "2", "--augment-views", "2"],
    "train-full": [*TRAIN, *DATA, "--method", "full", "--epochs", "1", "--ema", "0.9", "--clip", "1", "--mixup", "0.2"],
    "compare": [*COMPARE, *COMPARED],
    "compare-shuffled": [*COMPARE, *COMPARED, "--relevance", "lrp_magnitude", "--split", "val_shuffled"],
    "visualize": [
        *VISUALIZE,
        DORA,
        *PHOTOS,
        *CPU,
        "--relevance",
        "lrp_blend",
        "lrp",
        "lrp_magnitude",
        "rollout",
        "random",
        "gradcam",
        "attnlrp",
    ],  # of the three most probable classes
    "visualize-layers": [
        *VISUALIZE,
        DORA,
        *PHOTOS,
        *CPU,
        "--relevance",
        "lrp_magnitude",
        "attnlrp",
        "--targets",
        "pred",
        "--layers",
    ],
    "visualize-exported": [
        *VISUALIZE,
        EXPORTED,
        *PHOTOS,
        *CPU,
        "--relevance",
        "lrp_depth",
        "lrp",
        "--contrast",
        "mean",
        "--normalise",
        "shared",
    ],
    "study": [
        *STUDY,
        *DATA,
        "--cache",
        "{work}/cache-study",
        "--methods",
        "linear",
        "dora",
        "--seeds",
        "2",
        "--epochs",
        "1",
        "--metrics",
        "all",
        "--metric-images",
        "12",
        "--images",
        "24",
        "--relevance",
        "lrp_depth",
        "lrp_magnitude",
    ],
    "relevance": ["-c", RELEVANCE_SCRIPT, json.dumps(MODELS)],
}

# Commands that need no other's result run beside the others, which run one after another.
INDEPENDENT = ("study", "relevance")

# Columns that name a row of a table, as far as it has them; of results.csv, all columns but these.
ROW_NAMES = {
    "metrics.csv": ("epoch", "penalty"),
    "predictions.csv": ("split", "image"),
    "comparison.csv": ("image", "run"),
    "layers.csv": ("run", "target", "block", "head"),
}
TIDY_TABLE, TIDY_VALUES = "results.csv", {"value"}

# ---- what is left out, as it changes with the clock or the packages, or is there twice

SKIPPED_FILES = re.compile(
    r"(cache|cache-study|photos)/.*|.*/timings\.json|.*/(measures|measurements)/.*\.(csv|json)|"
    r".*/adapter/README\.md"
)
SKIPPED_FIELDS = {"versions", "peft_version"}
SKIPPED_LINES = re.compile(r"the loader can give .* images a second;")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
CAP, LONGEST_VALUE, BEFORE_DIFFERENCE = 40, 160, 40  # lines a group, characters of a value, those before a difference
SHA256 = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")

Recording = dict[str, str]
Entries = Iterator[tuple[str, str]]


# ---- record: run the commands


def record(root: Path, work: Path) -> Recording:
    """Run all commands of the project in `root`, writing to `work`; return everything that they produced."""
    draw_photos(work)
    found: Recording = {}
    for name, text in run_all(root, work).items():
        add(found, lines_of(text, f"{name}/printed"))
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        key = path.relative_to(work).as_posix()
        if not SKIPPED_FILES.fullmatch(key):
            add(found, READERS.get(path.suffix, read_bytes)(path, key))
    return {key: value.replace(str(work), "<work>").replace(str(root), "<root>") for key, value in found.items()}


def run_all(root: Path, work: Path) -> dict[str, str]:
    """Run all commands, two at a time; return what each printed."""
    chains = [[name for name in COMMANDS if (name in INDEPENDENT) is alone] for alone in (False, True)]

    def work_off(chain: list[str]) -> list[tuple[str, str]]:
        return [(name, run(name, root, work)) for name in chain]

    with ThreadPoolExecutor(len(chains)) as pool:
        return dict(pair for pairs in pool.map(work_off, chains) for pair in pairs)


def run(name: str, root: Path, work: Path) -> str:
    """Run one command in `root`; return what it printed. Ends the script where the command fails."""
    started = time.monotonic()
    given = [argument.replace("{work}", str(work)) for argument in [*COMMANDS[name], "--out", f"{{work}}/{name}"]]
    done = subprocess.run(
        [sys.executable, *given],
        cwd=root,
        env={**os.environ, **ENVIRONMENT},
        text=True,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        sys.exit(
            f"{name}: exit status {done.returncode} of: python {' '.join(given)}\n{done.stdout[-2000:]}\n"
            f"{done.stderr[-4000:]}"
        )
    print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return done.stdout


def add(found: Recording, entries: Iterable[tuple[str, str]]) -> None:
    """Add entries to a recording; ends the script where two have one key, as one of them would be lost."""
    for key, value in entries:
        if key in found:
            sys.exit(f"two entries have one key: {key}")
        found[key] = value


def draw_photos(work: Path) -> None:
    """Write the images that are explained: coloured blocks from a fixed seed, in two sizes."""
    random = np.random.default_rng(7)
    for file, (rows, columns), (height, width) in zip(PHOTOS, ((8, 8), (3, 12)), ((16, 14), (40, 15))):
        path = Path(file.replace("{work}", str(work)))
        path.parent.mkdir(exist_ok=True)
        blocks = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((height, width, 1), np.uint8))).save(path)


# ---- record: read one kind of file each; (path, key of the file) -> entries


def lines_of(text: str, key: str) -> Entries:
    """Yield the lines of a text that are not empty; under the heading above them, where there are headings."""
    heading = ""
    numbers: dict[str, int] = defaultdict(int)
    for line in text.splitlines():
        if not line.strip() or SKIPPED_LINES.match(line):
            continue
        if line.startswith("#"):
            heading = f"{line.strip('# ')}/"
        yield f"{key}/{heading}{numbers[heading]:03d}", line
        numbers[heading] += 1


def read_markdown(path: Path, key: str) -> Entries:
    """Yield the lines of a report."""
    return lines_of(path.read_text(encoding="utf-8"), key)


def read_json(path: Path, key: str) -> Entries:
    """Yield the leaves of a JSON file."""
    return leaves(json.loads(path.read_text(encoding="utf-8")), key)


def leaves(value: object, key: str) -> Entries:
    """Yield every text, number, truth value and null of a JSON value; numbers as JSON writes them, with all digits."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield key, value if isinstance(value, str) else json.dumps(value)
        return
    for name, inner in items:
        if name not in SKIPPED_FIELDS:
            yield from leaves(inner, f"{key}/{name}")


def read_table(path: Path, key: str) -> Entries:
    """Yield the cells of a CSV file; of a tidy table, each row's value. Rows of one name are numbered."""
    tidy = path.name == TIDY_TABLE
    seen: dict[str, int] = defaultdict(int)
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            names = row.keys() - TIDY_VALUES if tidy else ROW_NAMES.get(path.name, ())
            title = ",".join(cell for name, cell in row.items() if name in names) or str(number)
            seen[title] += 1
            title += f"#{seen[title]}" if seen[title] > 1 else ""
            for name, cell in row.items():
                if name not in names:
                    yield f"{key}/{title}" + ("" if tidy else f"/{name}"), cell


def read_picture(path: Path, key: str) -> Entries:
    """Yield the decoded pixels of a picture, as a hash and in short."""
    with Image.open(path) as picture:
        yield f"{key}/size", f"{picture.mode} {picture.width} x {picture.height}"
        pixels = np.asarray(picture)
    yield f"{key}/pixels", digest(pixels)
    yield f"{key}/mean", repr(float(pixels.mean()))


def read_arrays(path: Path, key: str) -> Entries:
    """Yield the arrays of a .npz file, in short."""
    with np.load(path) as arrays:
        for name in arrays.files:
            yield from in_short(arrays[name], f"{key}/{name}")


def read_tensors(path: Path, key: str) -> Entries:
    """Yield the tensors of a safetensors file, in short, and its metadata."""
    with safe_open(path, framework="numpy") as file:
        for name, value in (file.metadata() or {}).items():
            yield f"{key}/metadata/{name}", value
        for name in file.keys():
            yield from in_short(file.get_tensor(name), f"{key}/{name}")


def read_bytes(path: Path, key: str) -> Entries:
    """Yield the hash of any other file."""
    yield f"{key}/bytes", hashlib.sha256(path.read_bytes()).hexdigest()


def in_short(array: np.ndarray, key: str) -> Entries:
    """Yield an array's type, hash and, of its finite numbers, sum, least and greatest."""
    yield f"{key}/type", f"{array.dtype} {array.shape}"
    yield f"{key}/sha256", digest(array)
    if array.dtype.kind in "fiub":
        finite = array[np.isfinite(array)].astype(np.float64)
        yield f"{key}/sum", repr(float(finite.sum()))
        if finite.size:
            yield f"{key}/min", repr(float(finite.min()))
            yield f"{key}/max", repr(float(finite.max()))


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's numbers."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


READERS: dict[str, Callable[[Path, str], Entries]] = {
    ".md": read_markdown,
    ".json": read_json,
    ".csv": read_table,
    ".png": read_picture,
    ".npz": read_arrays,
    ".safetensors": read_tensors,
}


# ---- diff


def diff(before: Recording, after: Recording, tolerance: float) -> int:
    """Print all that differs between two recordings, group by group; return how many entries differ."""
    groups: dict[str, list[str]] = defaultdict(list)
    sizes, hashes = Counter(map(group_of, before.keys() | after.keys())), 0
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if tolerance and old and new and old != new and SHA256.fullmatch(old) and SHA256.fullmatch(new):
            hashes += 1
        elif difference := describe(key, old, new, tolerance):
            groups[group_of(key)].append(difference)
    for group, lines in groups.items():
        print(f"{group}: {len(lines)} of {sizes[group]} entries", *lines[:CAP], sep="\n  ")
        if len(lines) > CAP:
            print(f"  ... and {len(lines) - CAP} more")
    if hashes:
        print(f"{hashes} hashes differ and are left out, as none is near another; the sums beside them are compared")
    count = sum(map(len, groups.values()))
    print(f"{count} of {sizes.total()} entries differ" + (f" by more than {tolerance:g}" if tolerance else ""))
    return count


def describe(key: str, old: str | None, new: str | None, tolerance: float) -> str:
    """Return a line about one entry that differs, or nothing."""
    if old is None or new is None:
        return f"new        {key}: {short(new)}" if new is not None else f"missing    {key}: {short(old or '')}"
    if same(old, new, tolerance):
        return ""
    start = max(0, len(os.path.commonprefix([old, new])) - BEFORE_DIFFERENCE)
    return f"different  {key}: {short(old, start)} -> {short(new, start)}"


def same(old: str, new: str, tolerance: float) -> bool:
    """Tell whether two texts are the same, but for numbers in them that differ by no more than the tolerance.

    It is absolute for numbers up to 1 and relative beyond; 0 takes the same text.
    """
    if old == new or not tolerance:
        return old == new
    pairs = [(float(a), float(b)) for a, b in zip(NUMBER.findall(old), NUMBER.findall(new))]
    return NUMBER.split(old) == NUMBER.split(new) and all(
        abs(a - b) <= tolerance * max(1, abs(a), abs(b)) for a, b in pairs
    )


def group_of(key: str) -> str:
    """Return the command and the file, or its folder, that an entry belongs to."""
    return "/".join(key.split("/")[:2])


def short(value: str, start: int = 0) -> str:
    """Return a value, or a part of it from `start` where it is long."""
    if len(value) <= LONGEST_VALUE:
        return value
    end = start + LONGEST_VALUE
    return "..." * (start > 0) + value[start:end] + "..." * (end < len(value))


def renamed(recording: Recording, rules: dict[str, str]) -> Recording:
    """Return a recording with each rule, regular expression -> replacement, applied to its keys in turn."""
    found: Recording = {}
    for key, value in recording.items():
        for pattern, replacement in rules.items():
            key = re.sub(pattern, replacement, key)
        if key in found:
            sys.exit(f"--rename gives two entries one name: {key}")
        found[key] = value
    return found


# ---- the command line


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run the commands and write what they produced")
    one.add_argument("out", type=Path, metavar="OUT.json")
    one.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        metavar="DIR",
        help="the project's folder (default: the one that this script lies in)",
    )
    one.add_argument(
        "--keep", type=Path, metavar="DIR", help="write to this new folder and keep it (default: a temporary one)"
    )
    two = commands.add_parser("diff", help="print what differs between two recordings; exit status 1 if anything does")
    two.add_argument("before", type=Path, metavar="BEFORE.json")
    two.add_argument("after", type=Path, metavar="AFTER.json")
    two.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="largest difference of numbers, absolute up to 1 and relative beyond; hashes are left out "
        "(default: 0, equal to the bit)",
    )
    two.add_argument(
        "--rename",
        type=Path,
        metavar="FILE",
        help="JSON, regular expression -> replacement, applied in turn to the keys of BEFORE",
    )
    return parser


def main() -> None:
    """Record, or compare two recordings."""
    args = build_parser().parse_args()
    if args.command == "record":
        args.out.parent.mkdir(parents=True, exist_ok=True)  # before it takes minutes
        with tempfile.TemporaryDirectory(prefix="golden-") as temporary:
            if args.keep:
                args.keep.mkdir(parents=True)
            found = record(args.root.resolve(), Path(args.keep or temporary).resolve())
        args.out.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{args.out}: {len(found)} entries")
        return
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (args.before, args.after))
    rules = json.loads(args.rename.read_text(encoding="utf-8")) if args.rename else {}
    sys.exit(1 if diff(renamed(before, rules), after, args.tolerance) else 0)


if __name__ == "__main__":
    main()
