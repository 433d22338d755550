import OpenAI from "openai";
import { base, run, token } from "./cases.mjs";

const client = new OpenAI({ baseURL: base, apiKey: token, maxRetries: 0 });

await run({
  async plain(model, signal) {
    const reply = await client.responses.create({ model, input: "hi" }, { signal });
    return reply.output_text;
  },
  async *stream(model, signal) {
    const events = await client.responses.create({ model, input: "hi", stream: true }, { signal });
    for await (const event of events) {
      if (event.type === "error") throw Object.assign(new Error(event.message), { name: "StreamError" });
      if (event.type === "response.output_text.delta") yield event.delta;
    }
  },
});
