"""From a tensor and options to a checked job; what jobs of one kind have in common is checked once."""

from typing import Any, cast

import numpy as np
import pytest

from vaefarm_producer.submission import PreparedJob, SubmitOptions, prepare
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import InvalidLatents, InvalidOption

ARRAY = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)


def prepared(array: Any = ARRAY, **options: Any) -> PreparedJob:
    contract = Catalogue.load()["demo"].contract
    assert contract is not None
    return prepare(array, "demo", contract, None, cast("SubmitOptions", options))


def test_jobs_of_one_kind_differ_by_id_and_by_the_digest_of_their_latents() -> None:
    one, same, other = prepared(), prepared(), prepared(-ARRAY)

    assert len({one.spec.id, same.spec.id, other.spec.id}) == 3
    assert one.spec.request_hash == same.spec.request_hash != other.spec.request_hash
    again = {"id": one.spec.id, "request_hash": one.spec.request_hash}
    assert other.spec.model_copy(update=again) == one.spec


def test_an_option_of_another_type_is_checked_though_it_is_equal() -> None:
    assert prepared(scaling_factor=1.0).spec.scaling_factor == 1.0
    with pytest.raises(InvalidOption, match="scaling_factor"):
        prepared(scaling_factor=True)


def test_metadata_that_may_be_embedded_are_the_same_job_as_where_nothing_is_said_of_it() -> None:
    hashes = [
        prepared(metadata={"prompt": "a cat"}, **more).spec.request_hash
        for more in ({}, {"embed_metadata": True}, {"embed_metadata": False})
    ]

    assert hashes[0] == hashes[1] != hashes[2]


def test_metadata_which_are_no_key_are_taken_as_they_are() -> None:
    assert prepared(metadata={"prompt": "a cat"}).spec.metadata == {"prompt": "a cat"}
    assert prepared(metadata={"prompt": "a dog"}).spec.metadata == {"prompt": "a dog"}
    with pytest.raises(InvalidOption, match="metadata"):
        prepared(metadata=["prompt"])


def test_values_are_looked_at_each_time() -> None:
    prepared()
    broken = ARRAY.copy()
    broken[0, 0, 0, 0] = np.inf
    with pytest.raises(InvalidLatents, match="NaN or Inf"):
        prepared(broken)
