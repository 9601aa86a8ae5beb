"""Several processes of one command: the same files as one, one voice, one exit status."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from running import ROOT, TORCHRUN, files, free_ports, process

from common import processes

SCENARIOS = """
import glob, json, os, sys
from common import processes
from common.errors import ExplainedError

def threads():
    return [open(thread).read().strip() for thread in glob.glob("/proc/self/task/*/comm")]

def distribute():
    import torch.distributed.nn  # as whatever imports torch._dynamo does: a group among its functions' defaults
    seen = []
    def work(tasks):
        for task in tasks:
            seen.append(task)
            yield 10 * task
    results = list(processes.distribute(list(range(5)), work))
    assert processes.on_main_process(lambda: f"from {processes.rank()}") == "from 0"
    with processes.main_process_first():
        order.append(os.path.exists(mark))
        open(mark, "w").close()
    with processes.single_process():
        assert (processes.count(), processes.rank(), processes.all_gather("x")) == (1, 0, ["x"])
    print(f"rank {processes.rank()} speaks")
    facts.update(results=results, seen=seen, went_second=order.pop())
    return 0, None

def fails_on_the_second():
    if processes.rank() == 1:
        return 3, "error: the second says why"
    processes.all_gather("a value that nobody will see")
    raise AssertionError("the first went on")

def fails_on_the_first_after_the_last_exchange():
    return (2, "error: the first says why") if processes.rank() == 0 else (0, None)

def fails_on_both():
    return 2, "error: both say why"

def argparse_ends():
    sys.exit(2)

def dies_on_the_second():
    if processes.rank() == 1:
        os._exit(9)
    processes.all_gather(None)
    raise AssertionError("the first went on")

order, facts, (mark, out, *ports) = [], {}, sys.argv[1:]
for command, port in zip((distribute, fails_on_the_second, fails_on_the_first_after_the_last_exchange, fails_on_both,
                          argparse_ends, dies_on_the_second), ports):
    os.environ["MASTER_PORT"] = port
    facts[command.__name__] = processes.run(command, several=True)
    if command is distribute:
        facts["threads"] = threads()
        os.environ["MASTER_PORT"] = ports[-1]
        facts["refused"] = processes.run(command)
    with open(f"{out}{os.environ['RANK']}.json", "w") as file:
        json.dump(facts, file)
"""


def test_two_processes_share_work_and_end_alike(tmp_path):
    (tmp_path / "scenarios.py").write_text(SCENARIOS)
    ports, running = free_ports(7), []
    for rank in (0, 1):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_RUN_ID": "a test",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        running.append(
            subprocess.Popen(
                [sys.executable, tmp_path / "scenarios.py", tmp_path / "mark", tmp_path / "facts", *ports],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    said = [one.communicate(timeout=120) for one in running]
    assert [one.returncode for one in running] == [0, 9], said
    facts = [json.loads((tmp_path / f"facts{rank}.json").read_text()) for rank in (0, 1)]
    for rank, found in enumerate(facts):
        assert found["results"] == [0, 10, 20, 30, 40] and found["seen"] == [[0, 2, 4], [1, 3]][rank]
        assert found["went_second"] == (rank == 1) and found["distribute"] == 0
        assert found["refused"] == 2
        assert not [name for name in found["threads"] if "gloo" in name], "they would outlive the interpreter"
        assert found["fails_on_the_second"] == 3
        assert found["fails_on_the_first_after_the_last_exchange"] == found["fails_on_both"] == 2
        assert found["argparse_ends"] == 2
    assert facts[0]["dies_on_the_second"] == 1 and "dies_on_the_second" not in facts[1]
    assert said[0][0] == "rank 0 speaks\n" and said[1] == ("", "")
    lines = [line for line in said[0][1].splitlines() if line.startswith("error: ")]
    assert [line[7:].split(",")[0] for line in lines] == [
        "torchrun started 2 processes",
        "the second says why",
        "the first says why",
        "both say why",
        "one of the 2 processes has died",
    ]


def test_alone_everything_is_as_without_processes():
    assert (processes.count(), processes.rank(), processes.started_by_torchrun()) == (1, 0, False)
    assert processes.all_gather("x") == ["x"] and processes.on_main_process(lambda: 5) == 5
    assert list(processes.distribute([1, 2, 3], lambda tasks: (2 * task for task in tasks))) == [2, 4, 6]
    with processes.main_process_first():
        pass


def test_spread_asks_for_a_result_when_it_is_needed():
    done = []
    results = processes.distribute(range(3), lambda tasks: (done.append(task) or task for task in tasks))
    assert next(results) == 0 and done == [0]


@pytest.mark.slow
def test_torchrun_writes_what_one_process_writes(shop, tmp_path):
    """18 images in 5 batches, so that one process has more to do than the other; and a refusal is said once."""
    argv = ["compare.py", shop.linear, shop.dora, "--batch-size", 4, "--rows", 3, "--layers", "--out"]
    alone, together = process(*argv, tmp_path / "one"), process(*TORCHRUN, *argv, tmp_path / "two")
    said = [running.communicate(timeout=300) for running in (alone, together)]
    assert (alone.returncode, together.returncode) == (0, 0), said
    assert said[0][0].replace("/one", "/two") == said[1][0]
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys() and "layers.png" in one
    assert [name for name in one if one[name] != two[name]] == []
    refused = process(*TORCHRUN, *argv[:2], "--out", tmp_path / "three")
    out, error = refused.communicate(timeout=120)
    assert refused.returncode and out == "" and not (tmp_path / "three").exists()
    assert error.count("comparing takes two or more") == 1 and error.count("exitcode  : 2") == 2


@pytest.mark.slow
def test_torchrun_draws_what_one_process_draws(shop, tmp_path):
    """Three photos and one that is none, which the second process meets and the first tells of."""
    photos = tmp_path / "photos"
    shutil.copytree(shop.colours / "val" / "red", photos)
    for path in sorted(photos.iterdir())[3:]:
        path.unlink()
    (photos / "01b.png").write_bytes(b"no image")
    argv = ["visualize.py", shop.dora, photos, "--layers", "--out"]
    alone, together = process(*argv, tmp_path / "one"), process(*TORCHRUN, *argv, tmp_path / "two")
    said = [running.communicate(timeout=300) for running in (alone, together)]
    assert (alone.returncode, together.returncode) == (0, 0), said
    assert said[0][0].replace("/one", "/two") == said[1][0] and said[1][1].count("01b.png is not a readable image") == 1
    assert files(tmp_path / "one") == files(tmp_path / "two") and len(files(tmp_path / "one")) == 3 * (1 + 3)
