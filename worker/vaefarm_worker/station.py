"""What the stations of one worker share: intake, pool, device and outbox."""

from dataclasses import dataclass, field

from vaefarm_shared.figures import Figures
from vaefarm_shared.settings import Settings

from .after_decode import AfterDecodes
from .claiming import Cost
from .decoder import Decoder
from .lifeline import Lifeline
from .patience import Patience


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
    figures: Figures = field(default_factory=Figures)
