// Load on `outrider serve` by k6: completions of 128 tokens from VUS clients for DURATION.
//
//     k6 run --no-usage-report -e URL=http://127.0.0.1:8080 -e VUS=16 -e DURATION=30s tests/clients/k6.js

import http from "k6/http";
import { check } from "k6";
import { Counter, Trend } from "k6/metrics";

export const options = {
  vus: Number(__ENV.VUS || 16),
  duration: __ENV.DURATION || "30s",
  summaryTrendStats: ["med", "p(99)", "max"],
  thresholds: { checks: ["rate==1"] },
};

const tokens = new Counter("tokens");
const toFirstToken = new Trend("time_to_first_token", true);

export default function () {
  const body = { prompt: "ROMEO:", max_tokens: 128, temperature: 0.8, seed: __VU * 100000 + __ITER };
  const headers = { "content-type": "application/json" };
  const answer = http.post(`${__ENV.URL}/v1/completions`, JSON.stringify(body), { headers });
  const whole = answer.status === 200 && answer.json();
  check(answer, { "128 tokens": () => whole && whole.usage.completion_tokens === 128 });
  if (whole) {
    tokens.add(whole.usage.completion_tokens);
    toFirstToken.add(whole.metrics.time_to_first_token_s * 1000);
  }
}
