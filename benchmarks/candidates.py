"""What was tried for a method of our own: candidates chosen on one half of the photos, reported on the other, and the
one that was made a method confirmed on photos that are in neither.

    python benchmarks/candidates.py RUN --out docs/results/candidates.md          hours on one thread; continues where it
    stopped python benchmarks/candidates.py RUN --of-each-half 10 --fresh 0 --candidates lrp_magnitude lrp_depth

All are made of parts that could come from one recorded forward pass; here each part of a sum records its own, and its
cost is measured so. A sum of maps is of maps that were each divided by their sum of magnitudes. The bar is the sum of
three methods; the best few and the bar are measured on the half that chose nothing.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from candidate_methods import BAR, BLEND, CANDIDATES, CONTRAST, DEPTH, LIBRAGRAD, REFERENCE, STRONGEST, method

# Both lie beside this file; they find the project's folders.
from methods import BATCH, Photos, add_photos, code, described, difference, kept, passes, provenance, with_interval

from cli.command import run
from cli.parser import make_parser, natural, positive
from common.errors import UsageError
from common.tables import markdown_table, number, write_text
from evaluation.statistics.paired import paired

REPORTED = 3  # of the best, beside these:
ALSO_REPORTED = (DEPTH, CONTRAST, BLEND, LIBRAGRAD, f"{LIBRAGRAD} (softmax)")
# What the method of our own is compared with on fresh photos: the bar, what came near, and the methods that it is
# made of.
RIVALS = (
    STRONGEST,
    BAR,
    "AttnLRP over depth (softmax)",
    f"{LIBRAGRAD} (softmax)",
    CONTRAST,
    DEPTH,
    "AttnLRP",
    REFERENCE,
)


def build_parser() -> argparse.ArgumentParser:
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
        help=f"measure these alone, all of them on both halves (default: all, and on the second half the "
        f"best {REPORTED}, {', '.join(ALSO_REPORTED)})",
    )
    group.add_argument(
        "--against",
        nargs="+",
        default=[REFERENCE, BAR],
        choices=list(CANDIDATES),
        metavar="NAME",
        help="what they are compared with",
    )
    group.add_argument("--of-each-half", type=positive, metavar="N", help="photos (default: all of them)")
    group.add_argument(
        "--fresh",
        type=natural,
        metavar="N",
        help=f"photos beyond --images on which {BLEND} is confirmed (default: all that are left)",
    )
    group.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="timings whose median is the cost"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown tables")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("results/candidates"),
        metavar="DIR",
        help="figures photo by photo, from which an interrupted run continues (default: %(default)s)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    photos, others = Photos(args), None if args.fresh == 0 else Photos(args, args.fresh or sys.maxsize)
    names = list(dict.fromkeys([*(args.candidates or CANDIDATES), *args.against]))
    chosen_on, reported_on = halves(photos, args.of_each_half)
    names_fresh = [BLEND, *(RIVALS if args.candidates is None else names)] if others else []
    costs = {
        name: passes(photos, candidate, args.rounds)
        for name, candidate in [
            ("lrp", method("lrp")),
            *((name, CANDIDATES[name]) for name in dict.fromkeys([*names, *names_fresh])),
        ]
    }
    choosing = {name: measured(photos, chosen_on, name, args.keep) for name in names}
    order = sorted(names, key=lambda name: -choosing[name].mean())
    best = order if args.candidates else [*order[:REPORTED], *ALSO_REPORTED]
    reporting = {name: measured(photos, reported_on, name, args.keep) for name in dict.fromkeys([*best, *args.against])}
    fresh = {name: measured(others, slice(None), name, args.keep) for name in names_fresh}
    text = document(args, photos, choosing, reporting, fresh, costs)
    print(text)
    if args.out:
        write_text(args.out, text)


def halves(photos: Photos, of_each: int | None) -> tuple[slice, slice]:
    """Return which photos choose and which report."""
    if not photos.half:
        raise UsageError("--images 1 has no two halves; give 2 or more")
    count = min(of_each or photos.half, photos.half)
    return slice(0, count), slice(photos.half, photos.half + count if of_each else None)


def measured(photos: Photos, which: slice, name: str, keep: Path) -> np.ndarray:
    """SRG of a candidate's maps of some photos for the predicted class, (n,)."""
    images, targets = photos.images[which], photos.targets[which, :1]

    def srg() -> dict[str, list[float]]:
        batches = zip(images.split(BATCH), targets.split(BATCH))
        maps = torch.cat([CANDIDATES[name](photos.run.model, x, t) for x, t in batches])
        return {"srg": photos.srg(maps, which).tolist()}

    about = photos.identity | {
        "candidate": name,
        "photos": [which.start, which.stop],
        "code": code("explain/*.py", "benchmarks/tried.py", "benchmarks/libragrad.py"),
    }
    file = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    found = np.array(kept(keep / f"{file}.json", about, srg)["srg"])
    print(f"{name}: {with_interval(found)}", flush=True)
    return found


