"""A real server on loopback: answers, refusals, streams, and clients that leave."""

import contextlib
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving_site import TEXT, Site, until

from spdf_keras.errors import InputError
from spdf_keras.serving.page import page
from spdf_keras.serving.server import describe, name_runs, open_port


def test_the_runs_are_models(site: Site) -> None:
    status, text = site.get("/v1/models")
    assert status == 200
    assert [row["id"] for row in json.loads(text)["data"]] == ["dense", "sparse"]
    assert json.loads(site.get("/v1/models/sparse")[1]) == {"id": "sparse"}
    assert site.get("/v1/models/none")[0] == 404
    assert site.get("/healthz") == (200, '{"status":"ok"}')


def test_a_completion_is_that_of_generate(
    site: Site, models: dict[str, Any], table: Any
) -> None:
    ids = table.tokenizer.encode("The harbour")
    for name, model in models.items():
        status, answer = site.post(
            {"model": name, "prompt": "The harbour", "temperature": 0, "max_tokens": 9}
        )
        [tokens] = model.generate(
            [ids], max_new_tokens=9, end_token_ids=table.tokenizer.end_token_id
        )
        [choice] = answer["choices"]
        assert status == 200 and answer["model"] == name
        assert choice["text"] == table.tokenizer.decode(tokens)
        assert choice["logprobs"] is None and choice["finish_reason"] == "length"
        assert answer["usage"] == {
            "prompt_tokens": len(ids),
            "completion_tokens": 9,
            "total_tokens": len(ids) + 9,
        }


def test_choices_are_ordered_by_prompt_and_equal_seeds_give_equal_texts(
    site: Site, models: dict[str, Any], table: Any
) -> None:
    body = {
        "model": "dense",
        "prompt": ["The ", "A café"],
        "n": 3,
        "seed": 5,
        "temperature": 0.9,
        "max_tokens": 6,
    }
    answer = site.post(body)[1]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    rows = [table.tokenizer.encode(text) for text in ("The ", "A café") for _ in "abc"]
    tokens = models["dense"].generate(
        rows,
        max_new_tokens=6,
        end_token_ids=table.tokenizer.end_token_id,
        sample=True,
        seed=5,
        temperature=0.9,
    )
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [table.tokenizer.decode(row) for row in tokens]
    assert [choice["text"] for choice in site.post(body)[1]["choices"]] == texts
    other = site.post({**body, "seed": 6})[1]["choices"]
    assert [choice["text"] for choice in other] != texts


def test_a_stream_has_the_same_text_and_tokens_as_one_answer(site: Site) -> None:
    body = {
        "model": "sparse",
        "prompt": TEXT[:20],
        "n": 2,
        "seed": 1,
        "logprobs": 2,
        "echo": True,
        "max_tokens": 12,
        "stream_options": {"include_usage": True},
    }
    whole = site.post(body)[1]
    events = site.stream(body)
    assert events.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [
            event["choices"][0]
            for event in events
            if event["choices"][0]["index"] == choice["index"]
        ]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for key, values in choice["logprobs"].items():
            assert sum((part["logprobs"][key] for part in parts), []) == values
        reasons = [part["finish_reason"] for part in parts]
        assert reasons == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        assert choice["text"].startswith(TEXT[:20])
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert choice["logprobs"]["text_offset"][0] == 0


def test_a_stop_string_ends_a_text_before_it(site: Site) -> None:
    body = {"model": "dense", "prompt": "The", "temperature": 0, "max_tokens": 20}
    text = site.post(body)[1]["choices"][0]["text"]
    stop = text[7:9]
    [choice] = site.post({**body, "stop": ["never", stop]})[1]["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_a_closed_prompt_ends_with_the_end_of_text_token(
    site: Site, models: dict[str, Any], table: Any
) -> None:
    body = {"model": "dense", "prompt": "The", "temperature": 0, "max_tokens": 5}
    end = table.tokenizer.end_token_id
    [tokens] = models["dense"].generate(
        [[*table.tokenizer.encode("The"), end]], max_new_tokens=5, end_token_ids=end
    )
    expected = table.tokenizer.decode(tokens).split("\n\n")[0]
    [choice] = site.post({**body, "separator": True})[1]["choices"]
    assert choice["text"] == expected
    [empty] = site.post({**body, "prompt": ""})[1]["choices"]
    assert empty == site.post({**body, "prompt": [end]})[1]["choices"][0]


