"""What the stations of one worker share: intake, pool, device and outbox."""

from dataclasses import dataclass, field

from vaefarm_shared.figures import Figures
from vaefarm_shared.settings import Settings

from .after_decode import AfterDecodes
from .backlog import Backlog
from .claiming import Cost
from .decoder import Decoder
from .lacks import Lack
from .lifeline import Lifeline
from .patience import Patience
from .sides import Sides


@dataclass(frozen=True, slots=True)
class Station:
    """One worker's name, settings and device, and what all its threads lean on."""

    name: str
    settings: Settings
    decoder: Decoder
    lifeline: Lifeline
    after_decode: AfterDecodes = field(default_factory=AfterDecodes)
    patience: Patience = field(default_factory=Patience)
    cost: Cost = field(default_factory=Cost)
    backlog: Backlog = field(default_factory=Backlog)
    figures: Figures = field(default_factory=Figures)
    #: What the worker's installation lacks that some jobs need.
    lacks: frozenset[Lack] = frozenset()
    sides: Sides = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", Sides(self.decoder))