# ---- the document


def table(found: dict[str, np.ndarray], others: list[str], costs: dict[str, float]) -> str:
    """The candidates, most faithful first."""
    rows = [
        {
            "candidate": name,
            "passes": number(costs[name], 1),
            "SRG": with_interval(found[name]),
            **{f"less {other}": "" if name == other else difference(found[name], found[other]) for other in others},
        }
        for name in sorted(found, key=lambda name: -found[name].mean())
    ]
    return markdown_table(rows)


def conclusions(found: dict[str, np.ndarray], others: list[str], costs: dict[str, float]) -> str:
    """Say what was more and what less faithful than others, where the paired interval excludes 0, and at what cost."""
    lines = []
    for other in others:
        results = {name: paired(found[name], found[other]) for name in found if name != other}
        more = [name for name, one in results.items() if one.low > 0]
        less = [name for name, one in results.items() if one.high < 0]
        cheap = [name for name in more if costs[name] <= costs["lrp"]]
        said = {name: f"{name}, {difference(found[name], found[other])}, {in_passes(costs[name])}" for name in results}
        for words, names in (
            (f"More faithful than {other} ({in_passes(costs[other])})", map(said.get, more)),
            (f"Of these, at no more than the cost of `lrp` ({in_passes(costs['lrp'])})", cheap),
            (f"Less faithful than {other}", map(said.get, less)),
        ):
            lines.append(f"- {words}: {'; '.join(names) or 'none'}.")
    return "\n".join(lines)


def confirmed(found: dict[str, np.ndarray], costs: dict[str, float]) -> str:
    """The method of our own beside its rivals on fresh photos, and what may be said of it."""
    if not found:
        return ""
    rows = [
        {
            "candidate": name,
            "passes": number(costs[name], 1),
            "SRG": with_interval(found[name]),
            f"{BLEND} less this": "" if name == BLEND else difference(found[BLEND], found[name]),
        }
        for name in sorted(found, key=lambda name: -found[name].mean())
    ]
    results = {name: paired(found[BLEND], found[name]) for name in found if name != BLEND}
    said = {
        words: [f"{name} ({in_passes(costs[name])})" for name, one in results.items() if holds(one)]
        for words, holds in (
            ("more faithful than", lambda one: one.low > 0),
            ("not told apart from", lambda one: one.low <= 0 <= one.high),
            ("less faithful than", lambda one: one.high < 0),
        )
    }
    lines = "\n".join(f"- {words}: {'; '.join(names) or 'none'}." for words, names in said.items())
    return f"""
## Confirmed on {len(found[BLEND])} photos that are in neither half

`{BLEND}` was thought of after both halves had been seen; of these photos nobody had.

{markdown_table(rows)}
There `{BLEND}` ({in_passes(costs[BLEND])}) is

{lines}
"""