@pytest.mark.parametrize(
    "fields, status, sentence",
    [
        ({"model": "none"}, 404, "`model` must be one of 'dense', 'sparse'."),
        ({"model": None}, 404, "Received: none."),
        ({"prompt": [1] * 60}, 400, "context of 64 tokens. Received: 60 tokens"),
        ({"prompt": [320]}, 400, "must be in [0, 320). Received: 320 to 320."),
        ({"prompt": [[-1]]}, 400, "Received: -1 to -1."),
        ({"n": 13}, 400, "at most 12 completions, the length of the queue."),
        ({"best_of": 3}, 400, "`best_of` is not supported"),
        ({"prompt": "a" * 30_000}, 413, "at most 20000 bytes"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_in_one_sentence(
    site: Site, fields: dict[str, Any], status: int, sentence: str
) -> None:
    found, answer = site.post({"model": "dense", "prompt": "The", **fields})
    assert found == status and sentence in answer["error"]["message"]
    assert answer["error"].keys() == {"message", "type", "param", "code"}


def test_bodies_and_addresses_that_are_wrong_are_refused_as_json(site: Site) -> None:
    assert site.post(b"{")[0] == 400
    assert site.post(b"[]")[1]["error"]["type"] == "invalid_request_error"
    status, answer = site.post({"prompt": "a"}, **{"Content-Type": "text/plain"})
    assert status == 400 and "must be 'application/json'" in answer["error"]["message"]
    for path in ("/v1/completions", "/docs", "/v1/chat/completions"):
        status, text = site.get(path)
        assert status in (404, 405) and "error" in json.loads(text)


def test_a_body_in_parts_is_limited_too(site: Site) -> None:
    with contextlib.closing(site.connect()) as connection:
        connection.request(
            "POST",
            "/v1/completions",
            iter([b" " * 5000] * 6),
            {"Content-Type": "application/json"},
            encode_chunked=True,
        )
        assert connection.getresponse().status == 413


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_a_body_that_does_not_come_is_given_up(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), 30) as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_frees_its_slots(site: Site) -> None:
    engine = site.runs["dense"].engine
    for stream in (False, True):
        before = engine.counts.cancelled
        # 12 continuations of 60 tokens, of which 4 have a slot.
        body = {"model": "dense", "prompt": "", "n": 12, "max_tokens": 60}
        content = json.dumps({**body, "stream": stream, "seed": 1}).encode()
        length = f"Content-Length: {len(content)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", site.port), 30) as client:
            client.sendall(HEAD + length + content)
            until(lambda: engine.active)
        until(lambda: not engine.active and not engine.waiting)
        assert engine.counts.cancelled > before
    # A body that is cut off is nobody's error but the client's.
    with socket.create_connection(("127.0.0.1", site.port), 30) as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert site.post({"model": "dense", "prompt": "The", "max_tokens": 1})[0] == 200


def test_a_full_queue_is_answered_with_429(site: Site) -> None:
    body = {"model": "sparse", "prompt": "", "n": 12, "max_tokens": 60}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(site.post, [body] * 6))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    full = next(answer for status, answer in answers if status == 429)
    assert full["error"]["type"] == "rate_limit_error"
    assert "The queue of 'sparse' is full: 12 completions wait." in str(full)


def test_many_clients_get_what_each_gets_alone(site: Site) -> None:
    bodies = [
        {
            "model": ("dense", "sparse")[number % 2],
            "prompt": TEXT[: 1 + 3 * number],
            "max_tokens": 5 + number % 7,
            "temperature": (0, 0.7)[number % 3 == 0],
            "seed": number,
        }
        for number in range(10)
    ]

    def texts(body: Any) -> Any:
        status, answer = site.post(body)
        assert status == 200
        return answer["choices"]

    alone = [texts(body) for body in bodies]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(texts, bodies)) == alone


