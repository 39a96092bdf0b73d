"""The newest pictures that somebody may see: as many as a strip shows, found by the events of jobs that finished.

Each picture that is put on a page is fetched by every browser that has it open, so that how many are put there in a
second goes by how many pages there are. Of more than that the newest are taken.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vaefarm_shared.errors import FarmError, JobNotFound
from vaefarm_shared.events import Event, newest_events
from vaefarm_shared.job import JobStatus
from vaefarm_shared.previews import is_preview
from vaefarm_shared.reading import Standing
from vaefarm_shared.records import ImageRecord, JobRecord, VideoRecord

from ..access import Principal
from ..desk import Desk

logger = logging.getLogger(__name__)

#: Pictures of a strip.
SHOWN: Final[int] = 12

#: Events, and of those jobs, that are looked through for the first of a strip.
LOOKED_AT: Final[int] = 2000
ASKED: Final[int] = 60

#: Pixels of the largest picture that a small one is made of, by format. While it is made 8192 x 8192 take 260 MiB, with
#: transparency 520; libwebp takes four times as much.
MOST_PIXELS: Final[dict[str, int]] = {"png": 8192 * 8192, "jpeg": 8192 * 8192, "webp": 4096 * 4096}

#: Characters of a prompt that a picture's card has.
PROMPT_LENGTH: Final[int] = 120


@dataclass(frozen=True, slots=True)
class Card:
    """A finished job, as a strip shows it."""

    job_id: str
    vae: str
    what: str
    prompt: str
    #: Whether there is a small picture of it.
    has_thumbnail: bool
    ended_at: float | None


class Newest:
    """The newest pictures of the jobs that a principal sees, of one VAE or of all."""

    def __init__(self, desk: Desk, principal: Principal, vae: str | None) -> None:
        self._desk = desk
        self._principal = principal
        self._vae = vae
        self._cards: deque[Card] = deque(maxlen=SHOWN)
        self._place: str | None = None

    @property
    def cards(self) -> list[Card]:
        """The newest first."""
        return list(reversed(self._cards))

    async def look(self, most: int = SHOWN) -> int:
        """Find what ended since the last look, `most` at the most; how many were put in. Raises FarmUnavailable."""
        follower = self._desk.follower
        if self._place is None:
            await follower.ready()
            most = SHOWN
        elif not most:
            return 0
        place, events = follower.last, None if self._place is None else follower.kept_after(self._place)
        try:
            if events is None:
                # The first look, or one that comes so late that what is between is not worth finding.
                events = await self._desk.call(self._desk.transport.ask, newest_events, LOOKED_AT)
            count = await self._put_in(events, most)
        except FarmError:
            # What ended meanwhile is found once Redis is back.
            raise
        except Exception:
            logger.exception("the newest pictures were not found")
            count = 0
        self._place = place
        return count

    async def _put_in(self, events: Sequence[Event], most: int) -> int:
        ended = list(dict.fromkeys(event.job_id for event in reversed(events) if self._is_wanted(event)))
        asked = ended[: most if self._vae is None else ASKED]
        if not asked:
            return 0
        standings: Iterable[Standing | JobNotFound] = await self._desk.call(self._desk.transport.standings, asked)
        found = [card for one in standings if isinstance(one, Standing) and (card := self._card(one.record))][:most]
        known = {one.job_id for one in found}
        kept = [one for one in self._cards if one.job_id not in known]
        self._cards.clear()
        self._cards.extend([*kept, *reversed(found)])
        return len(found)

    def _is_wanted(self, event: Event) -> bool:
        return event.status is JobStatus.FINISHED and self._principal.sees(event.owner) and not is_preview(event.job_id)

    def _card(self, record: JobRecord) -> Card | None:
        """A job's card; None for one of another VAE or owner, or without a picture."""
        report = record.report
        # The event may be of another's job that had the same id before.
        if report is None or self._vae not in (None, record.vae) or not self._principal.sees(record.owner):
            return None
        shown = [one for one in report.stored if isinstance(one, ImageRecord | VideoRecord)]
        if not shown:
            return None
        prompt = " ".join(record.metadata.get("prompt", "").split())
        return Card(
            record.id,
            record.vae or "",
            _what(shown),
            prompt if len(prompt) <= PROMPT_LENGTH else f"{prompt[:PROMPT_LENGTH]}...",
            has_thumbnail(shown[0]),
            record.ended_at,
        )


def has_thumbnail(one: ImageRecord | VideoRecord) -> bool:
    """Whether Pillow draws it, in memory that there is: pictures, and videos that are pictures that move."""
    form = one.image_format if isinstance(one, ImageRecord) else one.video_format
    return one.width * one.height <= MOST_PIXELS.get(form, 0)


def _what(shown: Sequence[ImageRecord | VideoRecord]) -> str:
    first = shown[0]
    size = f"{first.width} x {first.height}"
    kind = f"{first.num_frames} frames, {first.video_format}" if isinstance(first, VideoRecord) else first.image_format
    many = f", {len(shown)} of them" if len(shown) > 1 else ""
    return f"{size} {kind}{many}"
