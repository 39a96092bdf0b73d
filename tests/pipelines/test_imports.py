"""A producer without torch or diffusers stays one: what needs them is imported once it is asked for."""

import subprocess
import sys

import pytest

import vaefarm_producer
from vaefarm_producer.farm_decode_step import FarmDecodeStep
from vaefarm_producer.farm_vae import FarmVAE


def test_neither_torch_nor_diffusers_is_imported_before_anybody_asks() -> None:
    code = (
        "import sys; from vaefarm_producer import *; import vaefarm_producer.attaching;"
        " assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), 'imported'"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_asked_for_is_there_and_nothing_else() -> None:
    assert vaefarm_producer.FarmVAE is FarmVAE
    assert vaefarm_producer.FarmDecodeStep is FarmDecodeStep
    with pytest.raises(AttributeError, match="module 'vaefarm_producer' has no attribute 'FarmVae'"):
        vaefarm_producer.FarmVae  # noqa: B018