def in_passes(cost: float) -> str:
    return f"{number(cost, 1)} passes"


def document(
    args: argparse.Namespace, photos: Photos, choosing: dict, reporting: dict, fresh: dict, costs: dict[str, float]
) -> str:
    first, second = (len(next(iter(found.values()))) for found in (choosing, reporting))
    return f"""# A method of our own: what was tried

SRG of the predicted class (see methods.md), {described(photos.run)};
means and paired differences with 95 % BCa intervals over photos. In brackets, what relevance starts from (without: the
logit) and by which rule it goes down (without: epsilon): `{DEPTH}` is CP-LRP over depth (gamma), `{CONTRAST}`
the same (gamma, softmax), `{BLEND}` the mean of that and of AttnLRP over depth (softmax). A sum is of maps that were each divided by their sum of magnitudes; the bar was the sum
{BAR}.
*passes*: the cost of a map in forward passes at K = 2 (one thread, B = {BATCH}, the median of {args.rounds} rounds),
measured in the same run; each part of a sum records a forward pass of its own, which a sum made for its own sake would
share. Written by

    python benchmarks/candidates.py {command_of(args)}

{provenance(photos)}

## Chosen on {first} photos

{table(choosing, args.against[:1], costs)}
## Reported on {second} others

{table(reporting, args.against, costs)}
## What follows

Where the paired interval on the {second} others excludes 0:

{conclusions(reporting, args.against, costs)}
{confirmed(fresh, costs)}""" + ("" if args.candidates else why(reporting, costs))


def why(reporting: dict[str, np.ndarray], costs: dict[str, float]) -> str:
    """Which became the default, and for what."""
    return f"""
`{BLEND}`, `{CONTRAST}` and `{DEPTH}` are selectable by name. The rule set beforehand was: the best becomes the default, if the
interval of its SRG less that of `{REFERENCE}` excludes 0 and its noise (median in methods.md) is below 1 %. So `{BLEND}`
({difference(reporting[BLEND], reporting[REFERENCE])}; noise in methods.md) is the default of `explain.relevance` and of visualize.py. compare.py
and study.py explain by `{DEPTH}` ({difference(reporting[DEPTH], reporting[REFERENCE])}) where nothing else is said: `{BLEND}` and `{CONTRAST}`
start from a contrast, and for a model that is sure, the strongest competitor of every other class is the predicted one, so that
their maps turn into the negative of the predicted class's map (similarity of two classes in methods.md: clearly negative, where
that of `{DEPTH}` is about 0). What speaks for another class, and whether it is the same as what speaks for the true one, is
what these two commands ask, and cannot be asked of such maps.

The nearest that was published before is {LIBRAGRAD} (Mehri et al., CVPR 2025), which also sums over blocks, and adds
what every bias brings, without gamma. Its SRG less that of `{DEPTH}` is {difference(reporting[LIBRAGRAD], reporting[DEPTH])},
at {in_passes(costs[LIBRAGRAD])} against {number(costs[DEPTH], 1)}; from the same start as `{CONTRAST}`, less that one's,
{difference(reporting[f"{LIBRAGRAD} (softmax)"], reporting[CONTRAST])}.
"""


def command_of(args: argparse.Namespace) -> str:
    """Return the arguments that write the document."""
    default, given = vars(build_parser().parse_args(["RUN"])), ["RUN"]
    for name in ("images", "data_seed", "candidates", "against", "of_each_half", "fresh", "rounds"):
        value = getattr(args, name)
        if value != default[name]:
            words = (
                [f'"{word}"' if " " in word else word for word in value] if isinstance(value, list) else [str(value)]
            )
            given.append(" ".join([f"--{name.replace('_', '-')}", *words]))
    return " ".join([*given, "--out FILE"])


if __name__ == "__main__":
    sys.exit(
        run(
            main, build_parser(), interrupted="the same command continues after the last candidate that was measured"
        )
    )
