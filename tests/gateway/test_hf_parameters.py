"""What requests of the Hugging Face protocol say: lenient where clients differ, strict in what makes a picture."""

import pytest
from multidict import MultiDict

from vaefarm_producer.gateway.hf_parameters import from_query, parameters, scaling
from vaefarm_shared.errors import InvalidOption


@pytest.mark.parametrize(
    ("said", "silent", "choice", "options"),
    [
        # facts of the client, section 2.4: what it sends for each of its arguments
        ({"scaling_factor": "0.18215"}, "none", "explicit", {"scaling_factor": 0.18215}),
        (
            {"scaling_factor": "0.3611", "shift_factor": "0.1159"},
            "none",
            "explicit",
            {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        ),
        ({"do_scaling": "True"}, "none", "model", {}),
        ({}, "none", "none", {"normalised": False}),
        # earlier clients, and servers that are told otherwise
        ({}, "model", "model", {}),
        ({"do_scaling": "False"}, "model", "none", {"normalised": False}),
        ({"do_scaling": "false"}, "none", "none", {"normalised": False}),
        ({"do_scaling": "1"}, "none", "model", {}),
        ({"do_scaling": True}, "none", "model", {}),
        ({"scaling_factor": "1e-07"}, "model", "explicit", {"scaling_factor": 1e-07}),
        # factors win over the flag, whichever way that points
        ({"scaling_factor": "2", "do_scaling": "False"}, "none", "explicit", {"scaling_factor": 2.0}),
        ({"scaling_factor": "2", "do_scaling": "True"}, "none", "explicit", {"scaling_factor": 2.0}),
        # what clients write for nothing
        ({"scaling_factor": "None", "shift_factor": "", "do_scaling": "null"}, "none", "none", {"normalised": False}),
    ],
)
def test_factors_win_then_the_flag_then_what_silence_means(said, silent, choice, options) -> None:
    found = scaling(parameters(said), silent)
    assert (found.choice, found.options) == (choice, options)


@pytest.mark.parametrize(
    "said",
    [
        {"scaling_factor": "0"},
        {"scaling_factor": "nan"},
        {"scaling_factor": "inf"},
        {"scaling_factor": "-Infinity"},
        {"scaling_factor": "large"},
        {"scaling_factor": "1", "shift_factor": "nan"},
        {"shift_factor": "0.1"},
        {"shift_factor": "0.1", "do_scaling": "True"},
    ],
)
def test_factors_that_scale_nothing_sensible_are_refused(said) -> None:
    with pytest.raises(InvalidOption, match="factor"):
        scaling(parameters(said), "none")


@pytest.mark.parametrize(
    "query",
    [
        [("shape", "1"), ("shape", "4"), ("shape", "8"), ("shape", "8")],
        [("shape", "1,4,8,8")],
        [("shape", "[1, 4, 8, 8]")],
    ],
)
def test_a_shape_is_read_in_each_way_that_clients_write_it(query) -> None:
    assert parameters(from_query(MultiDict(query))).shape == (1, 4, 8, 8)


def test_a_shape_given_once_is_one_of_one_dimension() -> None:
    assert parameters(from_query(MultiDict({"shape": "5"}))).shape == (5,)


def test_height_and_width_count_for_packed_latents_alone() -> None:
    wrong = {"height": "-1", "width": "many"}
    for shape in ([1, 4, 8, 8], [1, 16, 3, 8, 8]):
        assert parameters({"shape": shape, **wrong}).height is None
    assert parameters({"shape": [1, 16, 64], "height": "64", "width": "64"}).width == 64
    with pytest.raises(InvalidOption, match="height"):
        parameters({"shape": [1, 16, 64], **wrong})


def test_parameters_that_nobody_knows_are_left_aside() -> None:
    query = MultiDict({"input_tensor_type": "binary", "output_tensor_type": "binary", "return_type": "np"})
    assert parameters(from_query(query)).model_fields_set == set()


@pytest.mark.parametrize(
    "said",
    [
        {"shape": ["1", "four"]},
        {"shape": [1.5]},
        {"shape": {"a": 1}},
        {"shape": ["9" * 5000]},
        {"shape": list(range(1, 20))},
        {"dtype": "float64"},
        {"output_type": "latent"},
        {"image_format": "gif"},
        {"partial_postprocess": "perhaps"},
    ],
)
def test_what_cannot_be_is_refused_by_name(said) -> None:
    with pytest.raises(InvalidOption, match=next(iter(said))):
        parameters(said)


def test_what_is_given_twice_is_refused_but_for_the_shape() -> None:
    with pytest.raises(InvalidOption, match="dtype was given 2 times"):
        from_query(MultiDict([("dtype", "float16"), ("dtype", "float32")]))
