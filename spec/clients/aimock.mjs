// aimock (npm) as an upstream that nobody here wrote. Prints { url } once it listens; the model's name says what it does.
// A line on stdin asks: "journal" prints what it has served, "clear" forgets that; the end of stdin ends it.
//   --central   also answers the probes of a control plane: HEAD /api/v1/llms/NAME, 204, 403 for a name that ends in
//               "-closed"
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Its ES modules name what Node 18 does not export; what CommonJS does not use is never asked for.
const { LLMock } = createRequire(import.meta.url)("@copilotkit/aimock");

const [said] = process.argv.slice(2).filter((word) => !word.startsWith("--"));
const mock = new LLMock({ port: 0 });
const text = `${said} said this, a few words at a time, and then it was done.`;
const when = (model, response, options) => mock.on({ model: new RegExp(`^${model}(-closed)?$`) }, response, options);

// Embeddings are asked of any other name.
when("up", { content: text });
when("reasoning", { content: text, reasoning: "Let me think about that first." });
when("tool", { toolCalls: [{ name: "get_weather", arguments: { city: "Bern", days: [] } }] });
when("drip", { content: text }, { chunkSize: 4, latency: 40 });
when("physics", { content: text }, { chunkSize: 8, streamingProfile: { ttft: 200, tps: 50, jitter: 0 } });
when("slow", { content: text }, { chaos: { latencyMs: 5000 } });
when("limited", { content: text }, { chaos: { rateLimitRate: 1 } });
when("malformed", { content: text }, { chaos: { malformedRate: 1 } });
when("dropped", { content: text }, { chaos: { dropRate: 1 } });
when("disconnects", { content: text }, { chaos: { disconnectRate: 1 } });
when("cut-early", { content: text }, { chunkSize: 4, latency: 20, truncateAfterChunks: 1 });
when("cut-late", { content: text }, { chunkSize: 4, latency: 20, truncateAfterChunks: 5 });
when("cut-later", { content: text }, { chunkSize: 4, latency: 20, truncateAfterChunks: 9 });
when("cut-in-time", { content: text }, { chunkSize: 4, latency: 40, disconnectAfterMs: 300 });
when("refuses", { error: { message: "the context is too long", type: "invalid_request_error",
  code: "context_length_exceeded" }, status: 400 });
when("overloaded", { error: { message: "overloaded", type: "overloaded_error" }, status: 529 });
mock.on({ model: /^local-/ }, { error: { message: "no capacity", type: "overloaded_error" }, status: 503 });
mock.onEmbedding(/.*/, { embedding: [0.25, -0.5, 1e-7] });

if (process.argv.includes("--central")) {
  mock.mount("/api/v1/llms", {
    async handleRequest(request, response, path) {
      response.writeHead(path.endsWith("-closed") ? 403 : 204);
      response.end();
      return true;
    },
  });
}

await mock.start();
console.log(JSON.stringify({ url: mock.url }));
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "clear") mock.clearRequests();
  const journal = mock.getRequests().map(({ method, path, headers, body, response }) => ({ method, path,
    authorization: headers.authorization ?? null, model: body?.model ?? null, stream: body?.stream ?? false,
    status: response.status }));
  console.log(JSON.stringify({ journal }));
}
await mock.stop();
process.exit(0);
