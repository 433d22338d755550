import Anthropic from "@anthropic-ai/sdk";
import { base, messages, run, token } from "./cases.mjs";

// This client adds /v1 itself, and sends its key as x-api-key.
const client = new Anthropic({ baseURL: base.replace(/\/v1$/, ""), apiKey: token, maxRetries: 0 });
const request = (model) => ({ model, messages, max_tokens: 64 });

await run({
  async plain(model, signal) {
    const reply = await client.messages.create(request(model), { signal });
    return reply.content[0].text;
  },
  async *stream(model, signal) {
    const events = await client.messages.create({ ...request(model), stream: true }, { signal });
    for await (const event of events) if (event.type === "content_block_delta") yield event.delta.text;
  },
});