def test_metrics_are_in_the_format_of_prometheus(site: Site) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def values() -> dict[str, float]:
        families = text_string_to_metric_families(site.get("/metrics")[1])
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("run") == "dense"
            and sample.labels.get("status", "200") == "200"
            and "le" not in sample.labels
        }

    site.post({"model": "dense", "prompt": "", "max_tokens": 1})
    before = values()
    site.post({"model": "dense", "prompt": [1, 2, 3], "max_tokens": 4, "n": 2})
    after = values()
    gained = {name: after[name] - before[name] for name in before}
    assert gained["spdf_requests_total"] == 1
    assert gained["spdf_prompt_tokens_total"] == 6
    assert gained["spdf_tokens_total"] <= 8
    assert gained["spdf_request_seconds_count"] == 1
    assert after["spdf_slots"] == 4 and after["spdf_waiting"] == 0


def test_the_page_runs_its_own_script_alone(site: Site) -> None:
    with contextlib.closing(site.connect()) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        text = response.read().decode()
    policy = response.getheader("Content-Security-Policy", "")
    assert "default-src 'none'; script-src 'sha256-" in policy
    # No foreign address, and nothing that reads a model's text as HTML.
    assert not re.findall(r"https?:|//\w|@import|url\(", text.replace("// ", ""))
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
        assert name not in text
    assert not re.findall(r"\son\w+=|\sstyle=", text)
    assert page()[0].decode() == text


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with open_port("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(
            InputError, match=f"port={port} of 127.0.0.1, which another"
        ):
            open_port("127.0.0.1", port)
    open_port("127.0.0.1", port).close()


def test_an_address_that_is_not_ours_is_refused() -> None:
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(InputError, match="must be an address of this machine"):
            open_port(host, 0)
    with pytest.raises(InputError, match="`port` must be from 0 to 65535"):
        open_port("127.0.0.1", 70_000)


def test_runs_are_named_by_their_folders_or_as_one_says(tmp_path: Any) -> None:
    equal = tmp_path / "a=b"
    equal.mkdir()
    named = name_runs(["runs/s75/", "base=runs/dense", str(equal)])
    assert list(named) == ["s75", "base", "a=b"]
    with pytest.raises(InputError, match="Received: 's75' for 'other/s75' as well."):
        name_runs(["runs/s75", "other/s75"])
    with pytest.raises(InputError, match="must have a name of its own"):
        name_runs(["=runs/s75"])


def test_a_run_is_described_for_people(models: dict[str, Any]) -> None:
    model = models["dense"]
    assert describe(model, 0.0, {}).endswith("M parameters, dense")
    tuned = describe(model, 0.75, {"kind": "finetune"})
    assert tuned.endswith("75 % sparsity in pre-training, fine-tuned densely")


def test_the_official_client_can_talk_to_it(site: Site) -> None:
    openai = pytest.importorskip("openai", reason="the client is an extra of tests")
    url = f"http://127.0.0.1:{site.port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["dense", "sparse"]
        assert client.models.retrieve("dense").id == "dense"
        options: dict[str, Any] = {
            "model": "dense",
            "prompt": "The",
            "max_tokens": 8,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
            "n": 2,
            "logprobs": 2,
            "echo": True,
            "stop": ["\n"],
        }
        whole = client.completions.create(**options)
        assert len(whole.choices) == 2 and whole.usage.prompt_tokens > 0
        texts = ["", ""]
        for part in client.completions.create(**options, stream=True):
            for choice in part.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]
        assert len(whole.choices[0].logprobs.tokens) > 1
        with pytest.raises(openai.NotFoundError, match="`model` must be one of"):
            client.completions.create(model="none", prompt="The")
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{**options, "best_of": 4})
        assert caught.value.param == "best_of"
        with pytest.raises(openai.BadRequestError, match="context of 64 tokens"):
            client.completions.create(**{**options, "max_tokens": 64})


def test_a_client_that_closes_its_stream_frees_its_slot(site: Site) -> None:
    openai = pytest.importorskip("openai", reason="the client is an extra of tests")
    engine = site.runs["dense"].engine
    url = f"http://127.0.0.1:{site.port}/v1"
    before = threading.active_count()
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model="dense", prompt="The", max_tokens=55, n=4, seed=0, stream=True
        )
        next(iter(stream))
        stream.close()
        until(lambda: not engine.active and not engine.waiting)
    assert threading.active_count() <= before + 1
