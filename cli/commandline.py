"""What every command shares: argument groups, device, checks of output folders, and how errors reach the user."""

import argparse
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from common import processes
from common.errors import ExplainedError, UsageError, out_of_memory
from common.names import nearest
from data.datasets import ImageData, load_data
from data.transforms import drawing_size
from explain import COMPARISON_METHOD, DEFAULT_METHOD, METHODS, find_method
from explain.targets import CONTRASTS
from models.backbone import data_config
from models.options import BackboneSpec, ExternalOptions

CACHE = Path("results/cache")
CONTINUES = "the same command continues after the last finished step"
ELSEWHERE = "a model trained elsewhere: a timm name, a merged .safetensors or .pth file, a peft folder"
DATA_OPTIONS = ("data_seed", "classes", "train_images", "val_images", "context_bias")


def parser(doc: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose help opens with the purpose and a command that can be run as it stands."""
    return _Parser(
        description=f"{doc.strip().splitlines()[0]}\n\nexample:\n  {example}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    """Help opens with purpose and example; an error is one line, which argparse's own usage lines would bury."""

    def format_help(self) -> str:
        usage = self.format_usage()
        return super().format_help().replace(usage, "", 1).lstrip() + "\n" + usage

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}; {self.prog} --help explains every option\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the example's line breaks and adds the defaults that mean something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or "default" in text or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


def add_data(to: argparse.ArgumentParser, default: str | None = "scenes", several: bool = False) -> None:
    group = to.add_argument_group("data")
    group.add_argument(
        "--data",
        nargs="+" if several else None,
        default=[default] if several else default,
        metavar="D",
        help="'scenes' (drawn, offline), 'sports' (100-sports, downloaded once), or a folder with train/ "
        "and val/ or valid/, one subfolder a class",
    )
    group.add_argument("--classes", nargs="+", metavar="NAME", help="keep these classes of a folder")
    group.add_argument(
        "--data-seed",
        type=int,
        default=0,
        metavar="N",
        help="which images are drawn, sampled or held out; --seed never changes them",
    )
    group.add_argument(
        "--train-images",
        type=positive,
        metavar="N",
        help="images in the training split (default: 1500 scenes, or all of a folder)",
    )
    group.add_argument(
        "--val-images",
        type=positive,
        metavar="N",
        help="images in each other split (default: 300 scenes, or all of a folder)",
    )
    group.add_argument(
        "--context-bias",
        type=float,
        metavar="P",
        help="share of scenes on their class's usual surface, in train and val (default: 0.9)",
    )


def add_model(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("model")
    group.add_argument("--model", default="bundled", metavar="NAME", help="'bundled' or any timm name")
    group.add_argument("--weights", metavar="FILE", help="local weights for --model (default: the model hub's)")
    group.add_argument("--image-size", type=positive, metavar="PIXELS", help="side of the input (default: the model's)")


def add_elsewhere(to: argparse.ArgumentParser) -> None:
    """Add what a RUN may need beside its name; a run folder needs nothing, unless its backbone was moved."""
    group = to.add_argument_group("models trained elsewhere")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="architecture of a merged file, base of a peft folder (default: what they say themselves)",
    )
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="where the backbone of a run, a timm name or a peft folder lies (default: where it lay in "
        "training, or the model hub)",
    )
    group.add_argument(
        "--image-size",
        type=positive,
        metavar="PIXELS",
        help="side of a model's input (default: what its file says, or timm's for the model)",
    )
    group.add_argument(
        "--class-names",
        metavar="FILE",
        help="class names in the head's order, one a line or a JSON list: of merged files (default: "
        "what the file says), of peft folders, and of timm names (default: timm's names for their classes)",
    )


def hints_of(args: argparse.Namespace) -> ExternalOptions:
    """Return what the command line says about models trained elsewhere."""
    return ExternalOptions(args.model, args.weights, args.image_size, args.class_names)


def add_relevance(
    to: argparse.ArgumentParser, several: bool = False, options: bool = True, comparing: bool = False
) -> None:
    default = COMPARISON_METHOD if comparing else DEFAULT_METHOD
    group = to.add_argument_group("explanation", relevance_table())
    group.add_argument(
        "--relevance",
        nargs="+" if several else None,
        default=[default] if several else default,
        type=relevance_method,
        metavar="NAME",
        help=f"{'some' if several else 'one'} of the methods above (default: {default})",
    )
    if not options:
        return
    group.add_argument(
        "--contrast",
        choices=CONTRASTS,
        help="explain, instead of the logit: 'mean', it less the mean of the others' (after Gu et al., ACCV "
        "2018); 'softmax', it less their mean weighted by softmax (after Iwana et al., ICCV workshops "
        "2019); 'log_p', log p to first order. For lrp and lrp_magnitude it enters through the gradient "
        "only: their relevance still starts at the logit (default: softmax for lrp_contrast and lrp_blend, else none)",
    )
    group.add_argument(
        "--centre-head",
        action="store_true",
        help="explain with the head's rows less their mean over classes, which softmax ignores anyway",
    )
    group.add_argument(
        "--precision",
        choices=("float16",),
        help="factors of matrix products, for GPUs with tensor cores and for methods whose maps stay within 2 %% "
        "(default: float32)",
    )


