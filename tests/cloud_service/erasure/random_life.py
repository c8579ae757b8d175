"""A record that lives at random: written to, backed up, and restored; and what should be in it."""

from __future__ import annotations

import random
import uuid
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from cloud_service.clock import RecordClock
from cloud_service.index.snapshots import Snapshots
from cloud_service.record.backup import back_up, restore
from cloud_service.record.opening import open_database
from cloud_service.record.record import Record
from cloud_service.record.tables import gallery, subject, template
from cloud_service.settings import Settings
from cloud_service.subjects.enrollment import Enrollment, NewVector
from shared.wire.cloud import GallerySpec
from shared.wire.common import NewThreshold
from tests.support.cloud_client import contract_of, random_units

_SPEC = GallerySpec(contract=contract_of(), threshold=NewThreshold(cosine=0.9, fmr=0.001))
_VECTOR = random_units(72, 1)[0]


class Life:
    """A record that is written to, backed up and restored at random, and what should be in it by then."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.record_file = folder / "record.db"
        self._chance = chance
        # Galleries and, in them, templates by their ids with the subject. A gallery made again is another one.
        self.galleries: dict[str, dict[str, str]] = {}
        self.backups: list[tuple[Path, dict[str, dict[str, str]], dict[str, int]]] = []
        self._made: dict[str, int] = {}
        # What was erased in all this time: a gallery, a subject or a template of the gallery that was made as the nth.
        self.erased: list[tuple[int, str | None, str | None, int]] = []
        self._step = 0
        self._since: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        url = f"sqlite:///{self.record_file}"
        self.database = open_database(url, Settings(home=self.record_file.parent).record, connections=2)
        journal = Snapshots(self.database, self.record_file.parent / "index")
        self.record = Record(self.database, journal, 10**6, 10**3, RecordClock(timedelta(minutes=5), 0))

    def close(self) -> None:
        self.database.close()

    def step(self) -> None:
        kinds = ["enroll"] * 6 + ["subject", "template", "gallery", "backup", "backup", "restore"]
        getattr(self, f"_{self._chance.choice(kinds)}")()

    def _enroll(self) -> None:
        self.enroll(self._chance.choice("xyz"), self._chance.choice("abcd"))

    def enroll(self, name: str, who: str) -> None:
        uid = uuid.uuid4().hex
        self._step += 1
        if name not in self.galleries:
            self.galleries[name], self._made[name] = {}, self._step
        pinned, _ = self.record.put_gallery(name, _SPEC, None)
        Enrollment(self.record).add(pinned, {who: {uid: NewVector(_VECTOR)}}, None)
        self.galleries[name][uid] = who
        self._since[uid] = self._step

    def _any(self) -> tuple[str, str] | None:
        there = [(name, uid) for name, uids in self.galleries.items() for uid in uids]
        return self._chance.choice(there) if there else None

    def _subject(self) -> None:
        if (chosen := self._any()) is None:
            return
        self.erase(chosen[0], self.galleries[chosen[0]][chosen[1]])

    def erase(self, name: str, who: str) -> None:
        self._step += 1
        self.record.erase_subject(self.record.gallery(name), who, None)
        self.erased.append((self._made[name], who, None, self._step))
        self.galleries[name] = {uid: one for uid, one in self.galleries[name].items() if one != who}

    def _template(self) -> None:
        if (chosen := self._any()) is None:
            return
        name, uid = chosen
        who = self.galleries[name].pop(uid)
        self._step += 1
        self.record.erase_subject(self.record.gallery(name), who, None, uid)
        self.erased.append((self._made[name], None, uid, self._step))

    def _gallery(self) -> None:
        if (chosen := self._any()) is None:
            return
        self._step += 1
        self.record.erase_gallery(self.record.gallery(chosen[0]), None)
        self.erased.append((self._made[chosen[0]], None, None, self._step))
        del self.galleries[chosen[0]]

    def _backup(self) -> None:
        self.back_up()

    def back_up(self) -> None:
        self._step += 1
        target = self.record_file.parent / f"backup {self._step}"
        back_up(self.record_file, target)
        self.backups.append((target, {name: dict(uids) for name, uids in self.galleries.items()}, dict(self._made)))

    def _restore(self) -> None:
        self.restore_any()

    def restore_any(self) -> None:
        if self.backups:
            self.restore(self._chance.randrange(len(self.backups)))

    def restore(self, number: int) -> None:
        target, galleries, made = self.backups[number]
        self.close()
        restore(target, self.record_file, replace=True)
        self._open()
        self._made = dict(made)
        self.galleries = {
            name: {uid: who for uid, who in uids.items() if not self._was_erased(made[name], who, uid)}
            for name, uids in galleries.items()
            if not any(which == made[name] and who is None and one is None for which, who, one, _ in self.erased)
        }

    def _was_erased(self, made: int, who: str, uid: str) -> bool:
        """Whether the template, or its subject after it was enrolled, was erased at any time."""
        return any(
            which == made and (one == uid or (whose == who and at > self._since[uid]))
            for which, whose, one, at in self.erased
        )

    def held(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        with self.database.read() as connection:
            for (name,) in connection.execute(select(gallery.c.name)):
                found[name] = {}
            rows = select(gallery.c.name, template.c.uid, subject.c.name.label("who")).join_from(gallery, template)
            for row in connection.execute(rows.join(subject, subject.c.id == template.c.subject_id)):
                found[row.name][row.uid] = row.who
        return found
