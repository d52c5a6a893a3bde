// The official OpenAI client for Node against `outrider serve`: streamed and not, and its errors.
//
//     npm install openai
//     outrider serve --http 127.0.0.1:8080 &
//     node tests/clients/openai_client.mjs http://127.0.0.1:8080/v1 [API_KEY]

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey = "none"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const model = (await client.models.list()).data[0].id;
const asked = { model, prompt: "ROMEO:", max_tokens: 64, seed: 7, temperature: 0.8 };
const whole = await client.completions.create(asked);
assert.equal(whole.choices[0].finish_reason, "length");
assert.equal(whole.usage.completion_tokens, 64);

let text = "";
let usage;
const stream = await client.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.text ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].text);
assert.equal(usage.completion_tokens, 64);

await assert.rejects(client.completions.create({ ...asked, temperature: -1 }), (error) => {
  assert(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "temperature");
  return true;
});

const aborted = await client.completions.create({ ...asked, max_tokens: 1500, stream: true });
for await (const _ of aborted) break;

console.log("openai for node: all is well");