def relevance_table() -> str:
    """Return what --help says of each relevance method, in lines as wide as the terminal."""
    width = max(60, shutil.get_terminal_size().columns - 4)  # argparse keeps two, and indents by two
    lines = textwrap.wrap(
        "The methods, each with the cost of a map in forward passes of its image (about, at K = 2 classes). "
        "Signed maps hold evidence against the class, too.",
        width,
    )
    for method in METHODS.values():
        start = f"  {method.name:<21}{'signed' if method.signed else 'unsigned':<9}{method.passes:>4.1f}  "
        lines += textwrap.wrap(
            f"{method.description} ({method.source})", width, initial_indent=start, subsequent_indent=" " * len(start)
        )
    return "\n".join(lines)


def relevance_method(name: str) -> str:
    """Check the name of a relevance method."""
    try:
        return find_method(name).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def relevance_options(args: argparse.Namespace) -> dict:
    """Return the options of `explain.relevance` that the command line changes; raises UsageError where a method lacks
    one."""
    methods = [args.relevance] if isinstance(args.relevance, str) else args.relevance
    changes = args.contrast is not None and any(args.contrast != (METHODS[name].contrast or "none") for name in methods)
    options = {"contrast": args.contrast} if changes else {}
    if args.centre_head:
        options["centre_head"] = True
    if args.precision:
        options["precision"] = args.precision
    asked = options | layers_option(args)
    refusals = {method: why for method in methods if (why := _refusal(method, asked))}
    if refusals:
        flags = " and ".join(f"--{option.replace('_', '-')}" for option in asked)
        able = [method for method in methods if method not in refusals]
        choice = f"Of those given, {', '.join(able)} can; give no other" if able else "Choose another --relevance"
        raise UsageError(f"{next(iter(refusals.values()))} {choice}, or drop {flags}")
    return options


def _refusal(method: str, options: dict) -> str | None:
    try:
        start = find_method(method, options).contrast
    except ValueError as error:
        return str(error)
    if options.get("centre_head") and "contrast" not in options and start != "none":
        return f"{method} explains a contrast, which a centred head leaves as it is."
    return None


def relevance_changes(args: argparse.Namespace) -> list[str]:
    """Return in words what --contrast, --centre-head and --precision change: pictures and their names say so."""
    return [
        f"{option.replace('_', ' ')}" + ("" if value is True else f" {value}")
        for option, value in relevance_options(args).items()
    ]


def layers_option(args: argparse.Namespace) -> dict:
    """Return the option of `explain.relevance` by which it also returns relevance by block and head, where asked for.

    Apart from `relevance_options`, which never change what comes back. A command without --layers asks for none.
    """
    return {"layers": True} if getattr(args, "layers", False) else {}


def add_device(to: argparse.ArgumentParser):
    group = to.add_argument_group("running")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    return group


def add_workers(group) -> None:
    group.add_argument(
        "--workers",
        type=natural,
        default=None,
        metavar="N",
        help="processes that load images (default: 0 on the CPU, otherwise up to 8)",
    )


def add_running(to: argparse.ArgumentParser) -> None:
    group = add_device(to)
    add_workers(group)
    group.add_argument(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="where features and checks of image files are kept between runs",
    )
    group.add_argument(
        "--cache-limit",
        type=positive_number,
        default=20.0,
        metavar="GIB",
        help="the most that a run may keep of tokens before late adapters; beyond it they are not kept",
    )
    group.add_argument(
        "--no-cache", dest="cache", action="store_const", const=None, help="compute features and check files every time"
    )


def _whole(text: str, least: int) -> int:
    if not text.strip().lstrip("+-").isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


def positive(text: str) -> int:
    return _whole(text, 1)


def natural(text: str) -> int:
    return _whole(text, 0)


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    try:
        if 0 < (value := float(text)) < float("inf"):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    try:
        if 0 <= (value := float(text)) < float("inf"):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


def share_below_one(text: str) -> float:
    """Read a share from 0 up to, not including, 1."""
    try:
        if 0 <= (value := float(text)) < 1:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up to, not including, 1")


