"""Bodies of requests: what is read, and the sentence for what is refused."""

import json
from typing import Any

import pytest

from spdf_keras.serving.protocol import (
    CompletionRequest,
    RequestError,
    parse_request,
)


def test_all_fields_of_a_request_are_read() -> None:
    body = {
        "model": "s75",
        "prompt": [[1, 2], [3]],
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "n": 2,
        "seed": 7,
        "stop": ["a", "b"],
        "logprobs": 3,
        "echo": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "separator": True,
        "user": "somebody",
    }
    assert parse_request(json.dumps(body).encode()) == CompletionRequest(
        prompts=((1, 2), (3,)),
        model="s75",
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        n=2,
        seed=7,
        stop=("a", "b"),
        logprobs=3,
        echo=True,
        stream=True,
        include_usage=True,
        separator=True,
    )


def test_null_and_values_that_change_nothing_are_accepted() -> None:
    body: dict[str, Any] = {
        "prompt": "The",
        "seed": None,
        "stop": None,
        "best_of": 1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "suffix": None,
    }
    request = parse_request(json.dumps(body).encode())
    assert request == CompletionRequest(prompts=("The",))


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]], None])
def test_a_prompt_has_four_forms(prompt: Any) -> None:
    assert parse_request(json.dumps({"prompt": prompt}).encode()).prompts


@pytest.mark.parametrize(
    "fields, param, sentence",
    [
        ({"best_of": 2}, "best_of", "`best_of` is not supported by this server."),
        ({"logit_bias": {"5": 1}}, "logit_bias", "is not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "is not supported"),
        ({"suffix": "x"}, "suffix", "is not supported"),
        ({"top_k": 5}, "top_k", "Unknown field `top_k`. Known here: model, prompt"),
        ({"max_tokens": -1}, "max_tokens", "from 0 to 2147483647. Received: -1."),
        ({"max_tokens": "5"}, "max_tokens", "must be int. Received: '5'."),
        ({"max_tokens": True}, "max_tokens", "must be int. Received: True."),
        ({"temperature": 2.5}, "temperature", "from 0 to 2. Received: 2.5."),
        ({"temperature": float("nan")}, "temperature", "Received: nan."),
        ({"top_p": 0}, "top_p", "above 0 and at most 1. Received: 0."),
        ({"n": 0}, "n", "from 1 to 128"),
        ({"seed": -1}, "seed", "from 0 to"),
        ({"seed": 10**400}, "seed", "from 0 to"),
        ({"logprobs": 6}, "logprobs", "from 0 to 5. Received: 6."),
        ({"logprobs": True}, "logprobs", "must be int"),
        ({"echo": "yes"}, "echo", "must be bool"),
        ({"stream_options": True}, "stream_options", "must be an object"),
        ({"stop": ["a"] * 5}, "stop", "at most 4 texts"),
        ({"stop": ""}, "stop", "of 1 to 256 characters"),
        ({"prompt": {}}, "prompt", "must be a text, a list of texts"),
        ({"prompt": []}, "prompt", "Received: []."),
        ({"prompt": [1, "a"]}, "prompt", "must be a text"),
        ({"prompt": [1.5]}, "prompt", "must be a text"),
        ({"prompt": [True]}, "prompt", "must be a text"),
        ({"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),
    ],
)
def test_a_wrong_field_is_named(
    fields: dict[str, Any], param: str, sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(json.dumps(fields).encode())
    assert sentence in str(caught.value)
    error = caught.value.document()["error"]
    assert (caught.value.status, error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error" and error["code"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x'],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="The body must be"):
        parse_request(body)
