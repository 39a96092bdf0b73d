"""A decoder that counts."""

from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode


class CountingDecoder(FakeDecoder):
    """Counts what it decodes; what begins with 7 it cannot."""

    def __init__(self) -> None:
        super().__init__([Catalogue.load()["demo"]], image_bytes=16_000)
        self.decoded: list[str] = []

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        if any(item.latents.array.flat[0] == 7 for item in batch.items):
            raise RuntimeError("the kernel did not like it")
        self.decoded += [item.spec.id for item in batch.items]
        return super().decode(batch, mode=mode)
