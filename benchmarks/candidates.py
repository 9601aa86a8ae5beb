"""Select a relevance method from candidates by faithfulness on photos, and confirm it on held-out photos.

    python benchmarks/candidates.py RUN --out docs/results/candidates.md    # hours on one thread; continues
    python benchmarks/candidates.py RUN --of-each-half 10 --held-out 0 --candidates lrp_magnitude lrp_depth

The photos of --images are split into halves: candidates are selected on the first and evaluated on the second. The
method that was adopted is confirmed on photos of neither half. The baseline is the sum of three methods' maps, each map
divided by its sum of magnitudes. Each part of a sum records a forward pass of its own, and costs are measured so.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

import numpy as np
import torch
from candidate_methods import (
    BASELINE,
    BLEND,
    CANDIDATES,
    CONTRAST,
    DEPTH,
    LIBRAGRAD,
    REFERENCE,
    STRONG_BASELINE,
    method,
)
from per_photo import Values, cached, code_hash, difference, with_interval
from photos import BATCH, Photos, add_photos, described, load_photos, passes, provenance

from cli.command import run
from cli.parser import make_parser, natural, positive
from common.errors import UsageError
from common.tables import markdown_table, number, write_text
from evaluation.statistics.paired import paired

EVALUATED = 3  # the best so many on the first half, beside these:
ALSO_EVALUATED = (DEPTH, CONTRAST, BLEND, LIBRAGRAD, f"{LIBRAGRAD} (softmax)")
# What the adopted method is compared with on held-out photos: the baselines, the best others, and its own parts.
COMPARED = (
    STRONG_BASELINE,
    BASELINE,
    "AttnLRP over depth (softmax)",
    f"{LIBRAGRAD} (softmax)",
    CONTRAST,
    DEPTH,
    "AttnLRP",
    REFERENCE,
)
Found = dict[str, np.ndarray]  # candidate -> SRG per photo
Costs = dict[str, float]  # candidate -> forward passes per map


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(
        __doc__, "python benchmarks/candidates.py results/sports/linear-seed0 --out docs/results/candidates.md"
    )
    add_photos(parser)
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--candidates",
        nargs="+",
        choices=list(CANDIDATES),
        metavar="NAME",
        help=f"measure only these, on both halves (default: all, and on the second half the best {EVALUATED} and "
        f"{', '.join(ALSO_EVALUATED)})",
    )
    group.add_argument(
        "--against",
        nargs="+",
        default=[REFERENCE, BASELINE],
        choices=list(CANDIDATES),
        metavar="NAME",
        help="candidates that the others are compared with",
    )
    group.add_argument("--of-each-half", type=positive, metavar="N", help="photos of each half (default: all)")
    group.add_argument(
        "--held-out",
        type=natural,
        metavar="N",
        help=f"photos beyond --images on which {BLEND} is confirmed (default: all that remain)",
    )
    group.add_argument("--rounds", type=positive, default=5, metavar="N", help="measurements behind the median cost")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("results/candidates"),
        metavar="DIR",
        help="folder of values per photo, from which an interrupted run continues (default: %(default)s)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure the candidates; print and write the tables."""
    torch.set_num_threads(1)
    photos = load_photos(args)
    held_out = None if args.held_out == 0 else load_photos(args, args.held_out or sys.maxsize)
    names = list(dict.fromkeys([*(args.candidates or CANDIDATES), *args.against]))
    first, second = halves(photos, args.of_each_half)
    confirmed = [BLEND, *(COMPARED if args.candidates is None else names)] if held_out else []
    costs = {"lrp": passes(photos, method("lrp"), args.rounds)}
    for name in dict.fromkeys([*names, *confirmed]):
        costs[name] = passes(photos, CANDIDATES[name], args.rounds)
    selection = {name: measure(photos, first, name, args.cache) for name in names}
    order = sorted(names, key=lambda name: -selection[name].mean())
    best = order if args.candidates else [*order[:EVALUATED], *ALSO_EVALUATED]
    evaluation = {name: measure(photos, second, name, args.cache) for name in dict.fromkeys([*best, *args.against])}
    confirmation = {name: measure(held_out, slice(None), name, args.cache) for name in confirmed} if held_out else {}
    text = document(args, photos, selection, evaluation, confirmation, costs)
    print(text)
    if args.out:
        write_text(args.out, text)


