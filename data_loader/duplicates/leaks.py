"""What duplicates mean for the data: which sides of the split they join, and persons that are one."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_loader.duplicates.finding import DuplicatePair, find_duplicates, groups
from data_loader.records.records import Record
from utils.files import short_path
from utils.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leak:
    """The duplicates of one relation.

    relation: such as "between train and validation", "across persons of train", "within persons"
    pairs: of it, the most alike first
    crosses_sides: whether its pairs do
    """

    relation: str
    pairs: list[DuplicatePair]
    crosses_sides: bool

    def line(self, records: Sequence[Record]) -> str:
        """What the log says of it. records: that the pairs' rows are of"""
        kinds = Counter(pair.kind for pair in self.pairs)
        listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        first = self.pairs[0]
        names = " and ".join(short_path(records[row].path) for row in (first.first, first.second))
        return f"{counted(len(self.pairs), 'pair')} of duplicates {self.relation} ({listed}), such as {names}"


def leaks_of(pairs: Sequence[DuplicatePair], records: Sequence[Record], sides: Sequence[str]) -> list[Leak]:
    """The pairs by what they join: first those between two sides, then across persons, then within persons.

    records: that the pairs' rows are of
    sides: of each record, such as "train", or "fold 3" of a run of folds
    """
    order = list(dict.fromkeys(sides))
    found: dict[tuple[bool, bool, str], list[DuplicatePair]] = defaultdict(list)
    for pair in pairs:
        one, other = sorted((sides[pair.first], sides[pair.second]), key=order.index)
        same_person = records[pair.first].person == records[pair.second].person
        if one != other:
            of_folds = one.startswith("fold ") and other.startswith("fold ")
            found[True, not same_person, "between folds" if of_folds else f"between {one} and {other}"].append(pair)
        elif same_person:
            found[False, False, "within persons"].append(pair)
        else:
            side = "one fold" if one.startswith("fold ") else one
            found[False, True, f"across persons of {side}"].append(pair)
    in_order = sorted(found.items(), key=lambda item: item[0][:2], reverse=True)
    return [
        Leak(relation, sorted(own, key=lambda pair: pair.difference), sides_differ)
        for (sides_differ, _, relation), own in in_order
    ]


def joined_persons(records: Sequence[Record], asked: Sequence[bool], save_dir: Path | None = None) -> list[Record]:
    """The records, those of one picture with one person: all photographs of persons who share a picture are of one.

    asked: whether a record's source has persons = "by_duplicates"; one record of a pair is enough
    save_dir: see `find_duplicates`

    Persons on different sides that their tables give are left apart, with a warning: no split can change that."""
    pairs = find_duplicates([record.path for record in records], [record.person for record in records], save_dir, True)
    pairs = [pair for pair in pairs if asked[pair.first] or asked[pair.second]]
    given = [pair for pair in pairs if records[pair.first].part != records[pair.second].part]
    if given:
        leak = Leak("on two sides that a table gives", given, True)
        logger.warning("%s: they stay where the table has them; take rows out, or set split_column to null",
                       leak.line(records))  # fmt: skip
    joined = groups((records[pair.first].person, records[pair.second].person) for pair in pairs if pair not in given)
    name_of = {name: group[0] for group in joined for name in group}
    logger.info("persons by duplicates: %d persons joined to %d, by %s", len(name_of), len(joined),
                counted(len(pairs) - len(given), "pair"))  # fmt: skip
    return [
        replace(record, person=name_of[record.person], person_id=record.person_id or record.person)
        if record.person in name_of
        else record
        for record in records
    ]
