"""Images/s of validation batches without augmentation, from a warm cache; every byte of every batch is read."""

from __future__ import annotations

from functools import partial

from benchmarks.feeding import drained, read_every_byte
from benchmarks.measuring import Contender, Figure, Row, Target, fastest, interleaved, ratios
from benchmarks.peers import drained_peer, teams_loader
from benchmarks.peers_process import PeersProcess
from benchmarks.workplace import Workplace

BATCH_SIZE = 128
EPOCHS = 8
"""Of ours to one measurement: one takes some hundredths of a second."""
TEAMS = "the teams' way without augmentation"


def measure(workplace: Workplace) -> Row:
    scale = workplace.scale
    records = workplace.photographs(scale.decoded_images)
    contenders: dict[str, Contender] = {}
    for cache in ("memory", "disk"):
        loader = workplace.loader(records, records, cache=cache, num_workers=0, valid_batch_size=BATCH_SIZE)
        contenders[cache] = drained(loader.validation_batches, EPOCHS, read_every_byte)
    best_names = list(contenders)
    paths = [record.path for record in records]
    makers = {
        f"{TEAMS}, {workers} workers": partial(
            drained_peer, teams_loader, paths, scale.side, BATCH_SIZE, workers, augment=False, each=read_every_byte
        )
        for workers in (0, 2)
    }
    with PeersProcess(makers) as theirs:
        values = interleaved({**contenders, **theirs.contenders}, scale.rounds)
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    best = fastest(values, best_names)
    figures.append(
        Figure(
            f"{best} / {TEAMS}, 2 workers", "x", ratios(values[best], values[f"{TEAMS}, 2 workers"]), Target(40, 100)
        )
    )
    return Row(
        "Feed for evaluation",
        figures,
        {"images": len(records), "side": scale.side, "batch_size": BATCH_SIZE, "epochs_of_ours": EPOCHS},
        [
            "of every batch the sum of all bytes is taken within the time, as 64-bit numbers in the order of memory",
            "ours: batches of images that lie in the cache in this order are views of it, and no byte is copied",
            "one thread in this process, ours and theirs; theirs has two workers beside it",
        ],
    )
