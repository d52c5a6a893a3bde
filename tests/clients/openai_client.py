"""The official OpenAI client against `outrider serve`: streamed and not, errors, and the same text each time.

    pip install openai
    outrider serve --http 127.0.0.1:8080 &
    python tests/clients/openai_client.py http://127.0.0.1:8080/v1 [API_KEY]
"""

import sys

import openai

base_url, api_key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "none"
client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

asked = dict(model=model, prompt="ROMEO:", max_tokens=64, seed=7, temperature=0.8)
whole = client.completions.create(**asked)
assert whole.choices[0].finish_reason == "length", whole
assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 64), whole.usage
alone = client.completions.create(**asked, extra_body={"gamma": 0})
assert alone.choices[0].text == whole.choices[0].text, "speculation changes nothing"
assert whole.metrics["speculative_decoding"]["num_draft_tokens"] > 0

chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
assert chunks[-1].usage.completion_tokens == 64 and len(chunks) > 5

several = client.completions.create(**asked, n=3)
assert [choice.index for choice in several.choices] == [0, 1, 2]
assert several.choices[0].text == whole.choices[0].text
assert len({choice.text for choice in several.choices}) == 3

stopped = client.completions.create(**{**asked, "stop": whole.choices[0].text[20:24]})
assert stopped.choices[0].finish_reason == "stop"
assert whole.choices[0].text.startswith(stopped.choices[0].text)

penalised = client.completions.create(**asked, frequency_penalty=1.0, presence_penalty=0.5)
assert penalised.choices[0].text != whole.choices[0].text

told = client.completions.create(**asked, logprobs=3).choices[0].logprobs
assert "".join(told.tokens) == whole.choices[0].text and len(told.token_logprobs) == 64
assert all(3 <= len(top) <= 4 for top in told.top_logprobs)

for wrong, field in [(dict(temperature=-1), "temperature"), (dict(max_tokens=0), "max_tokens"), (dict(logprobs=21), "logprobs")]:
    try:
        client.completions.create(**{**asked, **wrong})
        raise SystemExit(f"{wrong} was taken")
    except openai.BadRequestError as error:
        assert error.param == field, error
try:
    client.completions.create(**{**asked, "model": "another"})
    raise SystemExit("another model was taken")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Good morrow."}])
    print("chat: answered")
except openai.BadRequestError as error:
    assert error.param == "messages", error
    print("chat: refused, as the model has no chat template")
print("openai", openai.__version__, "all is well")