def colour_map(name: str) -> str:
    """Check the name of one of matplotlib's colour maps."""
    import matplotlib  # a command that draws has it anyway; the others need not wait for it

    if name not in matplotlib.colormaps:
        near = nearest(name, list(matplotlib.colormaps))
        raise argparse.ArgumentTypeError(f"matplotlib has no colour map {name!r}; {near}")
    return name


def device_of(name: str) -> torch.device:
    """Return the device asked for; `auto` takes the first of cuda, mps and cpu that is there. A process has its own
    GPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise UsageError(
            f"--device {name} is not available here; use --device "
            f"{' or '.join(kind for kind, there in available.items() if there)}"
        )
    if name != "cuda" or not processes.launched():
        return torch.device(name)
    if processes.local_rank() >= (gpus := torch.cuda.device_count()):
        raise UsageError(
            f"more processes than the {gpus} GPU(s) here; give torchrun --nproc_per_node {gpus}, or --device cpu"
        )
    return torch.device("cuda", processes.local_rank())


def batch_of(given: int | None, device: torch.device, count: int) -> int:
    """Return how many of `count` images are explained together: as many as were asked for, or as a device makes good
    use of.

    On an accelerator, maps that its memory has no room for are tried again by halves (explain.parts). A few images
    still make eight batches there, which several processes share.
    """
    return given or (16 if device.type == "cpu" else min(128, max(16, count // 8)))


def workers_of(args: argparse.Namespace, device: torch.device) -> int:
    """Return the number of loader processes."""
    if args.workers is not None:
        return args.workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def backbone_of(args: argparse.Namespace) -> BackboneSpec:
    """Return what --model, --weights and --image-size name."""
    return BackboneSpec(args.model, args.weights, args.image_size)


def data_options(args: argparse.Namespace) -> dict:
    """Return what the command line says about the images beside --data, as `load_data` takes it and a run records
    it."""
    return {key: getattr(args, key) for key in DATA_OPTIONS}


def data_of(args: argparse.Namespace) -> ImageData:
    """Load and check --data at the size that the model's data config asks for; print what is odd about it."""
    config = data_config(backbone_of(args))
    data = load_data(
        args.data,
        image_size=drawing_size(config),
        progress=True,
        cache=getattr(args, "cache", None),
        **data_options(args),
    )
    for warning in data.warnings:
        warn(warning)
    return data


def warn(text: str) -> None:
    """Print one warning line to standard error."""
    print(f"warning: {text}", file=sys.stderr)


def check_writable(folder: Path | None, option: str = "--out") -> None:
    """Raise ExplainedError when a folder cannot be made or written to; it is left as it was found. None is no
    folder."""
    if folder is None:
        return
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ExplainedError(f"cannot write to {folder} ({error.strerror}); give another {option}") from error
    finally:
        for parent in made:  # innermost first
            with suppress(OSError):  # another process may have begun to use it
                parent.rmdir()


def run(
    main: Callable[[argparse.Namespace], None],
    arguments: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    several: bool = False,
    interrupted: str = CONTINUES,
) -> int:
    """Parse, run, and turn what the user can mend into one line and an exit status; return that status.

    several: the command shares its work among the processes that torchrun starts; others refuse more than one.
    interrupted: what Ctrl-C leaves behind, and what the same command does then.
    """
    # Numbers below 1e-38 mean nothing here, and a CPU's products take a hundred times as long over them.
    torch.set_flush_denormal(True)
    return processes.run(lambda: _run(main, arguments, argv, interrupted), several)


def _fewer_images(args: argparse.Namespace) -> str:
    """Return what to do where memory is full, by the options that the command has."""
    if getattr(args, "method", "linear") != "linear":
        return "give --accumulate 2, or more, to take a batch in parts, and another --out; or --device cpu"
    for name in ("images_at_once", "batch_size"):
        if name in args and "method" not in args:
            return f"give a smaller --{name.replace('_', '-')}, or --device cpu"
    return "give --device cpu, or a smaller model"


def _run(
    main: Callable[[argparse.Namespace], None],
    arguments: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    interrupted: str,
) -> processes.Outcome:
    args = arguments.parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows each line as it comes
    try:
        main(args)
        sys.stdout.flush()
    except ExplainedError as error:
        return error.exit_status, f"error: {error}"
    except KeyboardInterrupt:
        return processes.INTERRUPTED, f"interrupted; {interrupted}"
    except BrokenPipeError:  # `... | head` closed our output; that is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(processes.count() > 1), None  # others may be waiting for what comes next
    except OSError as error:
        return 1, (f"error: {error.filename or 'a file'}: {error.strerror or error}; free space or give another place")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or processes.count() > 1:  # others may wait for its gradients: torchrun ends them
            raise
        what, *_ = (str(error) or "of this machine").splitlines()
        return 1, f"error: memory is full ({what}); {_fewer_images(args)}"
    return 0, None
