"""Images/s of the loader alone: training batches of the recipe of config.json, drained to the end of the epoch."""

from __future__ import annotations

from functools import partial

from benchmarks.speed.feeding import drained, epochs_of
from benchmarks.speed.measuring import Contender, Figure, Row, Target, fastest, interleaved, ratios
from benchmarks.speed.peers import drained_peer, teams_loader, timm_loader, torchvision_loader
from benchmarks.speed.peers_process import PeersProcess
from benchmarks.speed.workplace import Workplace
from utils.threads import number_of_cores

TEAMS, TIMM, TORCHVISION = "the teams' way", "timm's create_loader", "torchvision v2"
KEPT = ("memory", "disk")


def measure(workplace: Workplace) -> Row:
    contenders: dict[str, Contender] = {}
    counts = sorted({0, 1, 2, number_of_cores()})
    for name, cache in (("JPEG", "none"), *((cache, cache) for cache in KEPT)):
        for workers in counts:
            contenders[named(name, workers)] = ours(workplace, cache, workers)
    with peers(workplace) as theirs:
        values = interleaved({**contenders, **theirs.contenders}, workplace.scale.rounds)
    figures = [Figure(name, "images/s", each) for name, each in values.items()]

    def against(name: str, other: str, text: str, target: Target | None = None) -> None:
        if other in values:
            figures.append(Figure(text, "x", ratios(values[name], values[other]), target))

    teams, ours_alone = named(TEAMS, 2), named("memory", 0)
    best = fastest(values, [named(cache, workers) for cache in KEPT for workers in (0, 1, 2)])  # no more than they have
    against(named("JPEG", 2), teams, f"JPEG, 2 workers / {teams}", Target(1.8, 2.2))
    against(best, teams, f"cached ({best}) / {teams}", Target(7, 10))
    for peer in (TIMM, TORCHVISION):
        other = named(peer, 0)
        against(ours_alone, other, f"cached, one process (memory) / {peer}, one process", Target(9, 25))
        against(best, other, f"cached ({best}) / {peer}, one process")
    return Row(
        "Loader, training batches",
        figures,
        {
            "images": {"decoded": workplace.scale.decoded_images, "cached": workplace.scale.cached_images},
            "side": workplace.scale.side,
            "batch_size": workplace.scale.batch_size,
        },
        [
            "uint8 batches of ours against the float32 batches that the others make",
            "cached: of memory and disk with no, one or two workers the one whose median is highest",
            "0 workers: one process, one thread",
        ],
        theirs.missing,
    )


def named(name: str, workers: int) -> str:
    return f"{name}, {workers} worker{'' if workers == 1 else 's'}"


def ours(workplace: Workplace, cache: str, workers: int) -> Contender:
    """Our loader, drained; a cache is filled when it is made."""
    scale = workplace.scale
    images = scale.decoded_images if cache == "none" else scale.cached_images
    loader = workplace.loader(workplace.photographs(images), cache=cache, num_workers=workers)
    return drained(epochs_of(loader))


def peers(workplace: Workplace) -> PeersProcess:
    """The peers in one process and with two workers."""
    scale = workplace.scale
    paths = [record.path for record in workplace.photographs(scale.decoded_images)]
    return PeersProcess(
        {
            named(name, workers): partial(drained_peer, make, paths, scale.side, scale.batch_size, workers)
            for name, make in ((TEAMS, teams_loader), (TIMM, timm_loader), (TORCHVISION, torchvision_loader))
            for workers in (0, 2)
        }
    )