def halves(photos: Photos, of_each: int | None) -> tuple[slice, slice]:
    """Return the photos for selection and those for evaluation; raises UsageError for a single photo."""
    if not photos.half:
        raise UsageError("--images 1 has no two halves; give 2 or more")
    count = min(of_each or photos.half, photos.half)
    return slice(0, count), slice(photos.half, photos.half + count if of_each else None)


def measure(photos: Photos, which: slice, name: str, cache: Path) -> np.ndarray:
    """Return the SRG of a candidate's maps of the predicted class, (n,) for the n photos in `which`."""
    images, targets = photos.images[which], photos.targets[which, :1]

    def srg() -> Values:
        batches = zip(images.split(BATCH), targets.split(BATCH))
        maps = torch.cat([CANDIDATES[name](photos.run.model, x, t) for x, t in batches])
        return {"srg": photos.srg(maps, which).tolist()}

    code = ("explain/*.py", "evaluation/metrics/*.py", "benchmarks/candidate_methods.py", "benchmarks/libragrad.py")
    about = photos.identity | {"candidate": name, "photos": [which.start, which.stop], "code": code_hash(*code)}
    file = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    found = np.array(cached(cache / f"{file}.json", about, srg)["srg"])
    print(f"{name}: {with_interval(found)}", flush=True)
    return found


# ---- the document


def table(found: Found, references: list[str], costs: Costs) -> str:
    """Return a table of the candidates, the most faithful first, with their differences to some of them."""
    rows = [
        {
            "candidate": name,
            "passes": number(costs[name], 1),
            "SRG": with_interval(found[name]),
            **{f"minus {one}": "" if name == one else difference(found[name], found[one]) for one in references},
        }
        for name in by_mean(found)
    ]
    return markdown_table(rows)


def by_mean(found: Found) -> list[str]:
    """Return the candidates, the highest mean first."""
    return sorted(found, key=lambda name: -found[name].mean())


def conclusions(found: Found, references: list[str], costs: Costs) -> str:
    """Say which candidates are more or less faithful than a reference, where the paired interval excludes 0."""
    lines = []
    for one in references:
        results = {name: paired(found[name], found[one]) for name in found if name != one}
        more = [name for name, result in results.items() if result.low > 0]
        less = [name for name, result in results.items() if result.high < 0]
        cheap = [name for name in more if costs[name] <= costs["lrp"]]
        text = {name: f"{name}, {difference(found[name], found[one])}, {in_passes(costs[name])}" for name in results}
        for words, names in (
            (f"More faithful than {one} ({in_passes(costs[one])})", [text[name] for name in more]),
            (f"Of these, at no more than the cost of `lrp` ({in_passes(costs['lrp'])})", cheap),
            (f"Less faithful than {one}", [text[name] for name in less]),
        ):
            lines.append(f"- {words}: {'; '.join(names) or 'none'}.")
    return "\n".join(lines)


def confirmation_section(found: Found, costs: Costs) -> str:
    """Return the section that compares the adopted method with others on held-out photos; "" without photos."""
    if not found:
        return ""
    rows = [
        {
            "candidate": name,
            "passes": number(costs[name], 1),
            "SRG": with_interval(found[name]),
            f"{BLEND} minus this": "" if name == BLEND else difference(found[BLEND], found[name]),
        }
        for name in by_mean(found)
    ]
    results = {name: paired(found[BLEND], found[name]) for name in found if name != BLEND}
    verdicts = {
        "more faithful than": [name for name, one in results.items() if one.low > 0],
        "not distinguishable from": [name for name, one in results.items() if one.low <= 0 <= one.high],
        "less faithful than": [name for name, one in results.items() if one.high < 0],
    }
    lines = "\n".join(
        f"- {words}: {'; '.join(f'{name} ({in_passes(costs[name])})' for name in names) or 'none'}."
        for words, names in verdicts.items()
    )
    return f"""
## Confirmation on {len(found[BLEND])} held-out photos

`{BLEND}` was designed after both halves had been looked at; these photos belong to neither.

{markdown_table(rows)}
On these photos, `{BLEND}` ({in_passes(costs[BLEND])}) is

{lines}
"""


def in_passes(cost: float) -> str:
    """Format a cost."""
    return f"{number(cost, 1)} passes"


def document(
    args: argparse.Namespace, photos: Photos, selection: Found, evaluation: Found, confirmation: Found, costs: Costs
) -> str:
    """Return the tables with what they say and how they were made."""
    first, second = (len(next(iter(found.values()))) for found in (selection, evaluation))
    return f"""# Selection of this project's relevance methods

SRG of the predicted class (faithfulness, see methods.md), {described(photos.run)}; means and paired
differences with 95 % BCa intervals over photos. A name says in brackets what is explained (default: the logit) and by which
rule of linear layers (default: epsilon): `{DEPTH}` is CP-LRP over depth (gamma), `{CONTRAST}` the same
(gamma, softmax), `{BLEND}` the mean of that and of AttnLRP over depth (softmax). Maps are divided by their sum of magnitudes
before they are added; the baseline is the sum {BASELINE}.
*passes*: cost of a map in forward passes at K = 2 (one thread, B = {BATCH}, the median of {args.rounds} rounds), measured in
the same run. Each part of a sum records a forward pass of its own, which an implementation of the sum would share. Written by

    python benchmarks/candidates.py {command_of(args)}

{provenance(photos)}

## Selection on {first} photos

{table(selection, args.against[:1], costs)}
## Evaluation on {second} other photos

{table(evaluation, args.against, costs)}
## Conclusions

Where the paired interval on the {second} other photos excludes 0:

{conclusions(evaluation, args.against, costs)}
{confirmation_section(confirmation, costs)}""" + ("" if args.candidates else decision(evaluation, costs))


def decision(found: Found, costs: Costs) -> str:
    """Say which methods became defaults, and why."""
    return f"""
## Defaults

`{BLEND}`, `{CONTRAST}` and `{DEPTH}` are selectable by name. The rule fixed beforehand: the best becomes the default if the
interval of its difference to `{REFERENCE}` excludes 0 and its change under input noise (median in methods.md) is below 1 %. So
`{BLEND}` ({difference(found[BLEND], found[REFERENCE])}) is the default of `explain.relevance` and of visualize.py. The default of compare.py and study.py is
`{DEPTH}` ({difference(found[DEPTH], found[REFERENCE])}): `{BLEND}` and `{CONTRAST}` explain a contrast, and where a model is confident,
the strongest competitor of every other class is the predicted class, so that the map of another class is nearly the negative of
the predicted class's map (similarity between classes in methods.md: clearly negative, and about 0 for `{DEPTH}`). These two
commands compare the evidence for several classes, for which such maps are unsuitable.

The nearest published method is {LIBRAGRAD} (Mehri et al., CVPR 2025), which also sums over blocks, adds the contributions
of all biases, and uses no gamma. Its SRG minus that of `{DEPTH}` is {difference(found[LIBRAGRAD], found[DEPTH])},
at {in_passes(costs[LIBRAGRAD])} and {number(costs[DEPTH], 1)}; its SRG for the softmax contrast minus that of `{CONTRAST}` is
{difference(found[f"{LIBRAGRAD} (softmax)"], found[CONTRAST])}.
"""


def command_of(args: argparse.Namespace) -> str:
    """Return the arguments that write the document."""
    default, given = vars(build_parser().parse_args(["RUN"])), ["RUN"]
    for name in ("images", "data_seed", "candidates", "against", "of_each_half", "held_out", "rounds"):
        value = getattr(args, name)
        if value != default[name]:
            words = value if isinstance(value, list) else [str(value)]
            quoted = [f'"{word}"' if " " in word else word for word in words]
            given.append(" ".join([f"--{name.replace('_', '-')}", *quoted]))
    return " ".join([*given, "--out FILE"])


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="the same command continues after the last measured candidate"))
